//! What names, labels and ports may look like, as an API server checks it.

/// Longest label value, and longest name of a label without its prefix.
const LABEL_LEN: usize = 63;

/// Longest name of an object, and longest prefix of a label.
const SUBDOMAIN_LEN: usize = 253;

/// Longest name of a port.
const PORT_NAME_LEN: usize = 15;

/// Whether it is letters, digits and `inner`, with a letter or digit at each end.
fn is_word(text: &str, inner: &[u8], is_letter: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| is_letter(*byte));
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| is_letter(*byte) || inner.contains(byte))
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_any(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Whether it can be the name of a namespace (RFC 1123, a label).
pub(super) fn is_namespace(name: &str) -> bool {
    name.len() <= LABEL_LEN && is_word(name, b"-", is_lower)
}

/// Whether it can be the name of an object (RFC 1123, a subdomain).
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= SUBDOMAIN_LEN && name.split('.').all(|part| is_word(part, b"-", is_lower))
}

/// Whether it can be the key of a label.
pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_name) && name.len() <= LABEL_LEN && is_word(name, b"-_.", is_any)
}

/// Whether it can be the value of a label.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || value.len() <= LABEL_LEN && is_word(value, b"-_.", is_any)
}

/// Whether it can be the name of a port (RFC 6335, a service name).
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= PORT_NAME_LEN
        && is_word(name, b"-", is_lower)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_an_api_server() {
        assert!(is_namespace("a-1") && !is_namespace("a.b") && !is_namespace("-a"));
        assert!(is_name("a.b-c") && !is_name("a..b") && !is_name("A") && !is_name(""));
        assert!(is_label_key("example.com/A_b.c") && is_label_key("app"));
        assert!(!is_label_key("/a") && !is_label_key("a/b/c") && !is_label_key("a/"));
        assert!(is_label_value("") && is_label_value("A.b") && !is_label_value("a "));
        assert!(!is_label_value(&"a".repeat(64)));
        assert!(is_port_name("http-2") && is_port_name("2a"));
        assert!(!is_port_name("80") && !is_port_name("a--b") && !is_port_name("sixteen-letters-"));
    }
}
