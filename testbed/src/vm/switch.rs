//! A learning Ethernet switch between machines: frames come and go over Unix
//! stream sockets, each after its length (QEMU's `-netdev stream`). It touches
//! no network of the host.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest frame: Ethernet's largest, and virtio's header.
const LONGEST: usize = 70_000;
/// Frames that wait for a machine that does not take them; more are dropped,
/// as a switch does.
const WAITING: usize = 1024;

type Address = [u8; 6];
type PortNumber = usize;

/// Which machine is behind which port.
#[derive(Default)]
struct Table(HashMap<Address, PortNumber>);

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    To(PortNumber),
    /// To all but where it came from.
    Flood,
    Nowhere,
}

impl Table {
    /// Learns from a frame and says where it goes.
    fn way(&mut self, from: PortNumber, frame: &[u8]) -> Way {
        let (Some(to), Some(source)) = (address(frame, 0), address(frame, 6)) else {
            return Way::Nowhere;
        };
        // The lowest bit of the first byte marks groups, which send nothing.
        if source[0] & 1 == 0 {
            self.0.insert(source, from);
        }
        match self.0.get(&to) {
            _ if to[0] & 1 == 1 => Way::Flood,
            Some(&port) if port == from => Way::Nowhere,
            Some(&port) => Way::To(port),
            None => Way::Flood,
        }
    }

    fn forget(&mut self, port: PortNumber) {
        self.0.retain(|_, p| *p != port);
    }
}

fn address(frame: &[u8], at: usize) -> Option<Address> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[derive(Default)]
struct State {
    table: Table,
    ports: HashMap<PortNumber, SyncSender<Arc<[u8]>>>,
    next: PortNumber,
}

/// The switch; it works as long as its threads have a socket.
#[derive(Clone, Default)]
pub(super) struct Switch(Arc<Mutex<State>>);

impl Switch {
    /// Takes machines in, for ever: to be run on a thread of its own.
    pub(super) fn listen(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            if let Err(why) = stream.and_then(|stream| self.plug(stream)) {
                tracing::warn!("the switch: {why}");
            }
        }
    }

    fn plug(&self, stream: UnixStream) -> io::Result<()> {
        let (sender, receiver) = sync_channel(WAITING);
        let port = {
            let mut state = self.state();
            state.next += 1;
            let port = state.next;
            state.ports.insert(port, sender);
            port
        };
        let writer = stream.try_clone()?;
        let thread = |name: &str| std::thread::Builder::new().name(format!("{name} {port}"));
        thread("to").spawn(move || deliver(writer, &receiver))?;
        let switch = self.clone();
        thread("from").spawn(move || {
            let ended = switch.forward(port, stream);
            if let Err(why) = ended {
                tracing::info!("the switch's port {port}: {why}");
            }
            switch.unplug(port);
        })?;
        Ok(())
    }

    fn unplug(&self, port: PortNumber) {
        let mut state = self.state();
        state.ports.remove(&port);
        state.table.forget(port);
    }

    fn forward(&self, port: PortNumber, mut stream: UnixStream) -> io::Result<()> {
        while let Some(frame) = receive(&mut stream)? {
            let frame: Arc<[u8]> = frame.into();
            let mut state = self.state();
            let to = |port: &SyncSender<Arc<[u8]>>| {
                // Full: dropped.
                let _ = port.try_send(frame.clone());
            };
            match state.table.way(port, &frame) {
                Way::To(one) => state.ports.get(&one).into_iter().for_each(to),
                Way::Flood => {
                    let others = state.ports.iter().filter(|(n, _)| **n != port);
                    others.for_each(|(_, sender)| to(sender));
                }
                Way::Nowhere => {}
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next frame; `None` at the end.
fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head) {
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let len = u32::from_be_bytes(head) as usize;
    if len > LONGEST {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    let mut frame = vec![0; len];
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn deliver(mut to: UnixStream, frames: &Receiver<Arc<[u8]>>) {
    let mut bytes = Vec::new();
    while let Ok(frame) = frames.recv() {
        bytes.clear();
        // At most `LONGEST`.
        bytes.extend((frame.len() as u32).to_be_bytes());
        bytes.extend(&*frame);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ALL: Address = [0xff; 6];

    fn machine(n: u8) -> Address {
        [0x52, 0x54, 0, 0, 0, n]
    }

    fn frame(to: Address, from: Address, content: &[u8]) -> Vec<u8> {
        [&to[..], &from, &[8, 0], content].concat()
    }

    #[test]
    fn addresses_are_learned_and_forgotten() {
        let mut table = Table::default();
        assert_eq!(
            table.way(1, &frame(machine(2), machine(1), b"")),
            Way::Flood
        );
        assert_eq!(
            table.way(2, &frame(machine(1), machine(2), b"")),
            Way::To(1)
        );
        assert_eq!(
            table.way(1, &frame(machine(2), machine(1), b"")),
            Way::To(2)
        );
        assert_eq!(table.way(1, &frame(ALL, machine(1), b"")), Way::Flood);
        // Moved to another port.
        assert_eq!(
            table.way(3, &frame(machine(2), machine(1), b"")),
            Way::To(2)
        );
        assert_eq!(
            table.way(3, &frame(machine(1), machine(4), b"")),
            Way::Nowhere
        );
        table.forget(2);
        assert_eq!(
            table.way(3, &frame(machine(2), machine(1), b"")),
            Way::Flood
        );
        // A group sends nothing: not learned.
        assert_eq!(table.way(3, &frame(machine(1), ALL, b"")), Way::Nowhere);
        assert_eq!(table.way(4, &frame(ALL, ALL, b"")), Way::Flood);
        assert_eq!(table.way(1, b"short"), Way::Nowhere);
    }

    #[test]
    fn frames_arrive_where_they_are_meant() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("switch");
        let listener = UnixListener::bind(&path).unwrap();
        let switch = Switch::default();
        std::thread::spawn({
            let switch = switch.clone();
            move || switch.listen(&listener)
        });
        let mut machines: Vec<UnixStream> = (0..3)
            .map(|_| {
                let stream = UnixStream::connect(&path).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                stream
            })
            .collect();
        while switch.state().ports.len() < 3 {
            std::thread::yield_now();
        }
        let mut send = |n: usize, frame: &[u8]| {
            let head = (frame.len() as u32).to_be_bytes();
            machines[n].write_all(&[&head[..], frame].concat()).unwrap();
        };
        let hello = frame(ALL, machine(1), b"who is 2?");
        let answer = frame(machine(1), machine(2), &[7; 4000]);
        let only = frame(ALL, machine(3), b"the end");
        send(0, &hello);
        let mut next = |n: usize| receive(&mut machines[n]).unwrap().unwrap();
        assert_eq!(next(1), hello);
        assert_eq!(next(2), hello);
        machines[1]
            .write_all(&(answer.len() as u32).to_be_bytes())
            .unwrap();
        machines[1].write_all(&answer).unwrap();
        assert_eq!(receive(&mut machines[0]).unwrap().unwrap(), answer);
        // The third machine did not see it: this is the first it sends or gets.
        machines[2]
            .write_all(&(only.len() as u32).to_be_bytes())
            .unwrap();
        machines[2].write_all(&only).unwrap();
        assert_eq!(receive(&mut machines[0]).unwrap().unwrap(), only);
        // A frame beyond all bounds ends that port alone.
        machines[2].write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(matches!(receive(&mut machines[2]), Ok(None) | Err(_)));
    }
}
