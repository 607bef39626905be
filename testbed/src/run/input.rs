//! The program's standard input, where it is to be read twice.

use anyhow::{Context, Result};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, SeekFrom, fstat, seek};
use std::fs::File;
use std::io::IsTerminal;

/// Standard input, or what stands for it.
pub(crate) enum Input {
    /// As it is: read once, or a device that gives the same again.
    Own,
    /// A file: read again from where it stood.
    File(u64),
    /// A copy of all that came, in a file without a name.
    Copy(File),
    /// A terminal, for one of the two runs.
    Terminal(File),
}

impl Input {
    /// For one run.
    pub(crate) fn own() -> Input {
        Input::Own
    }

    /// For two runs. Reads a pipe to its end.
    pub(crate) fn kept() -> Result<Input> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let nothing = File::open("/dev/null").context("/dev/null")?;
            return Ok(Input::Terminal(nothing));
        }
        let kind = FileType::from_raw_mode(fstat(&stdin).context("standard input")?.st_mode);
        match kind {
            FileType::RegularFile => {
                let at = seek(&stdin, SeekFrom::Current(0)).context("standard input")?;
                Ok(Input::File(at))
            }
            FileType::Fifo | FileType::Socket => {
                let mut copy = tempfile::tempfile().context("a file to keep the input in")?;
                std::io::copy(&mut stdin.lock(), &mut copy)
                    .context("keeping the input for the second run")?;
                Ok(Input::Copy(copy))
            }
            _ => Ok(Input::Own),
        }
    }

    /// From its beginning, for the run that counts.
    pub(crate) fn again(&self) -> Result<BorrowedFd<'_>> {
        match self {
            Input::Own | Input::Terminal(_) => Ok(rustix::stdio::stdin()),
            Input::File(at) => {
                let stdin = rustix::stdio::stdin();
                seek(stdin, SeekFrom::Start(*at)).context("standard input")?;
                Ok(stdin)
            }
            Input::Copy(copy) => {
                seek(copy, SeekFrom::Start(0)).context("the kept input")?;
                Ok(copy.as_fd())
            }
        }
    }

    /// From its beginning, for the run that measures.
    pub(crate) fn for_measuring(&self) -> Result<BorrowedFd<'_>> {
        match self {
            Input::Terminal(nothing) => Ok(nothing.as_fd()),
            _ => self.again(),
        }
    }
}
