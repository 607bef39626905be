//! Identities and how they are proved.
use crate::FabricError;
use hmac::{Hmac, Mac};
use proto::{Identity, Secret, wire};
use sha2::Sha256;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The testbed's key: 32 bytes, shared by its components alone.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);
impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Who we say we are, and the proof.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Who.
    pub identity: Identity,
    /// Proof.
    pub secret: Secret,
}

fn local(what: &str, why: impl std::fmt::Display) -> FabricError {
    FabricError::Local {
        what: what.into(),
        why: why.to_string(),
    }
}

/// `N` bytes of the system's random numbers.
///
/// # Errors
/// The system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], FabricError> {
    let mut b = [0; N];
    let _ = rustix::rand::getrandom(&mut b, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| local("getrandom", e))?;
    Ok(b)
}

pub(crate) fn mac(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut m = Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!());
    for p in parts {
        m.update(p);
    }
    m.finalize().into_bytes().into()
}
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

impl ClusterKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn generate() -> Result<Self, FabricError> {
        Ok(Self(random()?))
    }
    /// Reads a key file, which nobody else may read.
    ///
    /// # Errors
    /// Not there, not 32 bytes, or of a mode that others can read.
    pub fn load(path: &Path) -> Result<Self, FabricError> {
        let what = format!("cluster key {}", path.display());
        let mut f = std::fs::File::open(path).map_err(|e| local(&what, e))?;
        let mode = f
            .metadata()
            .map_err(|e| local(&what, e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(local(
                &what,
                format!("mode is {:o}: chmod 600 it", mode & 0o777),
            ));
        }
        let mut b = Vec::new();
        f.read_to_end(&mut b).map_err(|e| local(&what, e))?;
        let key: [u8; 32] = b
            .try_into()
            .map_err(|_| local(&what, "it is not 32 bytes"))?;
        Ok(Self(key))
    }
    /// Writes a new key file of mode 0600.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn save(&self, path: &Path) -> Result<(), FabricError> {
        let what = format!("cluster key {}", path.display());
        let mut f = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| local(&what, e))?;
        f.write_all(&self.0).map_err(|e| local(&what, e))
    }
    /// The secret that proves `id`: HMAC-SHA256 of it under this key.
    pub fn derive(&self, id: Identity) -> Secret {
        Secret(mac(&self.0, &[b"splitkernel identity", &wire::encode(&id)]))
    }
}
