//! What all nodes share, as far as this one goes by it.
//!
//! Pure. A daemon that runs goes by wider pod networks, and otherwise by what it began with; what
//! etcd says beside that is reported.

use super::failure::{Cause, Disagreement};
use super::keys::{Settings, default_len, default_len_v6};
use crate::Parameters;

#[derive(Clone, Debug)]
pub(super) struct Agreement {
    /// What this node's configuration says, if it leaves that not to etcd.
    configured: Option<Parameters>,
    /// The settings that etcd had last.
    known: Option<Settings>,
    in_force: Option<Parameters>,
    differs: Option<Disagreement>,
}

impl Agreement {
    pub(super) fn new(configured: Option<Parameters>) -> Self {
        Self { configured, known: None, in_force: None, differs: None }
    }

    /// What this node goes by.
    pub(super) fn in_force(&self) -> Option<&Parameters> {
        self.in_force.as_ref()
    }

    /// What etcd says and this node does not go by.
    pub(super) fn differs(&self) -> Option<String> {
        self.differs.as_ref().map(Disagreement::to_string)
    }

    /// `settings` with what this node goes by.
    pub(super) fn apply(&self, settings: &Settings) -> Settings {
        let parameters = self.in_force.as_ref().unwrap_or(&settings.parameters).clone();
        Settings { parameters, ..settings.clone() }
    }

    /// The settings for a database that has none: those of the database before it, with what this
    /// node goes by, or what its configuration says.
    pub(super) fn first_settings(&self, key: &str) -> Result<Settings, Cause> {
        let (len, len_v6) = match &self.known {
            Some(known) => (known.subnet_len, known.subnet_len_v6),
            None => (default_len(), default_len_v6()),
        };
        let Some(parameters) = self.in_force.clone().or_else(|| self.configured.clone()) else {
            return Err(Cause::SettingsMissing { key: key.to_owned() });
        };
        let settings = Settings { parameters, subnet_len: len, subnet_len_v6: len_v6 };
        match settings.fault() {
            Some(fault) => Err(Cause::SettingsUnfit { key: key.to_owned(), fault }),
            None => Ok(settings),
        }
    }

    /// Takes the settings that `key` has now.
    ///
    /// # Errors
    ///
    /// A node that has not begun yet cannot go by them.
    pub(super) fn take(&mut self, key: &str, settings: &Settings) -> Result<(), Cause> {
        let found = &settings.parameters;
        let mismatch =
            self.configured.as_ref().filter(|configured| *configured != found).map(|configured| {
                Disagreement::Configuration {
                    key: key.to_owned(),
                    found: found.clone(),
                    configured: configured.clone(),
                }
            });
        let Some(began) = &self.in_force else {
            if let Some(mismatch) = mismatch {
                return Err(mismatch.into());
            }
            self.in_force = Some(found.clone());
            self.known = Some(settings.clone());
            return Ok(());
        };
        self.known = Some(settings.clone());
        self.differs = match mismatch {
            None if found.widens(began) => {
                self.in_force = Some(found.clone());
                None
            }
            None => Some(Disagreement::AtRunTime { key: key.to_owned(), found: found.clone() }),
            mismatch => mismatch,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cidr: &str, vni: u32) -> Settings {
        let vni = overlay_proto::Vni::new(vni).unwrap();
        let parameters = Parameters { cidrs: vec![cidr.parse().unwrap()], vni, port: 4790 };
        Settings { parameters, subnet_len: 26, subnet_len_v6: 64 }
    }

    #[test]
    fn a_node_that_runs_takes_wider_networks_and_reports_all_else() {
        let mut agreement = Agreement::new(None);
        agreement.take("k", &settings("10.244.0.0/16", 1)).unwrap();
        agreement.take("k", &settings("10.244.0.0/16", 2)).unwrap();
        assert!(agreement.differs().unwrap().contains("restart it, or change k back"));
        agreement.take("k", &settings("10.240.0.0/12", 1)).unwrap();
        assert_eq!(agreement.differs(), None);
        assert_eq!(agreement.in_force(), Some(&settings("10.240.0.0/12", 1).parameters));
        let narrow = settings("10.244.0.0/16", 1);
        agreement.take("k", &narrow).unwrap();
        assert!(agreement.differs().is_some());
        assert_eq!(agreement.apply(&narrow), settings("10.240.0.0/12", 1));
    }

    #[test]
    fn a_node_that_starts_must_agree() {
        let mut agreement = Agreement::new(Some(settings("10.244.0.0/16", 1).parameters));
        let error = agreement.take("k", &settings("10.244.0.0/16", 2)).unwrap_err().to_string();
        assert!(error.contains("make network and underlay.port the same"), "{error}");
    }

    #[test]
    fn a_database_that_lost_its_settings_gets_the_same_again() {
        let error = Agreement::new(None).first_settings("k").unwrap_err().to_string();
        assert!(error.contains("k is missing"), "{error}");
        let mut agreement = Agreement::new(None);
        let known = settings("10.244.0.0/16", 1);
        agreement.take("k", &known).unwrap();
        assert_eq!(agreement.first_settings("k").unwrap(), known);
        let small = Agreement::new(Some(settings("10.244.0.0/30", 1).parameters));
        let error = small.first_settings("k").unwrap_err().to_string();
        assert!(error.contains("write k with another subnet_len"), "{error}");
    }
}
