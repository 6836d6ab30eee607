//! What the container runtime says in environment variables.
//!
//! Owns reading and checking them, through a look-up that the caller passes, so that no test has to
//! change the process's environment. Nothing else in the plugin reads the environment.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::{Error, shorten};
use culvert_node::attachment::{InvalidName, check_identifier, check_ifname};
use culvert_node::pod_admission::PodName;
use culvert_node::pod_mac;
use overlay_proto::Mac;

/// Looks an environment variable up.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A verb of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [Self; 6] =
        [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status, Self::Version];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Reads `CNI_COMMAND`; `None` when a person started the program by hand.
    pub(crate) fn read(variables: Variables<'_>) -> Result<Option<Self>, Error> {
        let Some(value) = text(variables, "CNI_COMMAND")? else {
            return Ok(None);
        };
        let known = Self::ALL.into_iter().find(|verb| verb.as_str() == value);
        known.map(Some).ok_or_else(|| Error::BadEnvironment {
            name: "CNI_COMMAND",
            value: shorten(&value),
            remedy: format!("this plugin knows {}", Self::ALL.map(Self::as_str).join(", ")),
        })
    }
}

/// Which interface of which container a verb is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) container: String,
    pub(crate) ifname: String,
    /// Path of the pod's network namespace; DEL may come without.
    pub(crate) netns: Option<PathBuf>,
}

impl Target {
    /// Reads the variables that `command` needs.
    pub(crate) fn read(command: Command, variables: Variables<'_>) -> Result<Self, Error> {
        let container = text(variables, "CNI_CONTAINERID")?;
        let ifname = text(variables, "CNI_IFNAME")?;
        // A path is bytes, not text.
        let netns = variables("CNI_NETNS").filter(|path| !path.is_empty());
        let netns_is_missing = netns.is_none() && command != Command::Del;
        let (Some(container), Some(ifname), false) = (&container, &ifname, netns_is_missing) else {
            let mut names = Vec::new();
            if container.is_none() {
                names.push("CNI_CONTAINERID");
            }
            if netns_is_missing {
                names.push("CNI_NETNS");
            }
            if ifname.is_none() {
                names.push("CNI_IFNAME");
            }
            return Err(Error::MissingEnvironment { command: command.as_str(), names });
        };
        check("CNI_CONTAINERID", container, check_identifier)?;
        check("CNI_IFNAME", ifname, check_ifname)?;
        Ok(Self {
            container: container.clone(),
            ifname: ifname.clone(),
            netns: netns.map(PathBuf::from),
        })
    }
}

/// Directories that the environment sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directories {
    pub(crate) run_dir: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
}

impl Directories {
    pub(crate) fn read(variables: Variables<'_>) -> Result<Self, Error> {
        let directory = |name: &'static str| -> Result<Option<PathBuf>, Error> {
            let Some(value) = variables(name).filter(|path| !path.is_empty()) else {
                return Ok(None);
            };
            let path = PathBuf::from(&value);
            if path.is_absolute() {
                return Ok(Some(path));
            }
            Err(Error::BadEnvironment {
                name,
                value: shorten(&value.to_string_lossy()),
                remedy: "needs an absolute path".to_owned(),
            })
        };
        Ok(Self {
            run_dir: directory("CULVERT_RUN_DIR")?,
            state_dir: directory("CULVERT_STATE_DIR")?,
        })
    }
}

/// What `CNI_ARGS` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) mac: Option<Mac>,
    /// Which pod it is to Kubernetes, if the runtime tells namespace and name.
    pub(crate) pod: Option<PodName>,
}

impl Args {
    /// Reads `CNI_ARGS`: `KEY=VALUE` with `;` between.
    ///
    /// Kubernetes runtimes describe the pod here (`K8S_POD_NAME=…`), by which policies know it. Any
    /// other key needs `IgnoreUnknown=1`, as the specification's conventions have it.
    pub(crate) fn read(variables: Variables<'_>) -> Result<Self, Error> {
        let Some(text) = text(variables, "CNI_ARGS")? else {
            return Ok(Self::default());
        };
        let bad = |remedy: String| Error::BadEnvironment {
            name: "CNI_ARGS",
            value: shorten(&text),
            remedy,
        };
        let mut args = Self::default();
        let (mut unknown, mut ignores_unknown) = (None, false);
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(bad(format!("{:?} needs to be KEY=VALUE", shorten(pair))));
            };
            match key {
                "IgnoreUnknown" => {
                    ignores_unknown = match value.to_ascii_lowercase().as_str() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(bad("IgnoreUnknown needs to be 1 or 0".to_owned())),
                    };
                }
                "IP" => {
                    let address = value.parse().map_err(|_| bad(format!(
                        "IP needs to be an address without prefix length, such as 10.244.1.9, not \
                         {:?}",
                        shorten(value)
                    )))?;
                    args.ip = Some(address);
                }
                "MAC" => {
                    let mac = pod_mac::parse(value).ok_or_else(|| bad(format!(
                        "MAC needs to be the address of one device, such as 0a:58:00:00:00:09, not \
                         {:?}",
                        shorten(value)
                    )))?;
                    args.mac = Some(mac);
                }
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_UID" => uid = Some(value),
                _ if key.starts_with("K8S_") => {}
                _ => unknown = Some(key),
            }
        }
        let given =
            |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        args.pod = given(namespace).zip(given(name)).map(|(namespace, name)| PodName {
            namespace,
            name,
            uid: given(uid),
        });
        match unknown {
            Some(key) if !ignores_unknown => {
                Err(bad(format!("{} is unknown; remove it or add IgnoreUnknown=1", shorten(key))))
            }
            _ => Ok(args),
        }
    }
}

