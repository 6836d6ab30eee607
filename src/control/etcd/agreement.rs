//! What all nodes share, as far as this one goes by it.
//!
//! Pure. A daemon that runs goes by wider pod networks, and otherwise by what it began with; what etcd
//! says beside that is reported.

use super::failure::{Disagreement, Failure};
use super::keys::{Settings, SettingsFault, default_len, default_len_v6};
use crate::control::source::Shared;

#[derive(Clone, Debug)]
pub(super) struct Agreement {
    /// What this node's configuration says, if it leaves that not to etcd.
    configured: Option<Shared>,
    /// The settings that etcd had last.
    known: Option<Settings>,
    in_force: Option<Shared>,
    differs: Option<Disagreement>,
}

impl Agreement {
    pub(super) fn new(configured: Option<Shared>) -> Self {
        Self { configured, known: None, in_force: None, differs: None }
    }

    /// What this node goes by.
    pub(super) fn in_force(&self) -> Option<&Shared> {
        self.in_force.as_ref()
    }

    /// What etcd says and this node does not go by.
    pub(super) fn differs(&self) -> Option<String> {
        self.differs.as_ref().map(Disagreement::to_string)
    }

    /// `settings` with what this node goes by.
    pub(super) fn apply(&self, settings: &Settings) -> Settings {
        let shared = self.in_force.as_ref().unwrap_or(&settings.shared).clone();
        Settings { shared, ..settings.clone() }
    }

    /// The settings for a database that has none: those of the database before it, with what this node
    /// goes by, or what its configuration says.
    pub(super) fn first_settings(&self, key: &str) -> Result<Settings, Failure> {
        let (len, len_v6) = match &self.known {
            Some(known) => (known.subnet_len, known.subnet_len_v6),
            None => (default_len(), default_len_v6()),
        };
        let Some(shared) = self.in_force.clone().or_else(|| self.configured.clone()) else {
            return Err(Failure::SettingsMissing { key: key.to_owned() });
        };
        let settings = Settings { shared, subnet_len: len, subnet_len_v6: len_v6 };
        match settings.fault() {
            Some(fault) => Err(Failure::SettingsUnfit { key: key.to_owned(), fault }),
            None => Ok(settings),
        }
    }

    /// Takes the settings that `key` has now.
    ///
    /// # Errors
    ///
    /// A node that has not begun yet cannot go by them.
    pub(super) fn take(&mut self, key: &str, settings: &Settings) -> Result<(), Failure> {
        let found = &settings.shared;
        let mismatch = self.configured.as_ref().filter(|configured| *configured != found).map(
            |configured| Disagreement::Configuration {
                key: key.to_owned(),
                found: found.clone(),
                configured: configured.clone(),
            },
        );
        let Some(began) = &self.in_force else {
            if let Some(mismatch) = mismatch {
                return Err(mismatch.into());
            }
            if found.vni >= 1 << 24 {
                let problem = SettingsFault::Vni { vni: found.vni }.into();
                return Err(Failure::SettingsUnreadable { key: key.to_owned(), problem });
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
        let shared = Shared { cidrs: vec![cidr.parse().unwrap()], vni, port: 4790 };
        Settings { shared, subnet_len: 26, subnet_len_v6: 64 }
    }

    #[test]
    fn a_node_that_runs_takes_wider_networks_and_reports_all_else() {
        let mut agreement = Agreement::new(None);
        agreement.take("k", &settings("10.244.0.0/16", 1)).unwrap();
        agreement.take("k", &settings("10.244.0.0/16", 2)).unwrap();
        assert!(agreement.differs().unwrap().contains("restart it, or change k back"));
        agreement.take("k", &settings("10.240.0.0/12", 1)).unwrap();
        assert_eq!(agreement.differs(), None);
        assert_eq!(agreement.in_force(), Some(&settings("10.240.0.0/12", 1).shared));
        let narrow = settings("10.244.0.0/16", 1);
        agreement.take("k", &narrow).unwrap();
        assert!(agreement.differs().is_some());
        assert_eq!(agreement.apply(&narrow), settings("10.240.0.0/12", 1));
    }

    #[test]
    fn a_node_that_starts_must_agree() {
        let mut agreement = Agreement::new(Some(settings("10.244.0.0/16", 1).shared));
        let error = agreement.take("k", &settings("10.244.0.0/16", 2)).unwrap_err().to_string();
        assert!(error.contains("make network and underlay.port the same"), "{error}");
        let error = Agreement::new(None).take("k", &settings("10.0.0.0/8", 1 << 24)).unwrap_err();
        assert!(error.to_string().contains("vni = 16777216"), "{error}");
    }

    #[test]
    fn a_database_that_lost_its_settings_gets_the_same_again() {
        let error = Agreement::new(None).first_settings("k").unwrap_err().to_string();
        assert!(error.contains("k is missing"), "{error}");
        let mut agreement = Agreement::new(None);
        let known = settings("10.244.0.0/16", 1);
        agreement.take("k", &known).unwrap();
        assert_eq!(agreement.first_settings("k").unwrap(), known);
        let small = Agreement::new(Some(settings("10.244.0.0/30", 1).shared));
        let error = small.first_settings("k").unwrap_err().to_string();
        assert!(error.contains("write k with another subnet_len"), "{error}");
    }
}
