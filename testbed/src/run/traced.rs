//! `--trace`: the file, and what is said of it at the end.

use crate::out::warn;
use anyhow::{Context, Result};
use rustix::fd::{AsFd, BorrowedFd};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What takes the trace: a file here, wherever the program runs.
pub(super) struct TraceFile {
    path: PathBuf,
    file: File,
}

impl TraceFile {
    /// Before the program runs: a wrong path costs no run.
    pub(super) fn create(path: &Path) -> Result<TraceFile> {
        let file = File::create(path)
            .with_context(|| format!("--trace: cannot write {}", path.display()))?;
        Ok(TraceFile {
            path: path.to_owned(),
            file,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Says what is missing from the trace. The program is not concerned: its
    /// status stays what it was.
    pub(super) fn account(&self, process: Option<&Value>) {
        if let Some(said) = said(process.map(|process| &process["trace"])) {
            warn(&format!("--trace: {}: {said}", self.path.display()));
        }
    }
}

/// `None` where nothing is missing.
fn said(account: Option<&Value>) -> Option<String> {
    let lost = account.and_then(|account| account["lost"].as_u64());
    let error = account.and_then(|account| account["error"].as_str());
    match (lost, error) {
        (None, _) => Some(
            "the program left no account of its trace, whose last records may be missing".into(),
        ),
        (Some(lost), Some(why)) => Some(format!(
            "the trace could not be written to its end: {why}; {lost} records or more are \
             missing: make room and run again"
        )),
        (Some(0), None) => None,
        (Some(lost), None) => Some(format!(
            "{lost} records were lost: misses came faster than they could be written; a \
             faster disk helps"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_is_missing_is_said() {
        let whole = json!({ "records": 7, "lost": 0, "error": null });
        assert_eq!(said(Some(&whole)), None);
        let lost = json!({ "records": 7, "lost": 3, "error": null });
        assert!(said(Some(&lost)).unwrap().contains("3 records were lost"));
        let full = json!({ "records": 7, "lost": 3, "error": "no space left" });
        assert!(said(Some(&full)).unwrap().contains("no space left"));
        assert!(said(Some(&Value::Null)).unwrap().contains("no account"));
        assert!(said(None).unwrap().contains("no account"));
    }
}
