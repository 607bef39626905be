//! Signals in a thread that calls and transfers: a miss does so while the
//! program's timers run, and what a signal interrupts must go on.

use crate::bed::{ALICE, Bed, ECHO, Kind, segment};
use fabric::Access;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static NOTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_signal: i32) {
    NOTED.fetch_add(1, Ordering::Relaxed);
}

/// Without SA_RESTART, as the personality's are: every call may see EINTR.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is one without flags and mask; the handler
        // does nothing but count.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut())
        };
        assert_eq!(result, 0);
    });
}

/// Signals to the calling thread alone, every 100 us while `work` runs: a timer
/// of the process would interrupt other tests.
fn under_signals(work: impl FnOnce()) {
    install();
    let over = AtomicBool::new(false);
    // SAFETY: these take numbers alone.
    let (pid, tid) = unsafe { (libc::getpid(), libc::gettid()) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: as above; the thread waits for this one to end.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR2) };
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

pub(crate) fn signals_interrupt_nothing(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let before = NOTED.load(Ordering::Relaxed);
    under_signals(|| {
        let begun = Instant::now();
        let mut n = 0u32;
        // Connections are made in misses as well.
        while begun.elapsed() < Duration::from_millis(600) || n < 5 {
            let mut alice = bed.connect(ALICE);
            let long = vec![ECHO; 200_000];
            for _ in 0..20 {
                n += 1;
                let bytes = vec![n as u8; 40_000];
                let place = segment(key, u64::from(n % 20) * 4096, 40_000);
                alice.write(&place, &bytes).unwrap();
                let mut read = vec![0; 40_000];
                alice.read(&place, &mut read).unwrap();
                assert!(read == bytes, "transfer {n}");
                assert_eq!(alice.call(&[ECHO, n as u8]).unwrap(), [ECHO, n as u8]);
            }
            assert!(alice.call(&long).unwrap() == long);
        }
    });
    assert!(NOTED.load(Ordering::Relaxed) > before + 100);
    bed.assert_sound();
}
