//! The Ethernet that joins the machines: a learning switch in this process.
//! Each machine's QEMU connects to a Unix socket of its own and sends frames
//! behind a big-endian u32 length (`-netdev stream`). No interface of the host
//! is touched. It is also where loss, delay and partitions are made.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest frame, bytes: QEMU's own bound.
const LONGEST_FRAME: usize = 69 * 1024;
/// Two addresses and a type.
const SHORTEST_FRAME: usize = 14;
/// Frames under way to one machine; more are dropped, as switches do.
const QUEUE: usize = 4096;
/// Addresses remembered: guests have one each, but may make up others.
const MOST_ADDRESSES: usize = 1024;
/// Of this many frames [`Link::loss`] are lost.
pub(super) const LOSS_UNIT: u32 = 1_000_000;

type Mac = [u8; 6];

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// To this port alone.
    Port(usize),
    /// To all but the one that it came from.
    Flood,
    /// Nowhere: it is no frame, or its receiver is where it came from.
    Nowhere,
}

/// Who is where, as learnt from senders' addresses.
#[derive(Default)]
struct Table(HashMap<Mac, usize>);

impl Table {
    /// A frame that came in at a port.
    fn handle_frame(&mut self, port: usize, frame: &[u8]) -> Target {
        if frame.len() < SHORTEST_FRAME {
            return Target::Nowhere;
        }
        let mac = |at: usize| -> Mac { std::array::from_fn(|n| frame[at + n]) };
        let (to, from) = (mac(0), mac(6));
        // A group address is no sender's.
        if from[0] & 1 == 0 && (self.0.len() < MOST_ADDRESSES || self.0.contains_key(&from)) {
            self.0.insert(from, port);
        }
        match self.0.get(&to) {
            Some(known) if *known == port => Target::Nowhere,
            Some(known) => Target::Port(*known),
            None => Target::Flood,
        }
    }
}

/// How a machine's cable behaves, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Link {
    /// Nothing passes.
    pub(super) cut: bool,
    /// Frames lost of [`LOSS_UNIT`], each way.
    pub(super) loss: u32,
    /// Added to each frame, each way.
    pub(super) delay: Duration,
}

/// A running switch. Its threads end with the process.
pub(super) struct Switch(Arc<Shared>);

struct Shared {
    ports: Vec<SyncSender<Frame>>,
    state: Mutex<State>,
}

struct State {
    table: Table,
    links: Vec<Link>,
}

struct Frame {
    due: Instant,
    bytes: Arc<[u8]>,
}

impl Switch {
    /// Listens for one machine at each socket.
    pub(super) fn start(sockets: &[impl AsRef<Path>]) -> Result<Switch> {
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for _ in sockets {
            let (sender, queue) = sync_channel(QUEUE);
            ports.push(sender);
            queues.push(queue);
        }
        let state = Mutex::new(State {
            table: Table::default(),
            links: vec![Link::default(); sockets.len()],
        });
        let shared = Arc::new(Shared { ports, state });
        for (port, (path, queue)) in sockets.iter().zip(queues).enumerate() {
            let path = path.as_ref();
            let listener = UnixListener::bind(path);
            let listener = listener.with_context(|| path.display().to_string())?;
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("port-{port}"));
            let body = move || shared.serve(port, &listener, queue);
            thread.spawn(body).context("cannot start a thread")?;
        }
        Ok(Switch(shared))
    }

    pub(super) fn link(&self, port: usize) -> Option<Link> {
        self.0.lock().links.get(port).copied()
    }

    pub(super) fn set_link(&self, port: usize, link: Link) {
        if let Some(slot) = self.0.lock().links.get_mut(port) {
            *slot = link;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// QEMU connects once and does not come back.
    fn serve(&self, port: usize, listener: &UnixListener, queue: Receiver<Frame>) {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        let Ok(writer) = stream.try_clone() else {
            return;
        };
        std::thread::scope(|scope| {
            scope.spawn(move || send_all(&queue, writer));
            let mut reader = BufReader::with_capacity(LONGEST_FRAME, stream);
            loop {
                match read_frame(&mut reader) {
                    Ok(frame) => self.forward(port, &frame),
                    Err(why) => {
                        tracing::info!("machine {}: its network ended: {why:#}", port + 1);
                        return;
                    }
                }
            }
        });
    }

    fn forward(&self, port: usize, bytes: &Arc<[u8]>) {
        let (target, from) = {
            let mut state = self.lock();
            let from = state.links[port];
            if !passes(from) {
                return;
            }
            (state.table.handle_frame(port, bytes), from)
        };
        let all = 0..self.ports.len();
        let to = all.filter(|to| match target {
            Target::Port(known) => *to == known,
            Target::Flood => *to != port,
            Target::Nowhere => false,
        });
        for to in to {
            let link = self.lock().links[to];
            if passes(link) {
                let due = Instant::now() + from.delay + link.delay;
                let bytes = bytes.clone();
                // No room: it is lost, and those who speak say it again.
                let _ = self.ports[to].try_send(Frame { due, bytes });
            }
        }
    }
}

fn passes(link: Link) -> bool {
    !link.cut && (link.loss == 0 || fastrand::u32(0..LOSS_UNIT) >= link.loss)
}

/// Until the machine is gone. Delays differ only by link: frames stay in
/// order.
fn send_all(queue: &Receiver<Frame>, mut writer: UnixStream) {
    while let Ok(Frame { due, bytes }) = queue.recv() {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left);
        }
        let length = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        if writer.write_all(&[&length[..], &bytes].concat()).is_err() {
            return;
        }
    }
}

