//! The system-call table, which is also the documentation: one line a call,
//! with its number (arch/x86/entry/syscalls/syscall_64.tbl), how far it is
//! supported, its handler in [`crate::calls`], and what to know about it.
//! `docs/syscalls.md` is generated from it.

use crate::args::Args;
use crate::calls::*;
use crate::kernel::Kernel;
use crate::outcome::{Answer, Outcome, Stop, conclude};
use proto::Errno;

/// How far a call is supported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As Linux does it.
    Full,
    /// As Linux does it, but for what the caveat says.
    Partial,
    /// By the processor component's own kernel.
    PassThrough,
    /// Arguments are checked, nothing else happens.
    Ignored,
    /// `ENOSYS`, logged once.
    None,
}

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The number in rax.
    pub number: u64,
    /// Its name, as its manual page has it.
    pub name: &'static str,
    /// The function that answers it.
    pub handler: Option<&'static str>,
    /// How far it is supported.
    pub level: Level,
    /// What differs; empty for nothing.
    pub caveat: &'static str,
}

macro_rules! handler_name {
    () => {
        None
    };
    ($module:ident $handler:ident) => {
        Some(concat!(stringify!($module), "::", stringify!($handler)))
    };
}

macro_rules! handle {
    ($k:ident $a:ident) => {
        None
    };
    ($k:ident $a:ident $module:ident $handler:ident) => {
        Some($module::$handler($k, $a))
    };
}

macro_rules! caveat {
    () => {
        ""
    };
    ($text:literal) => {
        $text
    };
}

macro_rules! syscalls {
    ($($number:literal $name:ident $level:ident
        $($module:ident :: $handler:ident)? $(= $caveat:literal)?;)*) => {
        /// Every call, by number.
        pub static TABLE: &[Entry] = &[$(Entry {
            number: $number,
            name: stringify!($name),
            handler: handler_name!($($module $handler)?),
            level: Level::$level,
            caveat: caveat!($($caveat)?),
        }),*];

        fn call<K: Kernel>(k: &K, number: u64, a: Args) -> Option<Answer> {
            match number {
                $($number => handle!(k a $($module $handler)?),)*
                _ => None,
            }
        }
    };
}

/// Makes a system call for the program's thread that `k` is the context of.
pub fn dispatch<K: Kernel>(k: &K, number: u64, args: [u64; 6]) -> Outcome {
    let answer = call(k, number, Args(args)).unwrap_or_else(|| {
        k.unimplemented(name(number));
        Err(Stop::Errno(Errno::ENOSYS))
    });
    conclude(number, answer)
}

/// The table's line for a number.
#[must_use]
pub fn entry(number: u64) -> Option<&'static Entry> {
    let at = TABLE.binary_search_by_key(&number, |e| e.number).ok()?;
    TABLE.get(at)
}

/// The name of a call, for messages and statistics.
#[must_use]
pub fn name(number: u64) -> &'static str {
    entry(number).map_or("unknown", |e| e.name)
}

