//! Running ahead: a thread that has missed follows its program a little way on,
//! without doing anything, to find the lines that it will miss next. They are
//! brought in the same trap; what each of them would have cost on its own is the
//! trap at least, and over a network the time of a message, too.
//!
//! Runahead execution is what processors were to do while they wait for memory
//! (Mutlu, Stark, Wilkerson, Patt: "Runahead Execution", HPCA 2003). Here it is
//! an interpreter. It begins with the registers of the trap and reads the
//! program's memory; its stores go to a table beside. Integer instructions are
//! carried out; of all others it knows what they touch, and that the registers
//! they write hold nothing that is known from then on. A branch on what is not
//! known goes as it went when it was; the first time on, unless it leads back.
//!
//! All that comes out is which lines to bring. A wrong guess, code that has
//! changed, a store of another thread: they make a line come in vain, and nothing
//! else. How long lines take with it and without is measured, and where it does not
//! pay it is tried less and less often (`sites`).

mod arithmetic;
mod blocks;
#[cfg(test)]
mod cpu_tests;
mod decode;
mod execute;
mod flags;
mod op;
mod sites;
mod stores;
#[cfg(test)]
mod tests;

use blocks::Decoded;
use decode::LONGEST;
pub(crate) use sites::Outcome;
use sites::Sites;
use stores::Stores;

/// A thread's registers as it trapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// In the order of their numbers: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8
    /// to r15.
    pub general: [u64; 16],
    /// The instruction that missed.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// The base of FS.
    pub fs: u64,
}

/// What the program touches next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// It is here.
    Here,
    /// Not here: its bytes are not known.
    Away,
    /// No further.
    Stop,
}

/// The program's memory.
pub(crate) trait World {
    /// Copies code; how many bytes are here.
    fn code(&mut self, at: u64, bytes: &mut [u8; LONGEST]) -> usize;
    /// The program loads from, or stores to, `size` bytes at `at`.
    fn touch(&mut self, at: u64, size: u64, store: bool) -> Touch;
    /// At least the `size` bytes (1 to 8) at `at`, which was touched and is here.
    /// `None`: it went meanwhile, or may not be read.
    fn load(&mut self, at: u64, size: u64) -> Option<u64>;
    /// Whether the program's own code may be at `rip`.
    fn is_code(&self, rip: u64) -> bool;
    /// How many lines were found so far.
    fn found(&self) -> u32;
}

/// What one thread keeps for its runs.
pub(crate) struct RunAhead {
    decoded: Decoded,
    stores: Stores,
    pub(crate) sites: Sites,
}

/// Ticks that an operation takes that is decoded already, or rather half of that: a
/// line that is found late pays for itself no more, but those behind it may.
const TICKS: u64 = 12;
/// Operations without finding anything: however little, or much, a line saves.
const LEAST: u64 = 64;
const MOST: u64 = 4096;

impl RunAhead {
    /// Brings `most` lines at most in a run.
    pub(crate) fn new(most: u32) -> RunAhead {
        RunAhead {
            decoded: Decoded::new(),
            stores: Stores::new(),
            sites: Sites::new(most),
        }
    }

    /// Follows the program from `registers` on as long as the next line may still
    /// pay: one saves so many ticks. The operations that were carried out.
    pub(crate) fn run(&mut self, registers: &Registers, saves: u64, world: &mut impl World) -> u64 {
        self.stores.clear();
        let patience = (saves / TICKS).clamp(LEAST, MOST);
        let (decoded, stores) = (&mut self.decoded, &mut self.stores);
        execute::run(decoded, stores, registers, patience, world)
    }
}
