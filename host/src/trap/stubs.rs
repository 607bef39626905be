//! Sites of system calls that can be rewritten, and the stubs they jump to.
//!
//! A stub is 32 bytes: `mov eax, number; mov rcx, behind; jmp [gate]`, in an area
//! near the program's code, the gate's address in its first slot. The area is a
//! mapping of its own that the program can read and execute; the personality
//! writes it through another one.

use super::gate;
use crate::descriptor;
use crate::sys::{self, Errno};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use linux_raw_sys::general as nr;
use rustix::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a site: `mov eax, imm32` and `syscall`.
pub const SITE: u64 = 7;
/// Bytes of its `syscall`.
pub(super) const CALL: u64 = 2;
/// Bytes of an area of stubs: 2047 of them.
pub const STUB_AREA: u64 = 64 << 10;
const STUB: u64 = 32;
/// Where in a stub the address behind the site stands.
const BEHIND: u64 = 7;

/// Where the area is, for signals; 0 while there is none.
static AREA: AtomicU64 = AtomicU64::new(0);

/// The stubs of a process. They stay for as long as it lives.
#[derive(Debug)]
pub struct Stubs {
    at: u64,
    write: *mut u8,
    used: u64,
}

// SAFETY: the area's second mapping is the handle's alone.
unsafe impl Send for Stubs {}

