//! How two components meet: who they are, and the proof, over any stream.
//!
//! | from | frame | body |
//! |---|---|---|
//! | client | Hello | version (2 bytes), nonce (16), identity |
//! | server | Challenge | nonce (16) |
//! | client | Proof | HMAC(secret, "client", both nonces) |
//! | server | Accept | HMAC(secret, "server", both nonces), instance (8), identity |
//! | server | Refuse | the reason, instead of Challenge or Accept |
//!
//! The secret is the client's ([`crate::ClusterKey::derive`]): both prove that
//! they know it. The instance is a random number of the server's, different
//! each time that it starts.

use crate::auth::{mac, proves, random};
use crate::frame::{Garbled, Header, Kind};
use crate::stream::{Deadline, Stream, Wait};
use crate::{ClusterKey, Credential, FabricError};
use proto::Identity;
use proto::wire::{self, PROTOCOL_VERSION};

const NONCE: usize = 16;
const PROOF: usize = 32;

/// A server as a client has come to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) identity: Identity,
    pub(crate) instance: u64,
}

fn receive(stream: &mut Stream, deadline: &Deadline) -> Result<(Header, Vec<u8>), FabricError> {
    let wait = Wait::Until(*deadline);
    let header = stream.header(&wait)?;
    if header.kind as u8 > Kind::Refuse as u8 {
        return Err(Garbled::Unexpected(header.kind).by(&stream.name));
    }
    let mut body = vec![0; header.len];
    stream.fill(&mut body, &wait)?;
    Ok((header, body))
}

/// Receives a frame of `kind`, or the refusal in its place.
fn receive_kind(
    stream: &mut Stream,
    kind: Kind,
    deadline: &Deadline,
) -> Result<Vec<u8>, FabricError> {
    let (header, body) = receive(stream, deadline)?;
    if header.kind == Kind::Refuse {
        let why = String::from_utf8_lossy(&body).into_owned();
        return Err(FabricError::Rejected {
            addr: stream.name.clone(),
            why,
        });
    }
    header
        .expect(kind)
        .map_err(|garbled| garbled.by(&stream.name))?;
    Ok(body)
}

fn send(
    stream: &Stream,
    kind: Kind,
    parts: &[&[u8]],
    deadline: &Deadline,
) -> Result<(), FabricError> {
    let len = parts.iter().map(|p| p.len()).sum();
    stream.send(Header::new(kind, len, 0), parts, deadline)
}

/// The client's part.
pub(crate) fn greet(
    stream: &mut Stream,
    credential: &Credential,
    deadline: &Deadline,
) -> Result<Met, FabricError> {
    let ours: [u8; NONCE] = random()?;
    let version = PROTOCOL_VERSION.to_le_bytes();
    let identity = wire::encode(&credential.identity);
    send(stream, Kind::Hello, &[&version, &ours, &identity], deadline)?;
    let theirs = receive_kind(stream, Kind::Challenge, deadline)?;
    let secret = &credential.secret.0;
    let proof = mac(secret, &[b"client", &ours, &theirs]);
    send(stream, Kind::Proof, &[&proof], deadline)?;
    let body = receive_kind(stream, Kind::Accept, deadline)?;
    let Some((proof, rest)) = body.split_at_checked(PROOF) else {
        return Err(Garbled::Length(Kind::Accept).by(&stream.name));
    };
    if !proves(secret, &[b"server", &ours, &theirs], proof) {
        let why = "it does not know this testbed's key: it belongs to another".to_owned();
        return Err(FabricError::Rejected {
            addr: stream.name.clone(),
            why,
        });
    }
    let Some((instance, identity)) = rest.split_first_chunk() else {
        return Err(Garbled::Length(Kind::Accept).by(&stream.name));
    };
    let malformed = |e: wire::Malformed| FabricError::Protocol {
        peer: stream.name.clone(),
        why: e.to_string(),
    };
    let identity = wire::decode(identity).map_err(malformed)?;
    Ok(Met {
        identity,
        instance: u64::from_le_bytes(*instance),
    })
}

/// The server's part: who is there, proved.
pub(crate) fn admit(
    stream: &mut Stream,
    key: &ClusterKey,
    me: &Met,
    deadline: &Deadline,
) -> Result<Identity, FabricError> {
    let (header, body) = receive(stream, deadline)?;
    header
        .expect(Kind::Hello)
        .map_err(|garbled| garbled.by(&stream.name))?;
    let (theirs, who) = match read_hello(&body) {
        Ok(hello) => hello,
        Err(why) => return Err(refuse(stream, why, deadline)),
    };
    let ours: [u8; NONCE] = random()?;
    send(stream, Kind::Challenge, &[&ours], deadline)?;
    let (header, proof) = receive(stream, deadline)?;
    header
        .expect(Kind::Proof)
        .map_err(|garbled| garbled.by(&stream.name))?;
    let secret = key.derive(who).0;
    if !proves(&secret, &[b"client", &theirs, &ours], &proof) {
        let why = format!("the proof that it is {who} is wrong: it has another testbed's key");
        return Err(refuse(stream, why, deadline));
    }
    let proof = mac(&secret, &[b"server", &theirs, &ours]);
    let (instance, identity) = (me.instance.to_le_bytes(), wire::encode(&me.identity));
    send(
        stream,
        Kind::Accept,
        &[&proof, &instance, &identity],
        deadline,
    )?;
    Ok(who)
}

fn read_hello(body: &[u8]) -> Result<([u8; NONCE], Identity), String> {
    let short = || "a hello that is too short".to_owned();
    let (version, rest) = body.split_first_chunk().ok_or_else(short)?;
    let version = u16::from_le_bytes(*version);
    if version != PROTOCOL_VERSION {
        return Err(format!(
            "it speaks version {version} of the protocol, we speak {PROTOCOL_VERSION}: install \
             the same release everywhere"
        ));
    }
    let (nonce, identity) = rest.split_first_chunk().ok_or_else(short)?;
    Ok((*nonce, wire::decode(identity).map_err(|e| e.to_string())?))
}

/// Tells the client why, and gives the error to be logged.
pub(crate) fn refuse(stream: &Stream, why: String, deadline: &Deadline) -> FabricError {
    // It may be gone already; the reason is logged here too.
    let _ = send(
        stream,
        Kind::Refuse,
        &[&why.as_bytes()[..why.len().min(200)]],
        deadline,
    );
    FabricError::Rejected {
        addr: stream.name.clone(),
        why,
    }
}
