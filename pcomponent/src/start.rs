//! A host process becomes a program: boot message, image, first stack.

use crate::boot::{self, Boot};
use crate::fatal;
use crate::image::{elf, stack};
use crate::kernel;
use crate::memory::{MapRequest, Memory, Remote, Scratch};
use crate::stats::{Counters, Registry};
use crate::task::{Process, Sites, run_main};
use crate::trace::Tracer;
use fabric::{Credential, Peer};
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::mem::{Backing, FileRef, MapFlags, MemReply, MemRequest, Prot};
use proto::store::{Attr, Location, StoreReply, StoreRequest};
use proto::{Errno, Identity, wire};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::{Arc, OnceLock};

/// The program's stack: as much as the host's soft limit, within reason.
const MOST_STACK: u64 = 64 << 20;
const LEAST_STACK: u64 = 1 << 20;
/// Gap between the image's end and the heap.
const BRK_GAP: u64 = 16 << 20;
/// In that gap, the stubs of rewritten system calls, where there are any.
const STUBS_GAP: u64 = 1 << 20;

static STATS: OnceLock<File> = OnceLock::new();

/// Why a program does not start, and the status a shell would give.
struct NoStart {
    status: i32,
    message: String,
}

fn no_start(status: i32, message: impl Into<String>) -> NoStart {
    NoStart {
        status,
        message: message.into(),
    }
}

impl From<String> for NoStart {
    fn from(message: String) -> NoStart {
        no_start(125, message)
    }
}

/// Runs the role `process`. Descriptors 3 to 6 are the boot message, the
/// report pipe, the statistics file and the socket on which the manager asks
/// for counters; 7 takes the trace, if the boot message says so.
pub(crate) fn run() -> ! {
    // Threads of ours never take a signal; the program's do once they are it.
    host::signal::set_mask(host::signal::SigSet::ALL.without(host::signal::SYNCHRONOUS));
    let Some([boot, report, stats, questions]) = inherited() else {
        let _ = writeln!(
            std::io::stderr(),
            "pcomponent process is started by the pcomponent manager, not by people: \
             use `testbed run`"
        );
        fatal::exit_now(125)
    };
    // A copy out of the program's way as well.
    let copy = rustix::io::fcntl_dupfd_cloexec(&report, boot::fd_floor());
    fatal::report_to(copy.unwrap_or_else(|_| fatal::end("out of descriptors")));
    let _ = STATS.set(File::from(stats));
    let Err(e) = become_program(boot, questions);
    let mut pipe = File::from(report);
    let _ = writeln!(
        pipe,
        "nostart {} {}",
        e.status,
        e.message.replace('\n', " ")
    );
    fatal::exit_now(e.status)
}

/// Takes the inherited descriptors out of the program's way.
fn inherited() -> Option<[OwnedFd; 4]> {
    Some([take(3)?, take(4)?, take(5)?, take(6)?])
}

fn take(fd: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl(F_GETFD) only asks whether the number is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the manager put these descriptors here for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    host::descriptor::raise(fd, boot::fd_floor()).ok()
}

/// The trace, if one was asked for.
fn start_trace(boot: &Boot, memory: &Memory) -> Result<Option<Arc<Tracer>>, String> {
    if !boot.trace {
        return Ok(None);
    }
    let to = take(7).ok_or("the descriptor for the trace did not come")?;
    let (line, lines) = memory.cache_shape();
    Tracer::start(to, line, lines).map(Some)
}

fn become_program(boot: OwnedFd, questions: OwnedFd) -> Result<std::convert::Infallible, NoStart> {
    let mut bytes = Vec::new();
    File::from(boot)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("boot message: {e}"))?;
    let boot: Boot = wire::decode(&bytes).map_err(|e| format!("boot message: {e}"))?;
    start_log(boot.log.as_deref());
    confine();
    let floor = boot::fd_floor();
    let mut options = boot::options(&boot.choice, boot.emulate.as_deref())?;
    options.fd_floor = Some(floor);
    let identity = Identity::Process(boot.process);
    let credential = Credential {
        identity,
        secret: boot.secret.clone(),
    };
    let peer = |addrs: &[String]| Peer::new(addrs.to_vec(), credential.clone(), options.clone());
    let storage = peer(&boot.storage.addrs);
    let places = Arc::new(kernel::Places::new(peer(&boot.gmm), boot.home.clone()));
    let remote = Remote::new(
        &boot.home,
        credential.clone(),
        options.clone(),
        places.clone(),
    );
    create_space(&remote)?;
    let memory = Memory::new(&boot.spawn.cache, remote, floor)?;
    let registry = Registry::new(start_trace(&boot, &memory)?);
    let (mut scratch, counters) = (memory.scratch(), registry.counters());
    let loader = Loader {
        boot: &boot,
        storage: &storage,
        memory: &memory,
    };
    let (image, file, end) = loader.load(&mut scratch, &counters)?;
    let kernel = kernel::Shared::new(&boot, floor, &credential, &options, places, storage.clone())?;
    let aux = aux(&image);
    let (sp, stack, auxv) = loader.first_stack(&aux, &mut scratch, &counters)?;
    kernel.note_start(auxv, (stack.start().0, stack.end().0 - 1), file);
    let context = host::trap::fresh_context(image.entry.0, sp.0);
    drop(scratch);
    // In lines of their own: they are no memory that the cache brings.
    let stubs = UserAddr(end + STUBS_GAP).align_up(memory.cache_shape().0);
    let sites = Sites::new(stubs.filter(|_| boot.spawn.rewrite), floor);
    let process = Process::new(boot.process, memory, registry, kernel, sites);
    let e = run_main(process, questions, &context);
    Err(no_start(
        125,
        format!("entering the program failed on this host: {e}"),
    ))
}

