//! The text exposition format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

/// Metrics as text. Families are written one after the other, each with all of
/// its samples, as the format asks.
///
/// Names are the caller's and must match `[a-zA-Z_][a-zA-Z0-9_]*`; values of
/// labels and help texts may be anything and are escaped.
#[derive(Clone, Default, Debug)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Of a component: begins with `splitkernel_build_info`.
    #[must_use]
    pub fn of(kind: proto::NodeKind, name: &str) -> Exposition {
        let mut out = Exposition::default();
        let kind = kind.to_string();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("kind", &kind),
            ("component", name),
        ];
        let help = "Always 1; what this component is.";
        out.gauges("splitkernel_build_info", help, [(&labels[..], 1)]);
        out
    }

    /// A family of counters; `name` ends in `_total`.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], u64)>,
    ) {
        self.all(name, help, "counter", samples);
    }

    /// A family of gauges.
    pub fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], u64)>,
    ) {
        self.all(name, help, "gauge", samples);
    }

    /// A family of gauges that are durations: nanoseconds, shown in seconds.
    pub fn durations<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], u64)>,
    ) {
        let samples = samples.into_iter().map(|(of, ns)| (of, seconds(ns)));
        self.all(name, help, "gauge", samples);
    }

    /// One counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(&[][..], value)]);
    }

    /// One gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.gauges(name, help, [(&[][..], value)]);
    }

    /// Counters that differ in one label.
    pub fn counters_by(&mut self, name: &str, help: &str, label: &str, samples: &[(String, u64)]) {
        self.family(name, help, "counter");
        for (of, value) in samples {
            self.sample(name, &[(label, of)], None, *value);
        }
    }

    /// Begins a family of histograms; [`Exposition::histogram`] adds to it.
    pub fn histograms(&mut self, name: &str, help: &str) {
        self.family(name, help, "histogram");
    }

    /// One histogram of durations: what is above the last of `bounds` counts in
    /// the bucket +Inf.
    ///
    /// `bounds` are upper bounds in nanoseconds, ascending; `values` are pairs
    /// of a value in nanoseconds and how often there was one up to it, as a
    /// finer histogram has it; `total` is the sum in nanoseconds. Shown in
    /// seconds.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[u64],
        values: &[(u64, u64)],
        total: u64,
    ) {
        let bucket = format!("{name}_bucket");
        for bound in bounds {
            let below = values.iter().filter(|(value, _)| value <= bound);
            let count = below.map(|(_, count)| count).sum::<u64>();
            self.sample(&bucket, labels, Some(&seconds(*bound)), count);
        }
        let count = values.iter().map(|(_, count)| count).sum::<u64>();
        self.sample(&bucket, labels, Some("+Inf"), count);
        self.sample(&format!("{name}_sum"), labels, None, seconds(total));
        self.sample(&format!("{name}_count"), labels, None, count);
    }

    /// The whole.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn all<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], impl std::fmt::Display)>,
    ) {
        self.family(name, help, kind);
        for (labels, value) in samples {
            self.sample(name, labels, None, value);
        }
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        le: Option<&str>,
        value: impl std::fmt::Display,
    ) {
        self.text.push_str(name);
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        for (n, (label, of)) in all.enumerate() {
            self.text.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"{}\"", escaped(of));
        }
        if !labels.is_empty() || le.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Nanoseconds as seconds, exactly and without trailing zeros.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_format_has_it() {
        let mut out = Exposition::of(proto::NodeKind::Memory, "m0");
        let kinds = [("a\\b\"c\nd".to_owned(), 7)];
        out.counters_by("x_total", "Two\nlines \\.", "kind", &kinds);
        out.gauge("y_bytes", "Y.", 4096);
        out.histograms("z_seconds", "Z.");
        let values = [(900, 2), (1000, 1), (1001, 4), (3_000_000_000, 1)];
        let labels = [("process", "3")];
        out.histogram(
            "z_seconds",
            &labels,
            &[1000, 2_500_000],
            &values,
            1_500_000_000,
        );
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"# HELP splitkernel_build_info Always 1; what this component is.
# TYPE splitkernel_build_info gauge
splitkernel_build_info{{version="{version}",kind="mcomponent",component="m0"}} 1
# HELP x_total Two\nlines \\.
# TYPE x_total counter
x_total{{kind="a\\b\"c\nd"}} 7
# HELP y_bytes Y.
# TYPE y_bytes gauge
y_bytes 4096
# HELP z_seconds Z.
# TYPE z_seconds histogram
z_seconds_bucket{{process="3",le="0.000001"}} 3
z_seconds_bucket{{process="3",le="0.0025"}} 7
z_seconds_bucket{{process="3",le="+Inf"}} 8
z_seconds_sum{{process="3"}} 1.5
z_seconds_count{{process="3"}} 8
"#
        );
        assert_eq!(out.into_text(), expected);
    }

    proptest! {
        #[test]
        fn whatever_a_label_holds_is_one_line_that_reads_back(value: String, count: u64) {
            let mut out = Exposition::default();
            out.counters_by("x_total", &value, "of", &[(value.clone(), count)]);
            let text = out.into_text();
            let lines: Vec<&str> = text.split('\n').collect();
            prop_assert_eq!(lines.len(), 4);
            let rest = lines[2].strip_prefix("x_total{of=\"").unwrap();
            let (label, number) = rest.rsplit_once("\"} ").unwrap();
            prop_assert_eq!(number.parse::<u64>().unwrap(), count);
            let (mut read, mut chars) = (String::new(), label.chars());
            while let Some(c) = chars.next() {
                prop_assert!(c != '"');
                read.push(match c {
                    '\\' => match chars.next() { Some('n') => '\n', Some(c) => c, None => '?' },
                    c => c,
                });
            }
            prop_assert_eq!(read, value);
        }

        #[test]
        fn seconds_are_exact(ns: u64) {
            let text = seconds(ns);
            let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
            let part = format!("{part:0<9}");
            prop_assert_eq!(whole.parse::<u64>().unwrap() * 1_000_000_000 + part.parse::<u64>().unwrap(), ns);
        }
    }
}
