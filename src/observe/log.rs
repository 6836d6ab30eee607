//! Logs, to standard error: fields, not prose; levels as `CONTRIBUTING.md` has them.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
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
/// The filter cannot be understood.
pub fn start_logging(filter: &str, format: Format) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
        }
        Format::Json => builder.json().init(),
    }
    Ok(())
}