/// Messages of the personality go where the program's errors go, only if asked.
fn start_log(filter: Option<&str>) {
    let Some(filter) = filter else { return };
    let Ok(err) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), boot::fd_floor()) else {
        return;
    };
    let file = Arc::new(File::from(err));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(file)
        .try_init();
}

/// What the process will not need is given up.
fn confine() {
    // SAFETY: prctl(2) with numbers alone.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        // The cache installs single pages; the kernel must not merge them.
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

fn create_space(remote: &Remote) -> Result<(), NoStart> {
    let home = remote.home();
    match home.peer.ask(&MemRequest::CreateSpace) {
        Ok(MemReply::Done) => Ok(()),
        Ok(other) => Err(no_start(
            125,
            format!("{} gave no address space: {other:?}", home.name),
        )),
        Err(e) => Err(no_start(
            125,
            format!("component {} is lost: {e}", home.name),
        )),
    }
}

fn aux(image: &elf::Image) -> stack::Aux {
    // The kernel's own vector: libc's getauxval answers AT_HWCAP with an idea
    // of its own.
    let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |b: &[u8]| b.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    let get = |key: u32| {
        let mut entries = vector
            .chunks_exact(16)
            .map(|e| (word(&e[..8]), word(&e[8..])));
        entries
            .find(|(k, _)| *k == u64::from(key))
            .map_or(0, |(_, value)| value)
    };
    let mut random = [0; 16];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    stack::Aux {
        phdr: image.phdr,
        phnum: image.phnum,
        entry: image.entry,
        ids: [
            rustix::process::getuid().as_raw(),
            rustix::process::geteuid().as_raw(),
            rustix::process::getgid().as_raw(),
            rustix::process::getegid().as_raw(),
        ],
        random,
        hwcap: [
            get(linux_raw_sys::auxvec::AT_HWCAP),
            get(linux_raw_sys::auxvec::AT_HWCAP2),
        ],
        vdso: get(linux_raw_sys::auxvec::AT_SYSINFO_EHDR),
        min_sigstack: get(linux_raw_sys::auxvec::AT_MINSIGSTKSZ),
    }
}

/// Loads the image through the storage and memory components, as any file.
struct Loader<'a> {
    boot: &'a Boot,
    storage: &'a Peer,
    memory: &'a Memory,
}

