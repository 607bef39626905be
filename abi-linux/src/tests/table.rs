//! The table against itself, the kernel's numbers, and its page of documentation.

use super::mock::Mock;
use crate::consts::nr;
use crate::table::{Entry, Level, TABLE, entry, name};
use std::fmt::Write;

#[test]
fn is_in_order_without_doubles() {
    assert!(TABLE.windows(2).all(|w| w[0].number < w[1].number));
}

#[test]
fn knows_the_kernels_numbers() {
    for (number, expected) in [
        (nr::__NR_read, "read"),
        (nr::__NR_clone3, "clone3"),
        (nr::__NR_epoll_pwait2, "epoll_pwait2"),
        (nr::__NR_file_setattr, "file_setattr"),
        (nr::__NR_rseq, "rseq"),
    ] {
        assert_eq!(name(number.into()), expected);
    }
    assert_eq!(name(u64::MAX), "unknown");
    assert_eq!(name(336), "unknown");
}

#[test]
fn a_call_has_a_handler_if_it_is_supported() {
    for e in TABLE {
        assert_eq!(e.handler.is_some(), e.level != Level::None, "{}", e.name);
        assert!(
            e.level != Level::Partial || !e.caveat.is_empty(),
            "{} needs a caveat",
            e.name
        );
    }
}

#[test]
fn a_missing_call_is_told_by_name() {
    let k = Mock::new();
    let missing = TABLE.iter().find(|e| e.level == Level::None).unwrap();
    assert_eq!(
        crate::dispatch(&k, missing.number, [0; 6]),
        crate::Outcome::Return(-38)
    );
    assert_eq!(
        crate::dispatch(&k, 100_000, [0; 6]),
        crate::Outcome::Return(-38)
    );
    assert_eq!(*k.missing.borrow(), [missing.name, "unknown"]);
}

/// What programs may notice of calls that are rewritten.
const REWRITTEN: &str = "
## Calls that are rewritten

A system call traps: the kernel sends a signal, and returning from it is another
call (`testbed bench calls` prints what both ways cost here). For the calls getpid,
getppid, gettid, lseek and pread64 a site of the form `mov eax, number; syscall`
(five and two bytes, as C libraries compile it) is rewritten after 8 traps: the
`mov` becomes a `jmp` to a stub near the program, which leads into the personality
without the kernel (`host/src/trap/gate.rs`). The `syscall` stays. What can't be
answered at once (a pread of data that is not cached or mapped here, or to a page
that is absent) traps there as before.

- The program can see the change if it reads its own code, such as to sum it up.
  `testbed run --no-rewrite` leaves the code as it is.
- Only code of private file mappings that is executable and not writable is
  changed, and only the page in the ExCache: evicted code comes back as the file
  has it, and must trap twice as often before it is rewritten again.
- Sites that cross a page, and bytes that might be the end of another
  instruction, are left alone.
- 64 KiB for the stubs, 1 MiB behind the image, show in `/proc/self/maps` (`---p`)
  once a site was rewritten. Unmapping, protecting or replacing them is ENOMEM.
- A signal that comes meanwhile is delivered before or after the call, and its
  handler sees an address of the program's own code.
";

/// What programs that lock files may rely on.
const LOCKS: &str = "
## Locks of files

Record locks (`F_SETLK`, `F_SETLKW`, `F_OFD_SETLK`, `F_OFD_SETLKW`) and flock(2)
exclude nobody. The descriptor, the structure's address, `l_type` and `l_whence`
are checked; then the lock is granted at once and not remembered. So:

- `F_SETLKW` never waits, nothing is `EAGAIN`, `EDEADLK` or `ENOLCK`, and
  `F_GETLK` and `F_OFD_GETLK` always answer `F_UNLCK`;
- neither the access mode of the descriptor nor the range is checked;
- threads of one process: as on Linux for record locks, which never conflict
  within a process. Locks of open file descriptions and flock(2) would conflict
  there, and don't here;
- processes of one testbed, of different testbeds, and processes outside that
  use the storage component's files: no exclusion. Two that rely on a lock may
  both hold it.

What does exclude, because the storage component does it in one step, is
`O_CREAT` with `O_EXCL`, mkdir(2), link(2), symlink(2) and renameat2(2) with
`RENAME_NOREPLACE`: lock files work. And of processes of one testbed, each
write(2) of at most 1 MiB to a file opened with `O_APPEND` goes to the end in one
piece.
";

fn row(e: &Entry) -> String {
    let level = match e.level {
        Level::Full => "full",
        Level::Partial => "partial",
        Level::PassThrough => "pass-through",
        Level::Ignored => "accepted",
        Level::None => "-",
    };
    format!("| {} | {} | {level} | {} |\n", e.number, e.name, e.caveat)
}

fn page() -> String {
    let count = |level| TABLE.iter().filter(|e| e.level == level).count();
    let mut page = String::from("# System calls\n\n");
    let _ = writeln!(
        page,
        "Generated from `abi-linux/src/table.rs`; a test keeps it up to date \
         (`SPLITKERNEL_WRITE_DOCS=1 cargo test -p splitkernel-abi-linux table` writes it anew).\n\n\
         Of {} calls {} are as on Linux, {} partly so, {} go to the processor component's own \
         kernel, {} are accepted without effect. The others answer `ENOSYS`, and the name is \
         logged once.\n",
        TABLE.len(),
        count(Level::Full),
        count(Level::Partial),
        count(Level::PassThrough),
        count(Level::Ignored),
    );
    page += "| number | call | support | what differs |\n|---:|---|---|---|\n";
    page += &TABLE.iter().map(row).collect::<String>();
    page + REWRITTEN + LOCKS
}

#[test]
fn documentation_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/syscalls.md");
    if std::env::var_os("SPLITKERNEL_WRITE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/syscalls.md is out of date: run \
         SPLITKERNEL_WRITE_DOCS=1 cargo test -p splitkernel-abi-linux table"
    );
    assert!(entry(0).is_some());
}
