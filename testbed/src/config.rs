//! The description of a testbed that stays, as people write it.

mod hosts;
mod metrics;

use crate::cli::{EmulationSpec, Placement, Replacement, parse_memory};
use crate::places::check_name;
use crate::plan::{Fabric, Memory, Plan, Processor, Storage};
use crate::program::Root;
use crate::shape;
use anyhow::{Context, Result, bail};
use hosts::HostEntry;
use proto::process::CacheConfig;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A description with comments, to begin with.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");
/// One of several machines.
pub(crate) const EXAMPLE_HOSTS: &str = include_str!("example-hosts.toml");

/// What `testbed up` needs to know.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) plan: Plan,
    pub(crate) cache: CacheConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(default)]
    fabric: Fabric,
    #[serde(default, deserialize_with = "emulation")]
    emulate: Option<EmulationSpec>,
    log: Option<String>,
    address: Option<String>,
    #[serde(default)]
    host: Vec<HostEntry>,
    #[serde(default)]
    gmm: Gmm,
    #[serde(default)]
    memory: Vec<MemoryEntry>,
    #[serde(default)]
    storage: Vec<StorageEntry>,
    #[serde(default)]
    processor: Vec<ProcessorEntry>,
    #[serde(default)]
    cache: Cache,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Gmm {
    #[serde(default)]
    placement: Placement,
    lease_ms: Option<u64>,
    host: Option<String>,
    #[serde(default, deserialize_with = "metrics::address")]
    metrics: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryEntry {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(deserialize_with = "memory_size")]
    size: u64,
    host: Option<String>,
    #[serde(default, deserialize_with = "metrics::address")]
    metrics: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageEntry {
    #[serde(deserialize_with = "name")]
    name: String,
    root: PathBuf,
    host: Option<String>,
    #[serde(default, deserialize_with = "metrics::address")]
    metrics: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessorEntry {
    #[serde(deserialize_with = "name")]
    name: String,
    host: Option<String>,
    #[serde(default, deserialize_with = "metrics::address")]
    metrics: Option<SocketAddr>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Cache {
    #[serde(default, deserialize_with = "size")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "line")]
    line: Option<u64>,
    ways: Option<u32>,
    policy: Option<Replacement>,
    prefetch: Option<u32>,
    run_ahead: Option<bool>,
}

/// A size as text or as a number of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn text(self) -> String {
        match self {
            Size::Bytes(bytes) => bytes.to_string(),
            Size::Text(text) => text,
        }
    }
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    check_name(&name).map_err(serde::de::Error::custom)?;
    Ok(name)
}

fn emulation<'de, D: Deserializer<'de>>(from: D) -> Result<Option<EmulationSpec>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn memory_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_memory(&Size::deserialize(from)?.text()).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = Size::deserialize(from)?.text();
    member::parse_size(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

fn line<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = Size::deserialize(from)?.text();
    shape::parse_line(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// Reads and checks a description. `rename` replaces its name.
pub(crate) fn read(path: &Path, rename: Option<&str>) -> Result<Description> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the description {}", path.display()))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    parse(&text, rename, directory).with_context(|| path.display().to_string())
}

/// `directory` is where relative paths begin.
fn parse(text: &str, rename: Option<&str>, directory: &Path) -> Result<Description> {
    let file: File = toml::from_str(text)?;
    let name = rename.unwrap_or(&file.name).to_owned();
    check_name(&name)
        .map_err(anyhow::Error::msg)
        .context("--name")?;
    check_components(&file)?;
    let metrics = metrics::of(&file)?;
    let cache = cache(&file.cache)?;
    let plan = Plan {
        fabric: file.fabric,
        emulate: file.emulate.map(|emulate| emulate.text),
        placement: file.gmm.placement,
        lease_ms: file.gmm.lease_ms,
        memory: file
            .memory
            .into_iter()
            .map(|m| Memory {
                name: m.name,
                size: m.size,
                host: m.host,
            })
            .collect(),
        storage: file
            .storage
            .into_iter()
            .map(|entry| storage(entry, directory))
            .collect::<Result<_>>()?,
        processors: file
            .processor
            .into_iter()
            .map(|p| Processor {
                name: p.name,
                host: p.host,
            })
            .collect(),
        log: file.log,
        hosts: file
            .host
            .into_iter()
            .map(|entry| entry.checked(directory))
            .collect::<Result<_>>()?,
        address: file.address,
        gmm_host: file.gmm.host,
        metrics,
    };
    hosts::check(&plan)?;
    Ok(Description { name, plan, cache })
}

fn storage(entry: StorageEntry, directory: &Path) -> Result<Storage> {
    if entry.host.is_some() {
        // Whether it is there is seen there.
        if !entry.root.is_absolute() {
            bail!(
                "[[storage]] {:?}: root {:?} lies on another host: give an absolute path",
                entry.name,
                entry.root
            );
        }
        return Ok(Storage {
            name: entry.name,
            root: entry.root,
            origin: None,
            host: entry.host,
        });
    }
    let root = Root::new(&directory.join(&entry.root))
        .with_context(|| format!("[[storage]] {:?}", entry.name))?;
    Ok(Storage {
        name: entry.name,
        root: root.path().to_owned(),
        origin: None,
        host: None,
    })
}

fn check_components(file: &File) -> Result<()> {
    for (kind, count, example) in [
        (
            "memory",
            file.memory.len(),
            "name = \"m0\" and size = \"1GiB\"",
        ),
        (
            "storage",
            file.storage.len(),
            "name = \"s0\" and root = \"/\"",
        ),
        ("processor", file.processor.len(), "name = \"p0\""),
    ] {
        if count == 0 {
            bail!("no [[{kind}]] component: add one with {example}");
        }
    }
    let names = file
        .memory
        .iter()
        .map(|m| &m.name)
        .chain(file.storage.iter().map(|s| &s.name))
        .chain(file.processor.iter().map(|p| &p.name));
    let mut seen = BTreeSet::from(["gmm"]);
    for name in names {
        if !seen.insert(name) {
            bail!("two components are called {name:?} (gmm is one): give each a name of its own");
        }
    }
    if file
        .gmm
        .lease_ms
        .is_some_and(|lease| !(50..=600_000).contains(&lease))
    {
        bail!("[gmm] lease_ms: give 50 to 600000 milliseconds, such as 2000");
    }
    Ok(())
}

fn cache(cache: &Cache) -> Result<CacheConfig> {
    let defaults = CacheConfig::default();
    let config = CacheConfig {
        size: cache.size.unwrap_or(defaults.size),
        line: cache.line.unwrap_or(defaults.line),
        ways: cache.ways.or(defaults.ways),
        policy: cache.policy.map_or(defaults.policy, Into::into),
        prefetch: cache.prefetch.unwrap_or(defaults.prefetch),
        run_ahead: cache.run_ahead.unwrap_or(defaults.run_ahead),
    };
    if config.ways.is_some_and(|ways| ways < 8) {
        bail!("[cache] ways: give 8 or more");
    }
    shape::check(&config, false)
        .map_err(anyhow::Error::msg)
        .context("[cache]")?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Description> {
        parse(text, None, Path::new("/"))
    }

    fn refused(text: &str) -> String {
        format!("{:#}", parsed(text).expect_err("accepted"))
    }

    const LEAST: &str = r#"
name = "lab"
[[memory]]
name = "m0"
size = "64M"
[[storage]]
name = "s0"
root = "tmp"
[[processor]]
name = "p0"
"#;

    #[test]
    fn the_example_is_a_description() {
        let example = parsed(EXAMPLE).unwrap();
        assert!(example.plan.memory.len() >= 2);
        assert_eq!(example.plan.storage[0].root, Path::new("/"));
        assert_eq!(example.cache, CacheConfig::default());
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let lab = parsed(LEAST).unwrap();
        assert_eq!((lab.name.as_str(), lab.plan.fabric), ("lab", Fabric::Auto));
        assert_eq!(
            lab.plan.memory,
            [Memory {
                name: "m0".into(),
                size: 64 << 20,
                host: None
            }]
        );
        assert_eq!(lab.plan.storage[0].root, Path::new("/tmp"));
        assert_eq!(lab.cache, CacheConfig::default());
        let named = parse(LEAST, Some("other"), Path::new("/")).unwrap();
        assert_eq!(named.name, "other");
    }

    #[test]
    fn errors_name_the_line() {
        for (from, to, words) in [
            ("size = \"64M\"", "size = \"many\"", &["line 5", "64M"][..]),
            ("size = \"64M\"", "size = 5", &["line 5", "2MiB"]),
            (
                "size = \"64M\"",
                "sise = \"64M\"",
                &["line 5", "sise", "size"],
            ),
            ("name = \"p0\"", "name = \"p/0\"", &["line 10", "letters"]),
            ("name = \"p0\"", "name = \"m0\"", &["m0", "name of its own"]),
            ("root = \"tmp\"", "root = \"no-such\"", &["s0", "no-such"]),
            (
                "[[processor]]\nname = \"p0\"\n",
                "",
                &["[[processor]]", "p0"],
            ),
            (
                "name = \"lab\"",
                "name = \"lab\"\nfabric = \"ib\"",
                &["line 3", "shm"],
            ),
            (
                "[[processor]]",
                "[cache]\nline = 5000\n[[processor]]",
                &["line 10", "power of two"],
            ),
            (
                "[[processor]]",
                "[cache]\nsize = 4096\n[[processor]]",
                &["[cache]", "--line"],
            ),
            (
                "name = \"p0\"",
                "name = \"p0\"\nmetrics = \"9400\"",
                &["line 11", "127.0.0.1:9400"],
            ),
            (
                "name = \"p0\"",
                "name = \"p0\"\nmetrics = \"127.0.0.1:0\"",
                &["line 11", "port"],
            ),
            (
                "[[processor]]",
                "[gmm]\nlease_ms = 1\n[[processor]]",
                &["lease_ms", "2000"],
            ),
        ] {
            assert!(LEAST.contains(from), "{from}");
            let said = refused(&LEAST.replacen(from, to, 1));
            for word in words {
                assert!(said.contains(word), "{to:?} lacks {word:?}: {said}");
            }
        }
    }
}
