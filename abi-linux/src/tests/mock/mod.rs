//! The mock kernel.

mod files;
mod host;

use crate::kernel::*;
use crate::layout::{SigAction, StackT};
use crate::outcome::Outcome;
use crate::{ProcessState, consts::nr};
pub(in crate::tests) use files::MockFile;
use proto::Errno;
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::mem::Prot;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// 64 pages that can be written.
pub(in crate::tests) const RW: u64 = 0x10_0000;
pub(in crate::tests) const RW_LEN: u64 = 64 * PAGE_SIZE;
/// A page that can only be read; nothing is mapped around it.
pub(in crate::tests) const RO: u64 = 0x20_0000;
/// Nothing.
pub(in crate::tests) const HOLE: u64 = 0x30_0000;
pub(in crate::tests) const FLOOR: i32 = 64;
pub(in crate::tests) const PID: i32 = 4242;
/// What `RO` is filled with.
pub(in crate::tests) const RO_BYTE: u8 = 0x5a;

/// Bytes, and whether they can be written.
type Page = (Box<[u8]>, bool);
type Pipe = Rc<RefCell<VecDeque<u8>>>;

#[derive(Clone)]
pub(in crate::tests) enum HostFd {
    Reserved,
    ReadEnd(Pipe),
    WriteEnd(Pipe),
    Other,
}

pub(in crate::tests) struct Mock {
    pub(in crate::tests) root: tempfile::TempDir,
    pages: RefCell<BTreeMap<u64, Page>>,
    pub(in crate::tests) fds: RefCell<BTreeMap<i32, (HostFd, bool)>>,
    pub(in crate::tests) state: ProcessState<MockFile>,
    bounce: RefCell<Vec<u8>>,
    pub(in crate::tests) missing: RefCell<Vec<&'static str>>,
    /// What the address space was asked for.
    pub(in crate::tests) space: RefCell<Vec<String>>,
    pub(in crate::tests) mask: Cell<u64>,
    pub(in crate::tests) call_mask: Cell<Option<u64>>,
    pub(in crate::tests) futexes: RefCell<Vec<FutexOp>>,
    /// One entry for each synchronisation: whether of data only.
    pub(in crate::tests) synced: RefCell<Vec<bool>>,
    /// What the other components claim, where it is not the truth: sizes,
    /// offsets, times and lengths.
    pub(in crate::tests) lie: Cell<Option<u64>>,
    altstack: Cell<StackT>,
    actions: RefCell<BTreeMap<i32, SigAction>>,
}

impl Mock {
    pub(in crate::tests) fn new() -> Mock {
        let mut pages = BTreeMap::new();
        for page in RW / PAGE_SIZE..(RW + RW_LEN) / PAGE_SIZE {
            pages.insert(page, (vec![0; PAGE_SIZE as usize].into(), true));
        }
        pages.insert(
            RO / PAGE_SIZE,
            (vec![RO_BYTE; PAGE_SIZE as usize].into(), false),
        );
        let std = (0..3).map(|fd| (fd, (HostFd::Other, false))).collect();
        Mock {
            root: tempfile::tempdir().unwrap(),
            pages: RefCell::new(pages),
            fds: RefCell::new(std),
            state: ProcessState::new(b"/", 0o022),
            bounce: RefCell::default(),
            missing: RefCell::default(),
            space: RefCell::default(),
            mask: Cell::new(0),
            call_mask: Cell::new(None),
            futexes: RefCell::default(),
            synced: RefCell::default(),
            lie: Cell::new(None),
            altstack: Cell::new(StackT {
                flags: 2,
                ..StackT::default()
            }),
            actions: RefCell::default(),
        }
    }

    /// Makes a call; a result, or minus an errno.
    pub(in crate::tests) fn call(&self, number: u32, args: &[u64]) -> i64 {
        match self.outcome(number, args) {
            Outcome::Return(value) => value,
            other => panic!("{}: {other:?}", crate::table::name(number.into())),
        }
    }

    pub(in crate::tests) fn outcome(&self, number: u32, args: &[u64]) -> Outcome {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        crate::dispatch(self, number.into(), all)
    }

    /// Puts bytes into the program's memory; returns their address.
    pub(in crate::tests) fn put_at(&self, at: u64, bytes: &[u8]) -> u64 {
        assert_eq!(self.copy_out(UserAddr(at), bytes), bytes.len());
        at
    }

