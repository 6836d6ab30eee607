//! Logs, to standard error: fields, not prose; levels as `CONTRIBUTING.md` has them.
//!
//! Nobody who logs waits for whoever reads (see [`Outlet`]).

mod outlet;

use std::io::Write as _;
use std::sync::OnceLock;

use anyhow::Context as _;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::outlet::Outlet;

/// Standard error, once logging has started.
static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// A library that logs what it tells us as well, in its own words, and whole answers of the server
/// with it. Heard only by who asks for it by name.
const SILENT: &str = "kube_client";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging what `filter` lets through, such as "info" or "culvert=debug".
///
/// # Errors
///
/// The filter cannot be understood, or there is no thread for the writing.
pub(crate) fn start_logging(filter: &str, format: Format) -> anyhow::Result<()> {
    let filter = parse(filter)?;
    let tell = |lines| {
        tracing::warn!(lines, "lost lines of this log: standard error was not read for a while");
    };
    let outlet = Outlet::start(std::io::stderr(), tell).context("starting the log's thread")?;
    let outlet = OUTLET.get_or_init(|| outlet).clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(move || outlet.clone());
    match format {
        Format::Text => builder.with_ansi(is_coloured()).init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}

/// Writes a line that is no event to standard error, behind those that are.
pub(crate) fn say_at_last(line: &str) {
    match OUTLET.get() {
        Some(outlet) => {
            // It takes everything.
            let _ = writeln!(outlet.clone(), "{line}");
        }
        // Where standard error is gone there is nobody left to tell.
        None => {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }
}

/// Waits for a while until what was logged is written; before the program ends.
pub(crate) fn finish_logging() {
    if let Some(outlet) = OUTLET.get() {
        outlet.finish();
    }
}

/// Whether lines have colours: on a terminal, unless the user wants none anywhere (no-color.org).
fn is_coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Reads a filter. A word that is no level is refused: the library takes it for a module, of which
/// it then shows everything, and of all others nothing.
fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    const LEVELS: &str = "error, warn, info, debug, trace or off";
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    for part in filter.split(',') {
        // With a span in brackets the library is strict itself.
        let is_good = match part.rsplit_once('=') {
            _ if part.contains('[') => true,
            Some((_module, level)) => is_level(level),
            None => is_level(part),
        };
        anyhow::ensure!(
            is_good,
            "--log \"{filter}\" (CULVERT_LOG): \"{part}\" is no level; write {LEVELS}, or for one \
             module MODULE=LEVEL, several separated by commas"
        );
    }
    let context = || format!("--log \"{filter}\" (CULVERT_LOG)");
    let filter = if filter.contains(SILENT) { filter } else { &format!("{filter},{SILENT}=off") };
    EnvFilter::try_new(filter).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_with_levels_are_taken() {
        for filter in ["info", "WARN", "off", "culvert::control=debug", "warn,culvert=trace"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn library_of_kubernetes_is_silent_unless_it_is_asked_for_by_name() {
        for (filter, level) in
            [("info", "off"), ("trace", "off"), ("info,kube_client=debug", "debug")]
        {
            let shown = parse(filter).unwrap().to_string();
            assert!(shown.contains(&format!("kube_client={level}")), "{filter}: {shown}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_with_the_flag_and_the_levels() {
        for filter in ["inof", "culvert", "info,debgu", "culvert=inof", ""] {
            let error = format!("{:#}", parse(filter).unwrap_err());
            assert!(error.contains("--log") && error.contains("info"), "{error}");
        }
    }
}
