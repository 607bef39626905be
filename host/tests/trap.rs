//! A few instructions run as a program: its system calls, absent pages and
//! faults must reach the hook, and everything it owns must come back unharmed.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use host::signal::{SigInfo, SigSet, UContext, reg};
use host::trap::{self, Next};
use host::uffd::{Features, Uffd};
use host::{mapping, sys};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;
const STACK: u64 = 0x3000_0000;

static UFFD: OnceLock<Uffd> = OnceLock::new();
static CALLS: AtomicU64 = AtomicU64::new(0);
static MISSES: AtomicU64 = AtomicU64::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Call 1000 adds its two arguments; 1001 blocks in a poll until a signal
/// comes; anything else ends the thread.
fn hook(signo: i32, info: &SigInfo, context: &mut UContext) -> Next {
    // The hook is ordinary code: it may allocate and use thread-locals.
    let note = format!("{signo}");
    assert!(!note.is_empty());
    match signo {
        libc::SIGSYS => {
            CALLS.fetch_add(1, Ordering::SeqCst);
            let g = &mut context.gregs;
            match g[reg::RAX] {
                1000 => g[reg::RAX] = g[reg::RDI] + g[reg::RSI],
                1001 => {
                    // SAFETY: poll(2) of nothing, with a limit.
                    let result = unsafe {
                        sys::interruptible(
                            linux_raw_sys::general::__NR_poll,
                            [0, 0, 10_000, 0, 0, 0],
                        )
                    };
                    g[reg::RAX] = match result {
                        Ok(_) => 0,
                        Err(e) => e.0.unsigned_abs().into(),
                    };
                }
                _ => return Next::Leave,
            }
            Next::Resume
        }
        libc::SIGBUS => {
            MISSES.fetch_add(1, Ordering::SeqCst);
            let page = info.addr() & !4095;
            UFFD.get().unwrap().copy(page, &[7; 4096], false).unwrap();
            Next::Retry
        }
        libc::SIGUSR1 => {
            SIGNALS.fetch_add(1, Ordering::SeqCst);
            Next::Resume
        }
        _ => Next::Leave,
    }
}

fn run(code: &[u8]) -> UContext {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        trap::install(hook).unwrap();
        let uffd = Uffd::open(Features(Features::SIGBUS.0 | Features::WP.0)).unwrap();
        mapping::map_private(
            CODE,
            1 << 20,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        )
        .unwrap();
        mapping::map_private(DATA, 1 << 20, libc::PROT_READ | libc::PROT_WRITE).unwrap();
        mapping::map_private(STACK, 1 << 20, libc::PROT_READ | libc::PROT_WRITE).unwrap();
        uffd.register(DATA, 1 << 20, true).unwrap();
        let _ = UFFD.set(uffd);
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let at = CODE + 4096 * NEXT.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the code mapping is ours and this page is used by this test alone.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len()) };
    let mut context = trap::fresh_context(at, STACK + (1 << 19));
    context.sigmask = SigSet::EMPTY;
    context
}

fn enter(context: UContext) {
    std::thread::spawn(move || {
        let block = trap::new_block().unwrap();
        let owner = 42u64;
        // SAFETY: `owner` outlives the stay; the block is this thread's.
        unsafe { block.attach(std::ptr::from_ref(&owner).cast()) }.unwrap();
        trap::mark_attached(true);
        block.set_window_mask(SigSet::EMPTY);
        block.set_user_fs(0x1234_5678);
        // SAFETY: attached.
        unsafe { block.enter(&context) };
        assert_eq!(block.user_fs(), 0x1234_5678);
        // SAFETY: attached.
        let current = unsafe { trap::current_owner() };
        assert_eq!(current, std::ptr::from_ref(&owner).cast());
        trap::mark_attached(false);
    })
    .join()
    .unwrap();
}

