//! Files for an agent's host.

use super::Client;
use crate::agent::files::{sha256, sha256_of};
use crate::agent::message::{Answer, CHUNK, Message, Place, Request, Stream};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// A transfer that takes longer is given up.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);

impl Client {
    /// Puts a small file into the run directory.
    pub(crate) fn put(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let head = (name, mode, bytes.len() as u64, sha256(bytes));
        self.transfer(Place::Run, head, &mut &bytes[..])
            .with_context(|| format!("cannot put {name}"))
    }

    /// Sees to it that the host has this binary: sends it if it hasn't.
    pub(crate) fn put_binary(&self, name: &str, path: &Path) -> Result<()> {
        let sha256 = sha256_of(path)?;
        let asked = Request::HasBinary {
            name: name.to_owned(),
            sha256: sha256.clone(),
        };
        if self.call(asked)? == Answer::Has(true) {
            return Ok(());
        }
        let context = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let length = file.metadata().with_context(context)?.len();
        self.transfer(Place::Binaries, (name, 0o755, length, sha256), &mut file)
            .with_context(|| format!("cannot put {name}"))
    }

    fn transfer(
        &self,
        place: Place,
        (name, mode, length, sha256): (&str, u32, u64, String),
        from: &mut dyn Read,
    ) -> Result<()> {
        let id = self.number();
        let name = name.to_owned();
        let request = Request::PutFile {
            place,
            name,
            mode,
            length,
            sha256,
        };
        let replied = self.begin(id, request)?;
        let mut buffer = vec![0; CHUNK];
        let mut from = from.take(length);
        loop {
            let count = from.read(&mut buffer).context("reading")?;
            // An answer before the end is a refusal.
            if count == 0 || !self.shared.lock().calls.contains_key(&id) {
                break;
            }
            let (stream, bytes) = (Stream::In, buffer[..count].to_vec());
            if self
                .sender
                .send(&Message::Data { id, stream, bytes })
                .is_err()
            {
                break;
            }
        }
        self.end(id, &replied, TRANSFER_DEADLINE).map(drop)
    }
}
