//! A directory of policies, as an administrator keeps one, and labs whose daemons read it.

use std::fs;
use std::path::PathBuf;

use culvert_lab::LabBuilder;
use tempfile::TempDir;

use crate::harness::lab;

/// The directory, which goes with this.
pub(super) struct Directory(TempDir);

impl Directory {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A lab that enforces what is in it.
    pub(super) fn lab(&self, name: &str) -> LabBuilder {
        lab(name).policies(self.0.path()).unwrap()
    }

    /// Writes a file, in place of one of that name.
    pub(super) fn write(&self, name: &str, text: &str) {
        let partial = self.0.path().join(format!(".{name}"));
        fs::write(&partial, text).unwrap();
        fs::rename(partial, self.0.path().join(name)).unwrap();
    }

    /// Where a file is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a file has.
    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(name)).unwrap();
    }

    /// A policy that isolates ingress of one pod and allows what `rules` says, in YAML.
    pub(super) fn isolate(&self, pod: &str, rules: &str) {
        self.write(
            &format!("{pod}.yaml"),
            &format!(
                "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: {pod}, namespace: default }}
spec:
  podSelector: {{ matchLabels: {{ pod: {pod} }} }}
  policyTypes: [Ingress]
  ingress: {rules}
"
            ),
        );
    }

    /// Removes it.
    pub(super) fn release(&self, pod: &str) {
        self.remove(&format!("{pod}.yaml"));
    }
}
