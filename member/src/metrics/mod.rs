//! Metrics of a component for Prometheus: the text, and a server for it.

mod http;
mod text;

pub use http::{MetricsError, serve_metrics};
pub use text::Exposition;
