//! Whoever can reach a port can send anything to it.

use crate::bed::{ALICE, Bed, Kind};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

trait Socket: Read + Write {}
impl<T: Read + Write> Socket for T {}

fn raw(bed: &Bed) -> Box<dyn Socket> {
    let addrs = bed.server.addrs();
    let limit = Some(Duration::from_secs(20));
    match addrs[0].split_once(':').unwrap() {
        ("shm", path) => {
            let socket = UnixStream::connect(path).unwrap();
            socket.set_read_timeout(limit).unwrap();
            Box::new(socket)
        }
        (_, place) => {
            let socket = TcpStream::connect(place).unwrap();
            socket.set_read_timeout(limit).unwrap();
            Box::new(socket)
        }
    }
}

/// Reads to the end: the server closes it.
fn assert_closed(socket: &mut dyn Socket) {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => assert!(
            rest.len() < 4096,
            "{} bytes in answer to garbage",
            rest.len()
        ),
        Err(e) => assert!(
            !matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ),
            "it is still open"
        ),
    }
}

/// Bytes that nobody foresaw, the same in each run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| byte()).collect()
}

pub(crate) fn garbage_harms_nobody(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    let texts: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        &[0; 64],
        &[0xff; 64],
        b"\x16\x03\x01\x02\x00\x01",
    ];
    let texts = texts.into_iter().map(<[u8]>::to_vec);
    for garbage in texts.chain((0..40).map(|n| noise(n, 16 + n as usize * 13))) {
        let mut socket = raw(&bed);
        // It may be closed before all was sent.
        let _ = socket.write_all(&garbage);
        if garbage.len() >= 16 {
            assert_closed(&mut *socket);
        }
    }
    assert_eq!(alice.call(b"e").unwrap(), b"e", "older connections live on");
    bed.assert_sound();
    assert!(
        bed.tester
            .events
            .lock()
            .unwrap()
            .iter()
            .all(|(_, who)| *who == ALICE)
    );
}

/// A newer release must be told why, in words that an older one understands.
pub(crate) fn another_version_is_refused_by_name(kind: Kind) {
    let bed = Bed::new(kind);
    let mut hello = record_hello();
    let version = proto::wire::PROTOCOL_VERSION;
    assert_eq!(hello[16..18], version.to_le_bytes());
    hello[16..18].copy_from_slice(&(version + 1).to_le_bytes());
    let mut socket = raw(&bed);
    socket.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let both = [
        format!("version {}", version + 1),
        format!("we speak {version}"),
    ];
    assert!(both.iter().all(|part| answer.contains(part)), "{answer}");
    bed.assert_sound();
}

pub(crate) fn silence_holds_up_nobody(kind: Kind) {
    let bed = Bed::new(kind);
    let silent: Vec<_> = (0..20).map(|_| raw(&bed)).collect();
    let begun = Instant::now();
    bed.assert_sound();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "it waited for the silent ones"
    );
    drop(silent);
    bed.assert_sound();
}

/// A true handshake, cut off or changed at any byte.
pub(crate) fn half_a_handshake_harms_nobody(kind: Kind) {
    let bed = Bed::new(kind);
    let hello = record_hello();
    for cut in 0..hello.len() {
        let mut socket = raw(&bed);
        let _ = socket.write_all(&hello[..cut]);
    }
    for at in 0..hello.len() {
        let mut changed = hello.clone();
        changed[at] ^= 0xff;
        let mut socket = raw(&bed);
        let _ = socket.write_all(&changed);
    }
    // What is announced must fit: a header that claims 4 GiB is not waited for.
    let mut huge = hello.clone();
    huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut socket = raw(&bed);
    socket.write_all(&huge).unwrap();
    assert_closed(&mut *socket);
    bed.assert_sound();
    assert!(
        bed.tester
            .events
            .lock()
            .unwrap()
            .iter()
            .all(|(_, who)| *who == ALICE)
    );
}

/// The first bytes of a client, as somebody on the way would see them.
fn record_hello() -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let client = std::thread::spawn(move || {
        let key = fabric::ClusterKey::generate().unwrap();
        let credential = fabric::Credential {
            identity: ALICE,
            secret: key.derive(ALICE),
        };
        fabric::Connection::open(&[address], &credential, &fabric::Options::default()).is_err()
    });
    let (mut socket, _) = listener.accept().unwrap();
    let mut hello = vec![0; 256];
    let n = socket.read(&mut hello).unwrap();
    hello.truncate(n);
    drop(socket);
    assert!(
        client.join().unwrap(),
        "a server that hangs up is no server"
    );
    assert!(n > 16, "{n} bytes");
    hello
}
