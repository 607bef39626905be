//! Identities and how they are proved.
//!
//! A testbed has one key. Who holds it can check any identity; who is given
//! only the secret derived for its own identity can prove that one and no
//! other. The proof is a challenge and response over both sides' nonces
//! ([`crate::handshake`]); what follows on the connection is not encrypted.

use crate::FabricError;
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use proto::{Identity, Secret, wire};
use sha2::Sha256;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The testbed's key: 256 random bits. Never printed.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Who we say we are, and the proof.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Who.
    pub identity: Identity,
    /// [`ClusterKey::derive`]d for that identity.
    pub secret: Secret,
}

impl ClusterKey {
    /// A new one.
    ///
    /// # Errors
    /// [`FabricError::Local`] where the system has no randomness.
    pub fn generate() -> Result<Self, FabricError> {
        Ok(Self(random()?))
    }

    /// Reads a key that [`ClusterKey::save`] wrote.
    ///
    /// # Errors
    /// [`FabricError::Local`], naming the file: it cannot be read, others than
    /// its owner may read it, or it does not hold 32 bytes.
    pub fn load(path: &Path) -> Result<Self, FabricError> {
        let what = format!("cluster key {}", path.display());
        let failed = |e| FabricError::local(&what, e);
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!("others may read it (mode {:o}): chmod 600 it", mode & 0o777);
            return Err(FabricError::local(&what, why));
        }
        let mut bytes = Vec::with_capacity(33);
        Read::by_ref(&mut file)
            .take(33)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let wrong = |_| FabricError::local(&what, "it does not hold 32 bytes: make it anew");
        Ok(Self(bytes.try_into().map_err(wrong)?))
    }

    /// Writes it to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`FabricError::Local`], naming the file, also where it exists.
    pub fn save(&self, path: &Path) -> Result<(), FabricError> {
        let what = format!("cluster key {}", path.display());
        let options = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let written = options.and_then(|mut file| file.write_all(&self.0));
        written.map_err(|e| FabricError::local(&what, e))
    }

    /// The secret that proves `identity`.
    #[must_use]
    pub fn derive(&self, identity: Identity) -> Secret {
        Secret(mac(
            &self.0,
            &[b"splitkernel identity", &wire::encode(&identity)],
        ))
    }
}

/// `N` random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], FabricError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(FabricError::local("random numbers", e)),
        }
    }
    Ok(bytes)
}

fn keyed(secret: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC pads a key with zeros to the hash's block (RFC 2104); a whole block
    // is what its constructor takes without a way to fail.
    let mut block = [0; 64];
    block[..32].copy_from_slice(secret);
    let mut hmac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    for part in parts {
        hmac.update(part);
    }
    hmac
}

/// HMAC-SHA256 of `parts`, one after the other.
pub(crate) fn mac(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    keyed(secret, parts).finalize().into_bytes().into()
}

/// Whether `proof` is the [`mac`] of `parts`, in a time that does not tell how
/// much of it is right.
pub(crate) fn proves(secret: &[u8; 32], parts: &[&[u8]], proof: &[u8]) -> bool {
    keyed(secret, parts).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ProcessId;

    #[test]
    fn a_key_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = ClusterKey::generate().unwrap();
        key.save(&path).unwrap();
        let again = ClusterKey::load(&path).unwrap();
        let who = Identity::Process(ProcessId(3));
        assert_eq!(key.derive(who), again.derive(who));
        assert_ne!(key.derive(who), key.derive(Identity::Operator));
        assert!(
            key.save(&path).is_err(),
            "an existing key is never overwritten"
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        ClusterKey::generate().unwrap().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = ClusterKey::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && error.contains("key"),
            "{error}"
        );
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 31, 33, 4096] {
            let path = dir.path().join(len.to_string());
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .unwrap();
            file.write_all(&vec![0; len]).unwrap();
            assert!(ClusterKey::load(&path).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn comparing_takes_the_whole() {
        let proof = mac(&[0x0b; 32], &[b"Hi ", b"There"]);
        assert_eq!(proof, mac(&[0x0b; 32], &[b"Hi There"]));
        let mut other = proof;
        other[31] ^= 1;
        let parts: [&[u8]; 1] = [b"Hi There"];
        let right = |proof: &[u8]| proves(&[0x0b; 32], &parts, proof);
        assert!(right(&proof) && !right(&other) && !right(&proof[..31]));
    }
}