syscalls! {
    0 read Full read::read;
    1 write Full write::write;
    2 open Full open::open;
    3 close Full fds::close;
    4 stat Full stat::stat;
    5 fstat Full stat::fstat;
    6 lstat Full stat::lstat;
    7 poll Full poll::poll;
    8 lseek Partial seek::lseek = "SEEK_DATA and SEEK_HOLE see no holes";
    9 mmap Partial memory::mmap = "files of the storage component and /dev/zero; MAP_HUGETLB refused; MAP_GROWSDOWN does not grow";
    10 mprotect Full memory::mprotect;
    11 munmap Full memory::munmap;
    12 brk Full memory::brk;
    13 rt_sigaction Full signals::rt_sigaction;
    14 rt_sigprocmask Full signals::rt_sigprocmask;
    15 rt_sigreturn Full signals::rt_sigreturn;
    16 ioctl Partial ioctl::ioctl = "terminals, FIONREAD, FIONBIO, FIOCLEX and their like; the rest is ENOTTY";
    17 pread64 Full read::pread64;
    18 pwrite64 Full write::pwrite64;
    19 readv Full read::readv;
    20 writev Full write::writev;
    21 access Full stat::access;
    22 pipe Full special::pipe;
    23 select Full poll::select;
    24 sched_yield PassThrough sched::sched_yield;
    25 mremap Partial memory::mremap = "MREMAP_DONTUNMAP and a zero old length refused";
    26 msync Full memory::msync;
    27 mincore Full memory::mincore = "a page is resident if the ExCache holds it";
    28 madvise Partial memory::madvise = "DONTNEED, FREE, WILLNEED act; other advice is accepted";
    29 shmget None;
    30 shmat None;
    31 shmctl None;
    32 dup Full fds::dup;
    33 dup2 Full fds::dup2;
    34 pause Full signals::pause;
    35 nanosleep Full time::nanosleep;
    36 getitimer PassThrough time::getitimer;
    37 alarm PassThrough time::alarm;
    38 setitimer PassThrough time::setitimer;
    39 getpid Full threads::getpid;
    40 sendfile Partial copy::sendfile = "from files of the storage component";
    41 socket PassThrough sockets::socket = "sockets are the processor component's";
    42 connect PassThrough sockets::connect;
    43 accept PassThrough sockets::accept;
    44 sendto PassThrough sockets::sendto = "at most 1 MiB at once";
    45 recvfrom PassThrough sockets::recvfrom = "at most 1 MiB at once";
    46 sendmsg Partial sockets::sendmsg = "no descriptors or credentials in control messages";
    47 recvmsg Partial sockets::recvmsg = "no descriptors in control messages";
    48 shutdown PassThrough sockets::shutdown;
    49 bind PassThrough sockets::bind;
    50 listen PassThrough sockets::listen;
    51 getsockname PassThrough sockets::getsockname;
    52 getpeername PassThrough sockets::getpeername;
    53 socketpair PassThrough sockets::socketpair;
    54 setsockopt Partial sockets::setsockopt = "options whose value holds no pointer";
    55 getsockopt Partial sockets::getsockopt = "options whose value holds no pointer";
    56 clone Partial threads::clone = "threads only; a new process is ENOSYS";
    57 fork None = "no new processes yet: see clone";
    58 vfork None = "no new processes yet: see clone";
    59 execve None = "no new processes yet: see clone";
    60 exit Full threads::exit;
    61 wait4 Partial threads::wait4 = "there are no children yet: ECHILD";
    62 kill Partial signals::kill = "the process itself and its group; others are ESRCH";
    63 uname PassThrough info::uname;
    64 semget None;
    65 semop None;
    66 semctl None;
    67 shmdt None;
    68 msgget None;
    69 msgsnd None;
    70 msgrcv None;
    71 msgctl None;
    72 fcntl Partial fds::fcntl = "record locks are granted without conflict (see below); no leases or notifications";
    73 flock Ignored fds::flock = "locks are granted without conflict (see below)";
    74 fsync Full attrs::fsync;
    75 fdatasync Full attrs::fdatasync;
    76 truncate Full attrs::truncate;
    77 ftruncate Full attrs::ftruncate;
    78 getdents Full dirs::getdents;
    79 getcwd Full dirs::getcwd;
    80 chdir Full dirs::chdir;
    81 fchdir Full dirs::fchdir;
    82 rename Full dirs::rename;
    83 mkdir Full dirs::mkdir;
    84 rmdir Full dirs::rmdir;
    85 creat Full open::creat;
    86 link Full dirs::link;
    87 unlink Full dirs::unlink;
    88 symlink Full dirs::symlink;
    89 readlink Full dirs::readlink;
    90 chmod Full attrs::chmod;
    91 fchmod Full attrs::fchmod;
    92 chown Full attrs::chown;
    93 fchown Full attrs::fchown;
    94 lchown Full attrs::lchown;
    95 umask Full attrs::umask;
    96 gettimeofday PassThrough time::gettimeofday;
    97 getrlimit Full info::getrlimit = "RLIMIT_NOFILE ends where the personality's descriptors begin";
    98 getrusage PassThrough info::getrusage;
    99 sysinfo Partial info::sysinfo = "memory is that of the memory components";
    100 times PassThrough info::times;
    101 ptrace None;
    102 getuid PassThrough ids::getuid;
    103 syslog None;
    104 getgid PassThrough ids::getgid;
    105 setuid Partial ids::setuid = "only to ids the process has";
    106 setgid Partial ids::setgid = "only to ids the process has";
    107 geteuid PassThrough ids::geteuid;
    108 getegid PassThrough ids::getegid;
    109 setpgid PassThrough ids::setpgid = "the process itself";
    110 getppid Full threads::getppid;
    111 getpgrp PassThrough ids::getpgrp;
    112 setsid PassThrough ids::setsid;
    113 setreuid Partial ids::setreuid = "only to ids the process has";
    114 setregid Partial ids::setregid = "only to ids the process has";
    115 getgroups PassThrough ids::getgroups;
    116 setgroups None;
    117 setresuid Partial ids::setresuid = "only to ids the process has";
    118 getresuid PassThrough ids::getresuid;
    119 setresgid Partial ids::setresgid = "only to ids the process has";
    120 getresgid PassThrough ids::getresgid;
    121 getpgid PassThrough ids::getpgid = "the process itself";
    122 setfsuid Partial ids::setfsuid = "changes nothing";
    123 setfsgid Partial ids::setfsgid = "changes nothing";
    124 getsid PassThrough ids::getsid = "the process itself";
    125 capget PassThrough ids::capget = "the process itself";
    126 capset None;
    127 rt_sigpending Full signals::rt_sigpending;
    128 rt_sigtimedwait Full signals::rt_sigtimedwait;
    129 rt_sigqueueinfo Partial signals::rt_sigqueueinfo = "the process itself";
    130 rt_sigsuspend Full signals::rt_sigsuspend;
    131 sigaltstack Full signals::sigaltstack;
    132 utime Full attrs::utime;
    133 mknod Partial dirs::mknod = "files and FIFOs";
    134 uselib None;
    135 personality Partial info::personality = "queries, and PER_LINUX";
    136 ustat None;
    137 statfs Full stat::statfs;
    138 fstatfs Full stat::fstatfs;
    139 sysfs None;
    140 getpriority PassThrough sched::getpriority = "the process itself";
    141 setpriority PassThrough sched::setpriority = "the process itself";
    142 sched_setparam Partial sched::sched_setparam = "SCHED_OTHER has one: priority 0";
    143 sched_getparam PassThrough sched::sched_getparam;
    144 sched_setscheduler Partial sched::sched_setscheduler = "SCHED_OTHER; the others are EPERM";
    145 sched_getscheduler PassThrough sched::sched_getscheduler;
    146 sched_get_priority_max PassThrough sched::sched_get_priority_max;
    147 sched_get_priority_min PassThrough sched::sched_get_priority_min;
    148 sched_rr_get_interval PassThrough sched::sched_rr_get_interval;
    149 mlock Ignored memory::mlock = "checked, not pinned";
    150 munlock Ignored memory::munlock;
    151 mlockall Ignored memory::mlockall = "checked, not pinned";
    152 munlockall Ignored memory::munlockall;
    153 vhangup None;
    154 modify_ldt None;
    155 pivot_root None;
    156 _sysctl None;
    157 prctl Partial info::prctl = "names, dumpable, no_new_privs, timer slack, death signal, capabilities' bounding set";
    158 arch_prctl Partial threads::arch_prctl = "FS only: GS is the personality's (EPERM)";
    159 adjtimex None;
    160 setrlimit Partial info::setrlimit = "remembered; only RLIMIT_NOFILE has an effect of the personality's";
    161 chroot None;
    162 sync Full attrs::sync;
    163 acct None;
    164 settimeofday None;
    165 mount None;
    166 umount2 None;
    167 swapon None;
    168 swapoff None;
    169 reboot None;
    170 sethostname None;
    171 setdomainname None;
    172 iopl None;
    173 ioperm None;
    174 create_module None;
    175 init_module None;
    176 delete_module None;
    177 get_kernel_syms None;
    178 query_module None;
    179 quotactl None;
    180 nfsservctl None;
    181 getpmsg None;
    182 putpmsg None;
    183 afs_syscall None;
    184 tuxcall None;
    185 security None;
    186 gettid Full threads::gettid;
    187 readahead Ignored attrs::readahead = "read-ahead is the file cache's";
    188 setxattr Partial xattr::path = "ENOTSUP";
    189 lsetxattr Partial xattr::path = "ENOTSUP";
    190 fsetxattr Partial xattr::fd = "ENOTSUP";
    191 getxattr Partial xattr::path = "ENOTSUP";
    192 lgetxattr Partial xattr::path = "ENOTSUP";
    193 fgetxattr Partial xattr::fd = "ENOTSUP";
    194 listxattr Partial xattr::path = "ENOTSUP";
    195 llistxattr Partial xattr::path = "ENOTSUP";
    196 flistxattr Partial xattr::fd = "ENOTSUP";
    197 removexattr Partial xattr::path = "ENOTSUP";
    198 lremovexattr Partial xattr::path = "ENOTSUP";
    199 fremovexattr Partial xattr::fd = "ENOTSUP";
    200 tkill Full signals::tkill;
    201 time PassThrough time::time;
    202 futex Partial threads::futex = "no priority inheritance";
    203 sched_setaffinity PassThrough sched::sched_setaffinity;
    204 sched_getaffinity PassThrough sched::sched_getaffinity;
    205 set_thread_area None;
    206 io_setup None;
    207 io_destroy None;
    208 io_getevents None;
    209 io_submit None;
    210 io_cancel None;
    211 get_thread_area None;
    212 lookup_dcookie None;
    213 epoll_create Full epoll::epoll_create;
    214 epoll_ctl_old None;
    215 epoll_wait_old None;
    216 remap_file_pages None;
    217 getdents64 Full dirs::getdents64;
    218 set_tid_address Full threads::set_tid_address;
    219 restart_syscall None;
    220 semtimedop None;
    221 fadvise64 Ignored attrs::fadvise64 = "checked";
    222 timer_create Partial time::timer_create = "SIGEV_NONE, SIGEV_SIGNAL and SIGEV_THREAD_ID";
    223 timer_settime PassThrough time::timer_settime;
    224 timer_gettime PassThrough time::timer_gettime;
    225 timer_getoverrun PassThrough time::timer_getoverrun;
    226 timer_delete PassThrough time::timer_delete;
    227 clock_settime Partial time::clock_settime = "EPERM";
    228 clock_gettime PassThrough time::clock_gettime;
    229 clock_getres PassThrough time::clock_getres;
    230 clock_nanosleep PassThrough time::clock_nanosleep;
    231 exit_group Full threads::exit_group;
    232 epoll_wait Full epoll::epoll_wait;
    233 epoll_ctl Full epoll::epoll_ctl;
    234 tgkill Full signals::tgkill;
    235 utimes Full attrs::utimes;
    236 vserver None;
    237 mbind None;
    238 set_mempolicy None;
    239 get_mempolicy None;
    240 mq_open None;
    241 mq_unlink None;
    242 mq_timedsend None;
    243 mq_timedreceive None;
    244 mq_notify None;
    245 mq_getsetattr None;
    246 kexec_load None;
    247 waitid Partial threads::waitid = "there are no children yet: ECHILD";
    248 add_key None;
    249 request_key None;
    250 keyctl None;
    251 ioprio_set Ignored sched::ioprio_set;
    252 ioprio_get PassThrough sched::ioprio_get = "the process itself";
    253 inotify_init None;
    254 inotify_add_watch None;
    255 inotify_rm_watch None;
    256 migrate_pages None;
    257 openat Full open::openat;
    258 mkdirat Full dirs::mkdirat;
    259 mknodat Partial dirs::mknodat = "files and FIFOs";
    260 fchownat Full attrs::fchownat;
    261 futimesat Full attrs::futimesat;
    262 newfstatat Full stat::newfstatat;
    263 unlinkat Full dirs::unlinkat;
    264 renameat Full dirs::renameat;
    265 linkat Full dirs::linkat;
    266 symlinkat Full dirs::symlinkat;
    267 readlinkat Full dirs::readlinkat;
    268 fchmodat Full attrs::fchmodat;
    269 faccessat Full stat::faccessat;
    270 pselect6 Full poll::pselect6;
    271 ppoll Full poll::ppoll;
    272 unshare None;
    273 set_robust_list Full threads::set_robust_list;
    274 get_robust_list Partial threads::get_robust_list = "the calling thread's";
    275 splice None;
    276 tee None;
    277 sync_file_range Partial attrs::sync_file_range = "as fdatasync";
    278 vmsplice None;
    279 move_pages None;
    280 utimensat Full attrs::utimensat;
    281 epoll_pwait Full epoll::epoll_pwait;
    282 signalfd PassThrough special::signalfd;
    283 timerfd_create PassThrough special::timerfd_create;
    284 eventfd PassThrough special::eventfd;
    285 fallocate Full attrs::fallocate;
    286 timerfd_settime PassThrough special::timerfd_settime;
    287 timerfd_gettime PassThrough special::timerfd_gettime;
    288 accept4 PassThrough sockets::accept4;
    289 signalfd4 PassThrough special::signalfd4;
    290 eventfd2 PassThrough special::eventfd2;
    291 epoll_create1 Full epoll::epoll_create1;
    292 dup3 Full fds::dup3;
    293 pipe2 Full special::pipe2;
    294 inotify_init1 None;
    295 preadv Full read::preadv;
    296 pwritev Full write::pwritev;
    297 rt_tgsigqueueinfo Partial signals::rt_tgsigqueueinfo = "the process itself";
    298 perf_event_open None;
    299 recvmmsg Partial sockets::recvmmsg = "as recvmsg";
    300 fanotify_init None;
    301 fanotify_mark None;
    302 prlimit64 Partial info::prlimit64 = "the process itself; as setrlimit";
    303 name_to_handle_at None;
    304 open_by_handle_at None;
    305 clock_adjtime None;
    306 syncfs Full attrs::syncfs;
    307 sendmmsg Partial sockets::sendmmsg = "as sendmsg";
    308 setns None;
    309 getcpu PassThrough sched::getcpu;
    310 process_vm_readv None;
    311 process_vm_writev None;
    312 kcmp None;
    313 finit_module None;
    314 sched_setattr None;
    315 sched_getattr None;
    316 renameat2 Full dirs::renameat2;
    317 seccomp None;
    318 getrandom PassThrough info::getrandom;
    319 memfd_create None;
    320 kexec_file_load None;
    321 bpf None;
    322 execveat None = "no new processes yet: see clone";
    323 userfaultfd None;
    324 membarrier Partial sched::membarrier = "the query, which says that no command is supported";
    325 mlock2 Ignored memory::mlock2 = "checked, not pinned";
    326 copy_file_range Partial copy::copy_file_range = "between files of the storage component; copied by way of the processor";
    327 preadv2 Partial read::preadv2 = "RWF_HIPRI, RWF_NOWAIT and RWF_DONTCACHE are hints";
    328 pwritev2 Full write::pwritev2;
    329 pkey_mprotect Partial memory::pkey_mprotect = "without keys: key -1";
    330 pkey_alloc Partial memory::pkey_alloc = "ENOSPC: there are no keys";
    331 pkey_free Partial memory::pkey_free = "EINVAL: there are no keys";
    332 statx Full stat::statx;
    333 io_pgetevents None;
    334 rseq Partial threads::rseq = "ENOSYS, as on kernels without it: libcs cope";
    335 uretprobe None;
    424 pidfd_send_signal None;
    425 io_uring_setup None;
    426 io_uring_enter None;
    427 io_uring_register None;
    428 open_tree None;
    429 move_mount None;
    430 fsopen None;
    431 fsconfig None;
    432 fsmount None;
    433 fspick None;
    434 pidfd_open None;
    435 clone3 Partial threads::clone3 = "threads only; a new process is ENOSYS";
    436 close_range Partial fds::close_range = "without CLOSE_RANGE_UNSHARE";
    437 openat2 Partial open::openat2 = "without RESOLVE_* flags";
    438 pidfd_getfd None;
    439 faccessat2 Full stat::faccessat2;
    440 process_madvise None;
    441 epoll_pwait2 Full epoll::epoll_pwait2;
    442 mount_setattr None;
    443 quotactl_fd None;
    444 landlock_create_ruleset None;
    445 landlock_add_rule None;
    446 landlock_restrict_self None;
    447 memfd_secret None;
    448 process_mrelease None;
    449 futex_waitv None;
    450 set_mempolicy_home_node None;
    451 cachestat None;
    452 fchmodat2 Full attrs::fchmodat2;
    453 map_shadow_stack None;
    454 futex_wake None;
    455 futex_wait None;
    456 futex_requeue None;
    457 statmount None;
    458 listmount None;
    459 lsm_get_self_attr None;
    460 lsm_set_self_attr None;
    461 lsm_list_modules None;
    462 mseal None;
    463 setxattrat None;
    464 getxattrat None;
    465 listxattrat None;
    466 removexattrat None;
    467 open_tree_attr None;
    468 file_getattr None;
    469 file_setattr None;
}