    pub(in crate::tests) fn string(&self, at: u64, text: &str) -> u64 {
        self.put_at(at, &[text.as_bytes(), b"\0"].concat())
    }

    pub(in crate::tests) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(self.copy_in(UserAddr(at), &mut bytes), len);
        bytes
    }

    pub(in crate::tests) fn u64_at(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    pub(in crate::tests) fn open(&self, path: &str, flags: u32) -> i64 {
        let at = self.string(RW + RW_LEN - PAGE_SIZE, path);
        self.call(nr::__NR_open, &[at, flags.into(), 0o644])
    }

    /// Opens a path and reads it to its end.
    pub(in crate::tests) fn slurp(&self, path: &str) -> Result<String, i64> {
        let fd = self.open(path, 0);
        if fd < 0 {
            return Err(fd);
        }
        let mut text = Vec::new();
        loop {
            match self.call(nr::__NR_read, &[fd as u64, RW, 1000]) {
                n @ 1.. => text.extend(self.bytes(RW, n as usize)),
                0 => break,
                e => return Err(e),
            }
        }
        self.call(nr::__NR_close, &[fd as u64]);
        Ok(String::from_utf8(text).unwrap())
    }

    pub(in crate::tests) fn write_file(&self, name: &str, content: &[u8]) {
        std::fs::write(self.root.path().join(name), content).unwrap();
    }
}

impl UserMemory for Mock {
    fn copy_in(&self, at: UserAddr, dst: &mut [u8]) -> usize {
        let pages = self.pages.borrow();
        for (n, byte) in dst.iter_mut().enumerate() {
            let Some(here) = at.checked_add(n as u64) else {
                return n;
            };
            let Some((page, _)) = pages.get(&here.page()) else {
                return n;
            };
            *byte = page[(here.0 % PAGE_SIZE) as usize];
        }
        dst.len()
    }
    fn copy_out(&self, at: UserAddr, src: &[u8]) -> usize {
        let mut pages = self.pages.borrow_mut();
        for (n, byte) in src.iter().enumerate() {
            let Some(here) = at.checked_add(n as u64) else {
                return n;
            };
            let Some((page, true)) = pages.get_mut(&here.page()) else {
                return n;
            };
            page[(here.0 % PAGE_SIZE) as usize] = *byte;
        }
        src.len()
    }
    fn writable(&self, at: UserAddr, len: usize) -> usize {
        let pages = self.pages.borrow();
        let mut done = 0;
        while done < len {
            let Some(here) = at.checked_add(done as u64) else {
                break;
            };
            if !matches!(pages.get(&here.page()), Some((_, true))) {
                break;
            }
            done += (PAGE_SIZE - here.0 % PAGE_SIZE) as usize;
        }
        done.min(len)
    }
}

impl Mock {
    fn note(&self, what: String) {
        self.space.borrow_mut().push(what);
    }
}

impl MemoryOps for Mock {
    fn map(&self, r: &MmapRequest) -> Result<UserAddr, Errno> {
        self.note(format!(
            "map {} {} {} {:?} {:?}",
            r.addr, r.len, r.prot.0, r.flags, r.backing
        ));
        Ok(UserAddr(0x7000_0000))
    }
    fn unmap(&self, range: UserRange) -> Result<(), Errno> {
        self.note(format!("unmap {range}"));
        Ok(())
    }
    fn protect(&self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        self.note(format!("protect {range} {}", prot.0));
        Ok(())
    }
    fn remap(
        &self,
        old: UserRange,
        len: u64,
        may_move: bool,
        to: Option<UserAddr>,
    ) -> Result<UserAddr, Errno> {
        self.note(format!("remap {old} {len} {may_move} {to:?}"));
        Ok(old.start())
    }
    fn brk(&self, addr: UserAddr) -> UserAddr {
        addr.clamp(UserAddr(0x60_0000), UserAddr(1 << 47))
    }
    fn discard(&self, range: UserRange) -> Result<(), Errno> {
        self.note(format!("discard {range}"));
        Ok(())
    }
    fn will_need(&self, _: UserRange) {}
    fn sync_range(&self, range: UserRange, wait: bool) -> Result<(), Errno> {
        self.note(format!("sync {range} {wait}"));
        Ok(())
    }
    fn residency(&self, range: UserRange) -> Result<Vec<bool>, Errno> {
        Ok(range
            .page_numbers()
            .map(|n| self.pages.borrow().contains_key(&n))
            .collect())
    }
    fn is_mapped(&self, range: UserRange) -> bool {
        range
            .page_numbers()
            .take(1000)
            .all(|n| self.pages.borrow().contains_key(&n))
    }
}

