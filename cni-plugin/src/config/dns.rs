//! DNS settings for the result: the plugin reports them and sets nothing up.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{bad, keys};
use crate::error::Error;
use culvert_node::bounded_file;

/// Longest resolver configuration that is read.
const LIMIT_BYTES: u64 = 64 << 10;

/// Members of what a result says of DNS: lists of strings, and one string.
const MEMBERS: [&str; 4] = ["nameservers", DOMAIN, "search", "options"];
const DOMAIN: &str = "domain";

/// Members of `runtimeConfig.dns`, and what a result calls them.
pub(super) const CAPABILITY_MEMBERS: [(&str, &str); 3] =
    [("servers", "nameservers"), ("searches", "search"), ("options", "options")];

/// The DNS settings: of the runtime, else of the network, else of the file that `ipam` names.
pub(super) fn read(
    rest: &Map<String, Value>,
    runtime: &Map<String, Value>,
    ipam: &Map<String, Value>,
) -> Result<Option<Value>, Error> {
    if let Some(dns) = keys::object("runtimeConfig.", runtime, "dns")?
        && !dns.is_empty()
    {
        let known = CAPABILITY_MEMBERS.map(|(key, _)| key);
        keys::refuse_members(
            "runtimeConfig.dns",
            dns,
            &known,
            "the capability has no such member",
        )?;
        let mut found = Map::new();
        for (key, name) in CAPABILITY_MEMBERS {
            if let Some(value) = dns.get(key).filter(|value| !value.is_null()) {
                check_texts(&format!("runtimeConfig.dns.{key}"), value)?;
                found.insert(name.to_owned(), value.clone());
            }
        }
        return Ok(Some(Value::Object(found)));
    }
    if let Some(dns) = keys::object("", rest, "dns")?
        && !dns.is_empty()
    {
        keys::refuse_members("dns", dns, &MEMBERS, "a result has no such member; remove it")?;
        check_members("dns", dns)?;
        return Ok(Some(Value::Object(dns.clone())));
    }
    let path = keys::text("ipam.", ipam, "resolvConf")?;
    path.map(resolv_conf).transpose()
}

/// Refuses members of the wrong kind.
pub(crate) fn check_members(path: &str, dns: &Map<String, Value>) -> Result<(), Error> {
    for key in MEMBERS {
        let Some(value) = dns.get(key).filter(|value| !value.is_null()) else {
            continue;
        };
        let path = format!("{path}.{key}");
        if key != DOMAIN {
            check_texts(&path, value)?;
        } else if !value.is_string() {
            return Err(bad(&path, value, "needs to be a string"));
        }
    }
    Ok(())
}

fn check_texts(key: &str, value: &Value) -> Result<(), Error> {
    let is_good = value.as_array().is_some_and(|values| values.iter().all(Value::is_string));
    if is_good { Ok(()) } else { Err(bad(key, value, "needs to be a list of strings")) }
}

/// Reads a file as the resolver does: resolv.conf(5).
fn resolv_conf(path: &str) -> Result<Value, Error> {
    let wrong = |remedy: String| bad("ipam.resolvConf", &Value::String(path.to_owned()), &remedy);
    let text = bounded_file::read_text(Path::new(path), LIMIT_BYTES)
        .map_err(|error| wrong(format!("name a regular text file that can be read ({error})")))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Value {
    let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let mut domain = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next()),
            Some("domain") => domain = words.next().or(domain),
            // The last list counts.
            Some("search") => search = words.collect(),
            Some("options") => options.extend(words),
            _ => {}
        }
    }
    let mut found = Map::new();
    for (name, values) in [("nameservers", servers), ("search", search), ("options", options)] {
        if !values.is_empty() {
            found.insert(name.to_owned(), json!(values));
        }
    }
    found.extend(domain.map(|domain| ("domain".to_owned(), json!(domain))));
    Value::Object(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_configuration_is_read_as_the_resolver_does() {
        let text = "# comment\nnameserver 10.96.0.10\nnameserver fd00::a # first\ndomain a.example\n\
                    search x y\nsearch b.example c.example\noptions ndots:5 edns0\nsortlist 1\n";
        let expected = json!({
            "nameservers": ["10.96.0.10", "fd00::a"],
            "domain": "a.example",
            "search": ["b.example", "c.example"],
            "options": ["ndots:5", "edns0"],
        });
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), json!({}));
    }
}
