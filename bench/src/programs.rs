//! The programs that are measured, and building them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A daemon and its plugin.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) culvert: PathBuf,
    pub(crate) plugin: PathBuf,
}

impl Programs {
    /// Those at `culvert`, if that is given, and otherwise those beside this one.
    pub(crate) fn of(culvert: Option<&Path>) -> Result<Self> {
        culvert.map_or_else(Self::build, Self::at)
    }

    /// The programs beside this one. Under `cargo run`, which builds nothing but this program,
    /// cargo is asked to bring them up to date first.
    pub(crate) fn build() -> Result<Self> {
        let own = env::current_exe().context("find this program's own file")?;
        ensure!(
            !cfg!(debug_assertions),
            "an unoptimized build measures nothing: `cargo run --release -p bench -- compare`"
        );
        if let Some(cargo) = env::var_os("CARGO") {
            let status = Command::new(cargo)
                .args(["build", "--quiet", "--release", "-p", "culvert", "-p", "culvert-cni"])
                .status()
                .context("run cargo")?;
            ensure!(status.success(), "culvert could not be built");
        }
        Self::at(&own.with_file_name("culvert"))
    }

    /// The daemon `culvert` and the plugin beside it.
    pub(crate) fn at(culvert: &Path) -> Result<Self> {
        // Daemons and plugin calls start elsewhere, so a relative path would lead elsewhere too.
        let culvert = culvert
            .canonicalize()
            .with_context(|| format!("find {} (`make release` builds it)", culvert.display()))?;
        let plugin = culvert.with_file_name("culvert-cni");
        ensure!(plugin.is_file(), "{} is missing: `make release` builds it", plugin.display());
        Ok(Self { culvert, plugin })
    }
}