fn read_frame(reader: &mut impl Read) -> Result<Arc<[u8]>> {
    let mut head = [0; 4];
    reader.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head) as usize;
    ensure!(
        length <= LONGEST_FRAME,
        "a frame of {length} bytes, more than {LONGEST_FRAME}"
    );
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mac = |n: u8| [2, 0, 0, 0, 0, n];
        [&mac(to)[..], &mac(from), &[8, 0], b"data"].concat()
    }

    #[test]
    fn unknown_receivers_are_flooded_and_known_ones_are_not() {
        let mut table = Table::default();
        assert_eq!(table.handle_frame(0, &frame(2, 1)), Target::Flood);
        assert_eq!(table.handle_frame(1, &frame(1, 2)), Target::Port(0));
        assert_eq!(table.handle_frame(0, &frame(2, 1)), Target::Port(1));
        assert_eq!(table.handle_frame(1, &frame(2, 3)), Target::Nowhere);
        assert_eq!(table.handle_frame(0, &[0; 13]), Target::Nowhere);
    }

    #[test]
    fn broadcasts_are_never_learnt() {
        let mut table = Table::default();
        let all = [0xff; 6];
        let from_all = [&[2, 0, 0, 0, 0, 1][..], &all, &[8, 0]].concat();
        table.handle_frame(0, &from_all);
        let to_all = [&all[..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat();
        assert_eq!(table.handle_frame(1, &to_all), Target::Flood);
    }

    proptest! {
        /// Model: who was last heard where.
        #[test]
        fn goes_where_the_receiver_was_last_heard(
            frames in prop::collection::vec((0..4usize, 0..6u8, 0..6u8), 0..200)
        ) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (port, to, from) in frames {
                model.insert(from, port);
                let expected = match model.get(&to) {
                    None => Target::Flood,
                    Some(at) if *at == port => Target::Nowhere,
                    Some(at) => Target::Port(*at),
                };
                prop_assert_eq!(table.handle_frame(port, &frame(to, from)), expected);
            }
        }
    }

    fn plugged(count: usize) -> (tempfile::TempDir, Switch, Vec<UnixStream>) {
        let place = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..count)
            .map(|n| place.path().join(n.to_string()))
            .collect();
        let switch = Switch::start(&paths).unwrap();
        let connect = |path| {
            let stream = UnixStream::connect(path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream
        };
        let streams = paths.iter().map(connect).collect();
        (place, switch, streams)
    }

    fn send(stream: &mut UnixStream, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(frame).unwrap();
    }

    #[test]
    fn machines_hear_each_other_and_a_cut_one_hears_nothing() {
        let (_place, switch, mut plugs) = plugged(3);
        send(&mut plugs[0], &frame(2, 1));
        for plug in &mut plugs[1..] {
            assert_eq!(*read_frame(plug).unwrap(), frame(2, 1)[..]);
        }
        let cut = Link {
            cut: true,
            ..Link::default()
        };
        switch.set_link(1, cut);
        assert_eq!(switch.link(1), Some(cut));
        send(&mut plugs[0], &frame(3, 1));
        assert_eq!(*read_frame(&mut plugs[2]).unwrap(), frame(3, 1)[..]);
        switch.set_link(1, Link::default());
        send(&mut plugs[0], &frame(4, 1));
        // The one between is missing.
        assert_eq!(*read_frame(&mut plugs[1]).unwrap(), frame(4, 1)[..]);
    }

    #[test]
    fn all_are_lost_where_all_shall_be() {
        let link = |loss| Link {
            loss,
            ..Link::default()
        };
        assert!((0..1000).all(|_| !passes(link(LOSS_UNIT))));
        assert!((0..1000).all(|_| passes(link(0))));
    }
}