/// Reads a variable as text; an empty one counts as missing.
fn text(variables: Variables<'_>, name: &'static str) -> Result<Option<String>, Error> {
    let Some(value) = variables(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let not_text = |value: OsString| Error::BadEnvironment {
        name,
        value: shorten(&value.to_string_lossy()),
        remedy: "needs to be UTF-8".to_owned(),
    };
    value.into_string().map(Some).map_err(not_text)
}

fn check(
    name: &'static str,
    value: &str,
    rule: fn(&str) -> Result<(), InvalidName>,
) -> Result<(), Error> {
    rule(value).map_err(|broken| Error::BadEnvironment {
        name,
        value: shorten(value),
        remedy: broken.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs = pairs.to_vec();
        move |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        }
    }

    fn target(command: Command, pairs: &[(&'static str, &'static str)]) -> Result<Target, Error> {
        Target::read(command, &variables(pairs))
    }

    #[test]
    fn verbs_are_recognised_and_others_named() {
        for verb in Command::ALL {
            let found = Command::read(&variables(&[("CNI_COMMAND", verb.as_str())]));
            assert_eq!(found.unwrap(), Some(verb));
        }
        assert_eq!(Command::read(&variables(&[])).unwrap(), None);
        let error = Command::read(&variables(&[("CNI_COMMAND", "add")])).unwrap_err();
        assert_eq!(error.code(), 4);
        assert!(error.to_string().contains("\"add\""), "{error}");
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let error = target(Command::Add, &[("CNI_IFNAME", "")]).unwrap_err();
        assert_eq!(error.code(), 4);
        assert_eq!(
            error.to_string(),
            "environment variables CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME are missing: \
             CNI_COMMAND=ADD needs them"
        );
    }

    #[test]
    fn only_del_does_without_namespace() {
        let pairs = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        assert_eq!(target(Command::Del, &pairs).unwrap().netns, None);
        assert_eq!(target(Command::Add, &pairs).unwrap_err().code(), 4);
        assert_eq!(target(Command::Check, &pairs).unwrap_err().code(), 4);
    }

    #[test]
    fn names_that_break_the_rules_are_refused() {
        for (container, ifname) in
            [("../c", "eth0"), ("c", "../eth0"), ("c", "a-name-that-is-long")]
        {
            let pairs =
                [("CNI_CONTAINERID", container), ("CNI_IFNAME", ifname), ("CNI_NETNS", "/x")];
            assert_eq!(target(Command::Add, &pairs).unwrap_err().code(), 4);
        }
    }

    #[test]
    fn relative_directory_is_refused() {
        let error = Directories::read(&variables(&[("CULVERT_RUN_DIR", "run")])).unwrap_err();
        assert_eq!(error.code(), 4);
        assert!(error.to_string().contains("absolute"), "{error}");
    }

    fn args(text: &'static str) -> Result<Args, Error> {
        Args::read(&variables(&[("CNI_ARGS", text)]))
    }

    #[test]
    fn arguments_of_kubernetes_ask_for_nothing() {
        for text in
            ["", "IgnoreUnknown=1;K8S_POD_NAME=x", "K8S_POD_UID=1", "X=1;IgnoreUnknown=TRUE"]
        {
            assert_eq!(args(text).unwrap(), Args::default(), "{text}");
        }
    }

    #[test]
    fn pod_is_known_by_namespace_and_name() {
        let told = args("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=1-2").unwrap();
        let pod = PodName {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: Some("1-2".to_owned()),
        };
        assert_eq!(told.pod, Some(pod.clone()));
        let told = args("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=").unwrap();
        assert_eq!(told.pod, Some(PodName { uid: None, ..pod }));
    }

    #[test]
    fn arguments_that_ask_for_addresses_are_read() {
        let asked = args("IP=10.244.1.9;MAC=0a:58:00:00:00:09").unwrap();
        assert_eq!(asked.ip, "10.244.1.9".parse().ok());
        assert_eq!(asked.mac, pod_mac::parse("0a:58:00:00:00:09"));
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused() {
        for text in [
            "X=1",
            "X=1;IgnoreUnknown=0",
            "IgnoreUnknown=yes",
            "X",
            "IP=10.244.1.9/24",
            "IP=",
            "MAC=ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(args(text).unwrap_err().code(), 4, "{text}");
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_the_message() {
        let long = "x".repeat(100_000);
        let error = Args::read(&|_| Some(long.clone().into())).unwrap_err();
        assert!(error.to_string().len() < 2_000, "{}", error.to_string().len());
    }
}
