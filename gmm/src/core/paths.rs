//! Which storage component serves which path.

use super::records::NodeRecord;
use super::{Core, Decision, malformed};
use proto::NodeKind;
use proto::gmm::{GmmReply, Refusal};
use std::str::FromStr;

/// Paths below `prefix` are served by the storage component `name`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathRule {
    /// Absolute, without a final slash; empty for `/`.
    prefix: String,
    name: String,
}

/// Not a rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no path rule: write /PREFIX=NAME, such as /data=s1")]
pub struct PathRuleError(String);

impl FromStr for PathRule {
    type Err = PathRuleError;
    fn from_str(text: &str) -> Result<PathRule, PathRuleError> {
        match text.rsplit_once('=') {
            Some((prefix, name)) if prefix.starts_with('/') && !name.is_empty() => Ok(PathRule {
                prefix: prefix.trim_end_matches('/').to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(PathRuleError(text.to_owned())),
        }
    }
}

impl PathRule {
    fn covers(&self, path: &[u8]) -> bool {
        let rest = path.strip_prefix(self.prefix.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl Core {
    pub(super) fn place_path(&self, path: &[u8]) -> Result<Decision, Refusal> {
        if path.first() != Some(&b'/') {
            return Err(malformed("the path is not absolute"));
        }
        Ok(Decision::only(GmmReply::Placed(
            self.storage_for(path)?.info(),
        )))
    }

    /// The component with the longest prefix; without one the first that was
    /// registered and lives.
    pub(super) fn storage_for(&self, path: &[u8]) -> Result<&NodeRecord, Refusal> {
        let rules = self.config.paths.iter().filter(|rule| rule.covers(path));
        let found = match rules.max_by_key(|rule| rule.prefix.len()) {
            Some(rule) => self.live(NodeKind::Storage).find(|n| n.name == rule.name),
            None => self.live(NodeKind::Storage).next(),
        };
        found.ok_or(Refusal::NoComponent(NodeKind::Storage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_cover_whole_components() {
        let rule: PathRule = "/data/=s1".parse().unwrap();
        for (path, covered) in [
            ("/data", true),
            ("/data/x", true),
            ("/database", false),
            ("/", false),
        ] {
            assert_eq!(rule.covers(path.as_bytes()), covered, "{path}");
        }
        assert!("/=s0".parse::<PathRule>().unwrap().covers(b"/anything"));
        assert!("/a=b=s0".parse::<PathRule>().unwrap().covers(b"/a=b/c"));
        for text in ["data=s1", "/data", "/data=", ""] {
            assert!(text.parse::<PathRule>().is_err(), "{text}");
        }
    }
}