impl Stubs {
    /// Puts an empty area of [`STUB_AREA`] bytes at `at`, in place of what is
    /// mapped there; `floor` as for [`descriptor::raise`].
    ///
    /// # Safety
    /// The range must be the program's, and nothing of it in use.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or mmap(2) answered.
    pub unsafe fn new(at: u64, floor: i32) -> Result<Stubs, Errno> {
        let fd = rustix::fs::memfd_create("stubs", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| Errno(e.raw_os_error()))?;
        let fd = descriptor::raise(fd, floor).map_err(|e| Errno(e.raw_os_error()))?;
        rustix::fs::ftruncate(&fd, STUB_AREA).map_err(|e| Errno(e.raw_os_error()))?;
        let write = map(0, libc::PROT_READ | libc::PROT_WRITE, 0, &fd)? as *mut u8;
        let mut stubs = Stubs {
            at,
            write,
            used: STUB,
        };
        stubs.store(0, &gate::address().to_le_bytes());
        map(at, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_FIXED, &fd)?;
        AREA.store(at, Ordering::Release);
        Ok(stubs)
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        // SAFETY: callers stay inside the area, which is mapped for good; a
        // stub is written before anything jumps to it.
        unsafe {
            let to = self.write.add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Makes a stub for the call `number` whose `syscall` ends at `behind`; its
    /// address. `None`: the area is full.
    pub fn add(&mut self, number: u32, behind: u64) -> Option<u64> {
        let offset = self.used;
        if offset + STUB > STUB_AREA {
            return None;
        }
        let mut code = [0xcc; STUB as usize];
        code[0] = 0xb8;
        code[1..5].copy_from_slice(&number.to_le_bytes());
        code[5..7].copy_from_slice(&[0x48, 0xb9]);
        code[7..15].copy_from_slice(&behind.to_le_bytes());
        // jmp [rip + displacement], to the area's first word.
        code[15..17].copy_from_slice(&[0xff, 0x25]);
        let displacement = i32::try_from(-((offset + 21).cast_signed())).ok()?;
        code[17..21].copy_from_slice(&displacement.to_le_bytes());
        self.store(offset, &code);
        self.used += STUB;
        Some(self.at + offset)
    }
}

fn map(at: u64, prot: i32, flags: i32, fd: &OwnedFd) -> Result<u64, Errno> {
    let args = [
        at as usize,
        STUB_AREA as usize,
        prot as usize,
        (libc::MAP_SHARED | flags) as usize,
        fd.as_raw_fd() as usize,
        0,
    ];
    // SAFETY: a new mapping, or one in the place that `Stubs::new` was given.
    unsafe { sys::plain(nr::__NR_mmap, args) }.map(|at| at as u64)
}

/// Where the process's area of stubs begins; 0 where it has none.
#[must_use]
pub fn area() -> u64 {
    AREA.load(Ordering::Acquire)
}

/// The site of the stub that `rip` is in.
pub(super) fn site_of(rip: u64) -> Option<u64> {
    let area = area();
    if area == 0 || !(area + STUB..area + STUB_AREA).contains(&rip) {
        return None;
    }
    let behind = (rip & !(STUB - 1)) + BEHIND;
    // SAFETY: code runs there, so the area is mapped and the stub is whole.
    let behind = unsafe { (behind as *const u64).read_unaligned() };
    // A place that was not given out yet has none: the program went astray.
    behind.checked_sub(SITE)
}

/// The call that the stub of `site` makes.
pub(super) fn number_of(site: u64) -> Option<u32> {
    let area = area();
    if area == 0 {
        return None;
    }
    let stub = (1..STUB_AREA / STUB)
        .map(|n| area + n * STUB)
        .find(|&stub| site_of(stub) == Some(site))?;
    // SAFETY: as in `site_of`.
    Some(unsafe { ((stub + 1) as *const u32).read_unaligned() })
}

/// `jmp to`, to be put at `at`; `None` where that is too far.
#[must_use]
pub fn jump_to(at: u64, to: u64) -> Option<[u8; 5]> {
    let distance = to.wrapping_sub(at.wrapping_add(5)).cast_signed();
    let distance = i32::try_from(distance).ok()?.to_le_bytes();
    Some([0xe9, distance[0], distance[1], distance[2], distance[3]])
}

/// Bytes before a site that are looked at to find out where it begins.
pub const BEFORE: usize = 16;

/// Whether `code`, which ends with a `syscall` that has just been made with
/// `number` in rax, ends with a site: `mov eax, number; syscall`. The five bytes
/// before the `syscall` might also be the end of a longer instruction that ends
/// in the same bytes. Where one can be decoded the site is left alone. (Two
/// instructions they can't be the ends of: the second would be or contain
/// `add [rax], al`, and rax has the number of a call.)
#[must_use]
pub fn recognise(code: &[u8; BEFORE + SITE as usize], number: u64) -> bool {
    let (before, site) = code.split_at(BEFORE);
    let Ok(number) = u32::try_from(number) else {
        return false;
    };
    site[0] == 0xb8
        && site[1..5] == number.to_le_bytes()
        && site[5..] == [0x0f, 0x05]
        && !(1..=before.len()).any(|back| spans(code, back))
}

/// Whether an instruction may begin `back` bytes before the site and end where
/// the `syscall` begins.
fn spans(code: &[u8; BEFORE + SITE as usize], back: usize) -> bool {
    let bytes = &code[BEFORE - back..BEFORE + 5];
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let found = decoder.decode();
    !found.is_invalid() && found.len() == bytes.len() && !has_faulted(&found)
}

/// Whether this instruction can't have been carried out a moment ago: it would
/// have accessed memory within the lowest pages, since rax, its only base, has
/// the number of a system call.
fn has_faulted(found: &Instruction) -> bool {
    let accesses = !matches!(
        found.mnemonic(),
        Mnemonic::Lea
            | Mnemonic::Nop
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetchwt1
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchnta
            | Mnemonic::Reservednop
    );
    accesses
        && found.op_kinds().any(|kind| kind == OpKind::Memory)
        && found.memory_base() == Register::RAX
        && found.memory_index() == Register::None
        && found.segment_prefix() == Register::None
        && found.memory_displacement64() < 1 << 15
        && found.op0_register() != Register::EAX
        && found.op0_register() != Register::RAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(before: &[u8], site: [u8; 7]) -> [u8; BEFORE + SITE as usize] {
        let mut code = [0x90; BEFORE + SITE as usize];
        code[BEFORE - before.len()..BEFORE].copy_from_slice(before);
        code[BEFORE..].copy_from_slice(&site);
        code
    }

    const PREAD: [u8; 7] = [0xb8, 0x11, 0, 0, 0, 0x0f, 0x05];

    #[test]
    fn a_move_and_a_call_is_a_site() {
        for before in [
            &[][..],
            &[0xf3, 0x0f, 0x1e, 0xfa], // endbr64
            &[0x74, 0x14],             // je
            &[0x49, 0x89, 0xca],       // mov r10, rcx
            &[0xc3],
        ] {
            assert!(recognise(&code(before, PREAD), 17), "{before:x?}");
        }
        assert!(!recognise(&code(&[], PREAD), 18));
        assert!(!recognise(&code(&[], PREAD), 17 + (1 << 32)));
        let other = [0xb8, 0x11, 0, 0, 0, 0xcd, 0x80];
        assert!(!recognise(&code(&[], other), 17));
    }

    #[test]
    fn what_may_be_the_end_of_another_instruction_is_none() {
        for before in [
            &[0x41][..],                  // mov r8d, 17
            &[0xc6, 0x83],                // mov byte ptr [rbx + 11b8h], 0
            &[0x80, 0x3d],                // cmp byte ptr [rip + 11b8h], 0
            &[0x83, 0x3d],                // cmp dword ptr [rip + 11b8h], 0
            &[0x66, 0xc7, 0x05, 0xd0],    // mov word ptr [rip + 11b8d0h], 0
            &[0x0f, 0xba, 0xa3],          // bt dword ptr [rbx + 11b8h], 0
            &[0x6b, 0x83],                // imul eax, [rbx + 11b8h], 0
            &[0xc1, 0xa4, 0x24],          // shl dword ptr [rsp + 11b8h], 0
            &[0x8d],                      // lea edi, [rax + 17]
            &[0x64, 0x8b],                // mov edi, fs:[rax + 17]
            &[0x64, 0x48, 0x8b],          // mov rdi, fs:[rax + 17]
            &[0x8b, 0x84],                // mov eax, [rax + rdi*4 + 17]
            &[0xc7, 0x04],                // mov dword ptr [rax + rdi*4], 17
            &[0xc7, 0x45],                // mov dword ptr [rbp - 72], 17
            &[0xc7, 0x44, 0x24],          // mov dword ptr [rsp - 72], 17
            &[0xc7, 0x05, 1, 2, 3],       // mov dword ptr [rip + ..], 17
            &[0xc7, 0x84, 0x24, 1, 2, 3], // mov dword ptr [rsp + ..], 17
            &[0x49, 0xbf, 1, 2, 3],       // mov r15, 17b8030201
            &[0x0f, 0x1f],                // nop [rax + 17]
        ] {
            assert!(!recognise(&code(before, PREAD), 17), "{before:x?}");
        }
    }

    #[test]
    fn jumps_reach_two_gibibytes() {
        assert_eq!(jump_to(0x1000, 0x1005), Some([0xe9, 0, 0, 0, 0]));
        assert_eq!(
            jump_to(0x1005, 0x1000),
            Some([0xe9, 0xf6, 0xff, 0xff, 0xff])
        );
        assert_eq!(jump_to(0, (1 << 31) + 5), None);
        assert!(jump_to(0, (1 << 31) + 4).is_some());
    }

    #[test]
    fn stubs_load_the_number_and_where_to_return() {
        let at = crate::mapping::map_anywhere(STUB_AREA as usize).unwrap() as u64;
        // SAFETY: a mapping of the test's own.
        let mut stubs = unsafe { Stubs::new(at, 3) }.unwrap();
        let stub = stubs.add(17, 0x40_1234).unwrap();
        assert_eq!(stub, at + STUB);
        // SAFETY: the area is readable.
        let code = unsafe { std::slice::from_raw_parts(stub as *const u8, 21) };
        assert_eq!(code[..5], [0xb8, 17, 0, 0, 0]);
        let word = i32::from_le_bytes(code[17..21].try_into().unwrap());
        assert_eq!((stub + 21).wrapping_add_signed(word.into()), at);
        for inside in [0, 5, 15] {
            assert_eq!(site_of(stub + inside), Some(0x40_1234 - SITE));
        }
        assert_eq!(number_of(0x40_1234 - SITE), Some(17));
        assert_eq!(number_of(0x40_1235 - SITE), None);
        assert_eq!((site_of(at), site_of(at + STUB_AREA)), (None, None));
        assert_eq!(std::iter::from_fn(|| stubs.add(1, 1)).count(), 2046);
    }
}
