//! What a testbed shows while it works: `testbed top` and metrics.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, Output, Running, Talk, run};
use crate::programs::program;
use crate::scratch::directory;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

const NAME: &str = "watching";
/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A testbed whose gmm, m0, s0 and p0 show metrics.
struct Watched {
    home: Home,
    metrics: BTreeMap<&'static str, SocketAddr>,
    _place: tempfile::TempDir,
}

impl Watched {
    fn up() -> Watched {
        let listeners = ["gmm", "m0", "s0", "p0"].map(|name| (name, listener()));
        let address = |(name, l): (_, TcpListener)| (name, l.local_addr().unwrap());
        let watched = Watched {
            home: Home::new(),
            metrics: listeners.map(address).into(),
            _place: directory("watching-"),
        };
        let up = watched.bring_up();
        assert_eq!(up.ended, Ended::Exit(0), "{up:?}");
        watched
    }

    fn bring_up(&self) -> Output {
        let of = |name| format!("metrics = \"{}\"\n", self.metrics[name]);
        let text = format!(
            "name = \"{NAME}\"\n[gmm]\n{}[[memory]]\nname = \"m0\"\nsize = \"1GiB\"\n{}\
             [[storage]]\nname = \"s0\"\nroot = \"/\"\n{}[[processor]]\nname = \"p0\"\n{}",
            of("gmm"),
            of("m0"),
            of("s0"),
            of("p0")
        );
        let file = self._place.path().join("watching.toml");
        std::fs::write(&file, text).unwrap();
        self.ask(&["up", file.to_str().unwrap()])
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(testbed());
        self.home.mark(&mut command).args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"")
    }

    /// A program that misses all the time, some rounds into its work.
    fn busy(&self) -> (Running, Talk) {
        let mut command = self.command(&["run", "--on", NAME, "--cache", "1M", "--"]);
        command.arg(program("busy")).args(["4", "1000000"]);
        let (running, mut talk) = Running::start_talking(&mut command);
        talk.expect("round 2\n", &running);
        (running, talk)
    }

    fn down(&self) {
        let down = self.ask(&["down", NAME]);
        assert_eq!(down.ended, Ended::Exit(0), "{down:?}");
        let left = self.home.processes();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    fn scrape(&self, component: &str) -> Samples {
        let answer = say(self.metrics[component], b"GET /metrics HTTP/1.1\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        Samples::parse(body)
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn say(to: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Samples by name and labels, of a text that is valid in every line.
#[derive(Debug)]
struct Samples(BTreeMap<String, f64>);

impl Samples {
    fn parse(text: &str) -> Samples {
        let (mut samples, mut family) = (BTreeMap::new(), None::<(String, String)>);
        assert!(text.ends_with('\n'), "{text}");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = Some((name.to_owned(), kind.to_owned()));
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let name = sample.split('{').next().unwrap();
            let (of, kind) = family
                .as_ref()
                .unwrap_or_else(|| panic!("no family: {line}"));
            let rest = name.strip_prefix(of.as_str());
            let known = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].contains(&rest.unwrap_or("-")),
                _ => rest == Some(""),
            };
            assert!(known && !name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
            assert_eq!(sample.contains('{'), sample.ends_with('}'), "{line}");
            let before = samples.insert(sample.to_owned(), value.parse().unwrap());
            assert!(before.is_none(), "twice: {line}");
        }
        Samples(samples)
    }

    /// The sum of those that begin so.
    fn sum(&self, start: &str) -> f64 {
        let found = self.0.iter().filter(|(name, _)| name.starts_with(start));
        let found: Vec<f64> = found.map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {start} in {self:?}");
        found.iter().sum()
    }
}

fn end(mut running: Running) {
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Ended::Signal(Signal::TERM.as_raw()));
}

#[test]
fn metrics_while_a_program_runs() {
    let watched = Watched::up();
    let (running, mut talk) = watched.busy();
    let before = watched.scrape("p0");
    talk.expect("round 6\n", &running);
    let after = watched.scrape("p0");
    for counter in [
        "splitkernel_misses_total{",
        "splitkernel_fetched_bytes_total{",
        "splitkernel_written_back_bytes_total{",
        "splitkernel_link_read_bytes_total{",
        "splitkernel_miss_latency_seconds_count{",
        "splitkernel_miss_latency_seconds_sum{",
    ] {
        let (old, new) = (before.sum(counter), after.sum(counter));
        assert!(old < new, "{counter}: {old}, then {new}");
    }
    let lines = after.sum("splitkernel_cache_resident_bytes{");
    assert!(lines > 0.0 && lines <= f64::from(1 << 20), "{lines}");
    assert!(
        after.0.keys().any(|name| name.contains("busy")),
        "{after:?}"
    );
    assert!(
        watched
            .scrape("m0")
            .sum("splitkernel_memory_committed_bytes")
            > 0.0
    );
    assert!(watched.scrape("s0").sum("splitkernel_requests_total{") > 0.0);
    let gmm = watched.scrape("gmm");
    assert_eq!(gmm.sum("splitkernel_member_up{"), 3.0, "{gmm:?}");
    assert_eq!(gmm.sum("splitkernel_processes"), 1.0, "{gmm:?}");
    end(running);
    watched.down();
}

/// Who asks for something else, too much, or nothing at all harms neither the
/// component nor who asks after him.
#[test]
fn hostile_scrapers() {
    let watched = Watched::up();
    let (running, mut talk) = watched.busy();
    for address in watched.metrics.values() {
        assert!(say(*address, b"\0\xff garbage\n\n").starts_with("HTTP/1.1 400 "));
        assert!(say(*address, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let huge = [&b"GET /metrics HTTP/1.1\r\nX: "[..], &[b'x'; 100_000]].concat();
        assert!(say(*address, &huge).starts_with("HTTP/1.1 431 "));
        // Silent ones are hung up on; they take all the places meanwhile.
        let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(*address)).collect();
        silent[0].write_all(b"GET /met").unwrap();
        for stream in &mut silent {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    talk.expect("round 4\n", &running);
    for component in watched.metrics.keys() {
        assert!(watched.scrape(component).sum("splitkernel_build_info") == 1.0);
    }
    end(running);
    watched.down();
}

#[test]
fn top_shows_what_runs() {
    let watched = Watched::up();
    let (running, _talk) = watched.busy();
    let once = ["top", NAME, "--once", "--interval", "300ms"];
    let json = watched.ask(&[&once[..], &["--json"]].concat());
    assert_eq!(json.ended, Ended::Exit(0), "{json:?}");
    let frame: Value = serde_json::from_slice(&json.stdout).unwrap();
    let [busy] = &frame["programs"].as_array().unwrap()[..] else {
        panic!("{frame:#}")
    };
    assert!(
        busy["program"].as_str().unwrap().ends_with("busy"),
        "{frame:#}"
    );
    assert_eq!(
        (&busy["processor"], &busy["threads"]),
        (&"p0".into(), &1.into())
    );
    for rate in ["misses_per_s", "fetched_bytes_per_s", "miss_p99_ns"] {
        assert!(busy[rate].as_f64().unwrap() > 0.0, "{rate} in {frame:#}");
    }
    assert_eq!(busy["cache_lines"], 256, "{frame:#}");
    assert_eq!(frame["memory"][0]["name"], "m0", "{frame:#}");
    assert!(
        frame["links"][0]["messages_per_s"].as_f64().unwrap() > 0.0,
        "{frame:#}"
    );
    assert_eq!(frame["silent"], Value::Array(Vec::new()), "{frame:#}");
    let text = watched.ask(&once).stdout_text();
    assert!(text.contains("busy") && text.contains("p0 to m0"), "{text}");
    end(running);
    watched.down();
}

#[test]
fn a_port_in_use_is_named() {
    let listeners = ["gmm", "m0", "s0", "p0"].map(|name| (name, listener()));
    let taken = Watched {
        home: Home::new(),
        metrics: listeners
            .iter()
            .map(|(name, l)| (*name, l.local_addr().unwrap()))
            .collect(),
        _place: directory("watching-"),
    };
    let up = taken.bring_up();
    let said = up.stderr_text();
    assert_eq!(up.ended, Ended::Exit(125), "{up:?}");
    let port = taken.metrics["gmm"].to_string();
    assert!(said.contains("gmm") && said.contains(&port), "{said}");
}