impl Loader<'_> {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.boot.spawn.program).into_owned()
    }

    fn cannot(&self, why: impl std::fmt::Display) -> NoStart {
        no_start(126, format!("cannot run {}: {why}", self.name()))
    }

    fn open(&self) -> Result<(FileRef, Attr), NoStart> {
        let at = Location {
            dir: None,
            path: kernel::image_path(&self.boot.spawn),
        };
        let access = StoreRequest::Access {
            at: at.clone(),
            mode: 1,
            flags: 0,
        };
        self.ask_storage(&access)?;
        let open = StoreRequest::Open {
            at,
            flags: 0,
            mode: 0,
        };
        let StoreReply::Opened { handle, attr, .. } = self.ask_storage(&open)? else {
            return Err(self.cannot("the storage component gave no file"));
        };
        if attr.mode & 0o170_000 != 0o100_000 {
            return Err(self.cannot("it is not a regular file"));
        }
        Ok((
            FileRef {
                id: attr.id,
                storage: self.boot.storage.id,
                handle,
            },
            attr,
        ))
    }

    fn ask_storage(&self, request: &StoreRequest) -> Result<StoreReply, NoStart> {
        match self.storage.ask(request) {
            Ok(StoreReply::Failed(Errno::ENOENT)) => {
                Err(no_start(127, format!("{}: not found", self.name())))
            }
            Ok(StoreReply::Failed(e)) => Err(self.cannot(e)),
            Ok(reply) => Ok(reply),
            Err(e) => {
                let name = &self.boot.storage.name;
                Err(no_start(125, format!("component {name} is lost: {e}")))
            }
        }
    }

    fn load(
        &self,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(elf::Image, FileRef, u64), NoStart> {
        let (file, attr) = self.open()?;
        let read = |offset: u64, len: usize| -> Result<Vec<u8>, NoStart> {
            let len = u32::try_from(len).map_err(|e| self.cannot(e))?;
            let request = StoreRequest::Read {
                handle: file.handle.clone(),
                offset,
                len,
            };
            match self.ask_storage(&request)? {
                StoreReply::Data(bytes) => Ok(bytes),
                other => Err(self.cannot(format!("the storage component answered {other:?}"))),
            }
        };
        let head = read(0, elf::HEADER)?;
        let (at, len) = elf::header_table(&head).map_err(|e| self.cannot(e))?;
        let table = read(at, len)?;
        let image = elf::parse(&head, &table, attr.size).map_err(|e| self.cannot(e))?;
        self.memory
            .remote()
            .file_open(&file, &attr)
            .map_err(|e| self.cannot(format!("its file cannot be cached: {e}")))?;
        for segment in &image.segments {
            self.map(segment, &file, me, counters)?;
        }
        let end = image.segments.last().map_or(0, |s| s.addr.0 + s.mem_len);
        let heap = UserAddr(end + BRK_GAP).align_up(PAGE_SIZE);
        let heap = heap.ok_or_else(|| self.cannot("no room for a heap"))?;
        self.memory
            .set_brk(heap)
            .map_err(|e| self.cannot(format!("its heap: {e}")))?;
        Ok((image, file, end))
    }

    /// Maps one segment: the file's part privately, zeros for the rest.
    fn map(
        &self,
        s: &elf::Segment,
        file: &FileRef,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), NoStart> {
        let start = s.addr.align_down(PAGE_SIZE);
        let lead = s.addr.0 - start.0;
        let file_end = s.addr.0 + s.file_len;
        let mem_end = UserAddr(s.addr.0 + s.mem_len)
            .align_up(PAGE_SIZE)
            .unwrap_or(s.addr)
            .0;
        let mut mapped_end = start.0;
        let at = |addr: u64, len: u64, prot: Prot, backing: Backing| MapRequest {
            addr: UserAddr(addr),
            len,
            prot,
            flags: MapFlags::NOREPLACE,
            backing,
        };
        if s.file_len > 0 {
            let backing = Backing::File {
                file: file.clone(),
                offset: s.offset - lead,
            };
            let range = self.place(
                &at(start.0, file_end - start.0, s.prot, backing),
                me,
                counters,
            )?;
            mapped_end = range.end().0;
        }
        if mem_end > mapped_end {
            let zeros = at(mapped_end, mem_end - mapped_end, s.prot, Backing::Anonymous);
            self.place(&zeros, me, counters)?;
        }
        // The last page of the file's part shows what follows in the file.
        let tail = mapped_end.min(mem_end).saturating_sub(file_end);
        if s.mem_len > s.file_len && s.file_len > 0 && tail > 0 && s.prot.has(Prot::WRITE) {
            let zeros = vec![0; tail as usize];
            if self.memory.poke(UserAddr(file_end), &zeros, me, counters) != zeros.len() {
                return Err(self.cannot("its data segment cannot be written"));
            }
        }
        Ok(())
    }

    fn place(
        &self,
        request: &MapRequest,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<UserRange, NoStart> {
        self.memory.map(request, me, counters).map_err(|e| {
            self.cannot(format!(
                "mapping {} bytes at {}: {e}",
                request.len, request.addr
            ))
        })
    }

    fn first_stack(
        &self,
        aux: &stack::Aux,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(UserAddr, UserRange, Vec<u8>), NoStart> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
        let len = limit.unwrap_or(8 << 20).clamp(LEAST_STACK, MOST_STACK) & !(PAGE_SIZE - 1);
        let request = MapRequest {
            addr: UserAddr(0),
            len,
            prot: Prot::READ_WRITE,
            flags: MapFlags::STACK,
            backing: Backing::Anonymous,
        };
        let range = self.place(&request, me, counters)?;
        let spawn = &self.boot.spawn;
        let (argv, envp) = (&spawn.argv, &spawn.envp);
        let built = stack::build(range.end(), len / 4, &spawn.program, argv, envp, aux)
            .ok_or_else(|| self.cannot("its arguments and environment are too long"))?;
        if self.memory.poke(built.sp, &built.bytes, me, counters) != built.bytes.len() {
            return Err(self.cannot("its stack cannot be written"));
        }
        let words = 1 + argv.len() + 1 + envp.len() + 1;
        let auxv = built.bytes.get(words * 8..).unwrap_or_default();
        let len = auxv
            .chunks_exact(16)
            .take_while(|c| c[..8] != [0; 8])
            .count()
            * 16
            + 16;
        Ok((
            built.sp,
            range,
            auxv.get(..len).unwrap_or_default().to_vec(),
        ))
    }
}

/// Writes the statistics where the manager finds them.
pub(crate) fn report_stats(process: &Process) {
    let mut stats = process.registry.sum_at_end();
    process.memory.report(&mut stats);
    process.kernel.report(&mut stats);
    // Last: a miss that is counted is in the trace.
    stats.trace = process.registry.finish_trace();
    let Some(mut file) = STATS.get() else { return };
    if let Ok(text) = serde_json::to_string(&stats) {
        let _ = file.rewind();
        let _ = rustix::fs::ftruncate(file, 0);
        let _ = file.write_all(text.as_bytes());
    }
    tracing::debug!("statistics written to descriptor {}", file.as_raw_fd());
}
