//! Logging of a component: to standard error, filtered.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `filter` is what `--log` said
/// (`error`, `warn`, `info`, `debug`, or directives as `tracing` has them);
/// without it `RUST_LOG` counts, and without that warnings and errors appear.
/// A filter that can't be understood is reported and replaced by `warn`.
/// Later calls in the same process change nothing.
pub fn start_log(filter: Option<&str>) {
    let asked = filter
        .map(str::to_owned)
        .or_else(|| std::env::var("RUST_LOG").ok());
    let (filter, complaint) = match asked {
        None => (EnvFilter::new("warn"), None),
        Some(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(why) => (
                EnvFilter::new("warn"),
                Some(format!("log filter {text:?}: {why}")),
            ),
        },
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .is_ok();
    if let (true, Some(complaint)) = (started, complaint) {
        tracing::warn!("{complaint}; logging warnings and errors");
    }
}
