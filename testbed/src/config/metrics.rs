//! Where components show their metrics.

use super::File;
use anyhow::{Result, bail};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An address and a port. Not port 0: a scraper has to know it.
pub(super) fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => Err(serde::de::Error::custom(format!(
            "metrics: {text:?} is no address to show metrics at: give an address of the \
             component's machine and a port, such as \"127.0.0.1:9400\""
        ))),
    }
}

/// By component. Two on one machine can't have the same.
pub(super) fn of(file: &File) -> Result<BTreeMap<String, SocketAddr>> {
    let gmm = (&"gmm".to_owned(), &file.gmm.host, file.gmm.metrics);
    let memory = file.memory.iter().map(|m| (&m.name, &m.host, m.metrics));
    let storage = file.storage.iter().map(|s| (&s.name, &s.host, s.metrics));
    let processors = file.processor.iter().map(|p| (&p.name, &p.host, p.metrics));
    let all = std::iter::once(gmm)
        .chain(memory)
        .chain(storage)
        .chain(processors);
    let mut taken = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    for (name, host, address) in all {
        let Some(address) = address else { continue };
        if let Some(other) = taken.insert((host, address), name) {
            bail!("{other} and {name} both want to show metrics at {address}: give each a port");
        }
        by_name.insert(name.clone(), address);
    }
    Ok(by_name)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use std::path::Path;

    const LAB: &str = r#"
name = "lab"
[gmm]
metrics = "127.0.0.1:9400"
[[memory]]
name = "m0"
size = "64M"
metrics = "127.0.0.1:9401"
[[storage]]
name = "s0"
root = "/"
[[processor]]
name = "p0"
metrics = "[::1]:9400"
"#;

    #[test]
    fn each_has_its_own() {
        let lab = parse(LAB, None, Path::new("/")).unwrap();
        let shown: Vec<String> = lab
            .plan
            .metrics
            .iter()
            .map(|(n, a)| format!("{n} {a}"))
            .collect();
        assert_eq!(
            shown,
            ["gmm 127.0.0.1:9400", "m0 127.0.0.1:9401", "p0 [::1]:9400"]
        );
        let twice = LAB.replace("9401", "9400");
        let why = parse(&twice, None, Path::new("/")).unwrap_err().to_string();
        assert!(
            why.contains("gmm and m0") && why.contains("127.0.0.1:9400"),
            "{why}"
        );
    }
}
