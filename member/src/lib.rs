//! What every component does to be one: registers with `gmm`, keeps its lease,
//! says that it is ready, logs, shows metrics, and ends in good order when it is told to.
//!
//! `gmm` being away never disturbs a component: [`Member`] goes on trying in
//! the background, and registers anew where `gmm` gave it up for dead.
#![forbid(unsafe_code)]

mod host;
mod log;
mod membership;
mod metrics;
mod pulse;
mod ready;
mod signal;
mod size;

pub use host::boot_id;
pub use log::start_log;
pub use membership::{Member, MemberConfig, MemberError};
pub use metrics::{Exposition, MetricsError, serve_metrics};
pub use ready::{ReadyError, report_ready};
pub use signal::{catch_termination, terminated, wait_for_termination};
pub use size::{SizeError, parse_percent, parse_size};