impl ThreadOps for Mock {
    fn pid(&self) -> i32 {
        PID
    }
    fn ppid(&self) -> i32 {
        1
    }
    fn tid(&self) -> i32 {
        PID + 1
    }
    fn threads(&self) -> Vec<i32> {
        vec![PID, PID + 1]
    }
    fn set_clear_child_tid(&self, _: UserAddr) {}
    fn set_fs(&self, _: u64) {}
    fn fs(&self) -> u64 {
        0x1234_5000
    }
    fn set_robust_list(&self, _: UserAddr, _: u64) {}
    fn robust_list(&self) -> (UserAddr, u64) {
        (UserAddr(0), 24)
    }
    fn futex(&self, op: &FutexOp) -> Result<u64, Errno> {
        self.futexes.borrow_mut().push(*op);
        Err(Errno::EINTR)
    }
}

impl SignalOps for Mock {
    fn sigaction(&self, signo: i32, new: Option<SigAction>) -> Result<SigAction, Errno> {
        if !(1..=64).contains(&signo) || ((signo == 9 || signo == 19) && new.is_some()) {
            return Err(Errno::EINVAL);
        }
        let mut actions = self.actions.borrow_mut();
        let old = actions.get(&signo).copied().unwrap_or_default();
        if let Some(new) = new {
            actions.insert(signo, new);
        }
        Ok(old)
    }
    fn mask(&self) -> u64 {
        self.mask.get()
    }
    fn set_mask(&self, mask: u64) {
        self.mask.set(mask);
    }
    fn set_mask_for_call(&self, mask: u64) {
        self.call_mask.set(Some(mask));
    }
    fn altstack(&self) -> StackT {
        self.altstack.get()
    }
    fn set_altstack(&self, stack: StackT) -> Result<(), Errno> {
        self.altstack.set(stack);
        Ok(())
    }
}

impl ProcessInfo for Mock {
    fn argv(&self) -> Vec<Vec<u8>> {
        vec![b"prog".to_vec(), b"an arg".to_vec()]
    }
    fn environ(&self) -> Vec<Vec<u8>> {
        vec![b"A=1".to_vec(), b"B=2".to_vec()]
    }
    fn executable(&self) -> Vec<u8> {
        b"/bin/prog".to_vec()
    }
    fn auxv(&self) -> Vec<u8> {
        vec![0; 16]
    }
    fn maps(&self) -> Vec<MapLine> {
        let line = |start, len, prot, name: &[u8]| MapLine {
            range: UserRange::new(UserAddr(start), len).unwrap(),
            prot,
            shared: false,
            offset: 0,
            inode: u64::from(name.starts_with(b"/")),
            name: name.to_vec(),
        };
        vec![
            line(0x40_0000, 0x2000, Prot::READ.with(Prot::EXEC), b"/bin/prog"),
            line(0x60_0000, 0x10_0000, Prot::READ_WRITE, b"[heap]"),
            line(0x7000_0000, 0x1000, Prot::NONE, b""),
        ]
    }
    fn stack(&self) -> (u64, u64) {
        (0x7fff_0000, 0x7fff_ffff)
    }
    fn memory(&self) -> (u64, u64) {
        (8 << 30, 3 << 30)
    }
    fn statistics(&self) -> Vec<u8> {
        b"{}\n".to_vec()
    }

    fn footprint(&self) -> (u64, u64) {
        (1 << 20, 2 << 20)
    }
    fn started(&self) -> u64 {
        0
    }
    fn cpuinfo(&self) -> Vec<u8> {
        [0, 1, 2, 5]
            .iter()
            .flat_map(|n| format!("processor\t: {n}\nflags\t: a b\n\n").into_bytes())
            .collect()
    }
    fn version(&self) -> Vec<u8> {
        b"Linux version 6.0\n".to_vec()
    }
}

impl Kernel for Mock {
    fn process(&self) -> &ProcessState<MockFile> {
        &self.state
    }
    fn bounce(&self) -> &RefCell<Vec<u8>> {
        &self.bounce
    }
    fn unimplemented(&self, name: &'static str) {
        self.missing.borrow_mut().push(name);
    }
}