#[test]
fn system_calls_and_misses_reach_the_hook() {
    // mov rbx, DATA; mov byte [rbx], 1 (miss); mov al, [rbx+1] (7 from the
    // hook); movzx edi, al; mov esi, 35; mov eax, 1000; syscall; mov [rbx+8],
    // rax; mov eax, 9999; syscall
    let code = [
        0x48, 0xc7, 0xc3, 0x00, 0x00, 0x00, 0x20, 0xc6, 0x03, 0x01, 0x8a, 0x43, 0x01, 0x0f, 0xb6,
        0xf8, 0xbe, 0x23, 0x00, 0x00, 0x00, 0xb8, 0xe8, 0x03, 0x00, 0x00, 0x0f, 0x05, 0x48, 0x89,
        0x43, 0x08, 0xb8, 0x0f, 0x27, 0x00, 0x00, 0x0f, 0x05,
    ];
    let (calls, misses) = (CALLS.load(Ordering::SeqCst), MISSES.load(Ordering::SeqCst));
    enter(run(&code));
    assert!(CALLS.load(Ordering::SeqCst) >= calls + 2);
    assert_eq!(MISSES.load(Ordering::SeqCst), misses + 1);
    // SAFETY: the page is present now.
    let answer = unsafe { std::ptr::read((DATA + 8) as *const u64) };
    assert_eq!(answer, 7 + 35);
}

#[test]
fn copies_stop_at_what_cannot_be_accessed() {
    let _ = run(&[]);
    let block = trap::new_block().unwrap();
    let owner = 0u8;
    std::thread::spawn(move || {
        // SAFETY: as in `enter`.
        unsafe { block.attach(std::ptr::from_ref(&owner).cast()) }.unwrap();
        let mut buffer = [0u8; 64];
        let to = buffer.as_mut_ptr() as u64;
        // Nothing is mapped there.
        // SAFETY: `buffer` is ours.
        assert_eq!(unsafe { trap::copy(to, 0x1_0000, 64) }, 64);
        // Absent page of a registered range.
        // SAFETY: as above.
        assert_eq!(unsafe { trap::copy(to, DATA + 0x8_0000, 64) }, 64);
        // Half present, half not.
        UFFD.get()
            .unwrap()
            .copy(DATA + 0x9_0000, &[5; 4096], false)
            .unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { trap::copy(to, DATA + 0x9_0fe0, 64) }, 32);
        assert_eq!(buffer[..32], [5; 32]);
        // SAFETY: as above.
        assert!(!unsafe { trap::store32(0x1_0000, 1) });
    })
    .join()
    .unwrap();
}

#[test]
fn a_signal_interrupts_a_blocking_call() {
    // mov eax, 1001; syscall; mov rbx, DATA+0x40000; mov [rbx], rax; mov eax,
    // 9999; syscall
    let code = [
        0xb8, 0xe9, 0x03, 0x00, 0x00, 0x0f, 0x05, 0x48, 0xc7, 0xc3, 0x00, 0x00, 0x04, 0x20, 0x48,
        0x89, 0x03, 0xb8, 0x0f, 0x27, 0x00, 0x00, 0x0f, 0x05,
    ];
    let context = run(&code);
    trap::catch(libc::SIGUSR1).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        let tid: i32 = told.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        // SAFETY: tgkill(2) takes numbers.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1);
        }
    });
    std::thread::spawn(move || {
        let block = trap::new_block().unwrap();
        let owner = 0u8;
        // SAFETY: as in `enter`.
        unsafe { block.attach(std::ptr::from_ref(&owner).cast()) }.unwrap();
        trap::mark_attached(true);
        block.set_window_mask(SigSet::EMPTY);
        // SAFETY: gettid(2) has no arguments.
        tell.send(unsafe { libc::gettid() }).unwrap();
        // SAFETY: attached.
        unsafe { block.enter(&context) };
        // The hook did not take it: it came as a signal before the program
        // went on.
        assert!(trap::take_pending(&block).is_none());
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 1);
    })
    .join()
    .unwrap();
    sender.join().unwrap();
    // SAFETY: the program's store has made the page present.
    let answer = unsafe { std::ptr::read((DATA + 0x4_0000) as *const u64) };
    assert_eq!(answer, libc::EINTR as u64);
}

#[test]
fn the_cost_of_a_trap_is_measured() {
    let _ = run(&[]);
    std::thread::spawn(|| {
        let block = trap::new_block().unwrap();
        let owner = 0u8;
        // SAFETY: as in `enter`.
        unsafe { block.attach(std::ptr::from_ref(&owner).cast()) }.unwrap();
        block.set_user_fs(0x77);
        let misses = MISSES.load(Ordering::SeqCst);
        let cost = trap::measure(UFFD.get().unwrap()).unwrap();
        assert!(cost > std::time::Duration::ZERO);
        assert_eq!(block.user_fs(), 0x77);
        // It is answered below the hook: at most the other test missed meanwhile.
        assert!(MISSES.load(Ordering::SeqCst) <= misses + 2);
    })
    .join()
    .unwrap();
}
