//! The memory devices (null(4), zero(4), full(4), random(4)).

use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::make_dev;
use crate::user::{BOUNCE, Piece, advance, gather, scatter, total, with_bounce};
use proto::Errno;

/// A character device that the personality answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// `/dev/null`.
    Null,
    /// `/dev/zero`.
    Zero,
    /// `/dev/full`.
    Full,
    /// `/dev/random` and `/dev/urandom`.
    Random,
}

impl Device {
    /// Its device number.
    #[must_use]
    pub fn number(self) -> u64 {
        let minor = match self {
            Device::Null => 3,
            Device::Zero => 5,
            Device::Full => 7,
            Device::Random => 9,
        };
        make_dev(1, minor)
    }

    /// read(2).
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read<K: Kernel>(self, k: &K, mut pieces: Vec<Piece>) -> Result<u64, Errno> {
        if self == Device::Null {
            return Ok(0);
        }
        let wanted = total(&pieces);
        let mut done = 0;
        while done < wanted {
            let step = (wanted - done).min(BOUNCE);
            let put = with_bounce(k, step, |buffer| {
                self.fill(k, buffer)?;
                Ok(scatter(k, &pieces, buffer))
            });
            match put {
                Err(e) if done == 0 => return Err(e),
                Ok(0) if done == 0 => return Err(Errno::EFAULT),
                Err(_) => break,
                Ok(put) => {
                    done += put;
                    if put < step {
                        break;
                    }
                    advance(&mut pieces, put);
                }
            }
        }
        Ok(done as u64)
    }

    fn fill<K: Kernel>(self, k: &K, dst: &mut [u8]) -> Result<(), Errno> {
        if self != Device::Random {
            dst.fill(0);
            return Ok(());
        }
        let mut done = 0;
        while done < dst.len() {
            let n = k.host(HostCall::Getrandom {
                dst: &mut dst[done..],
                flags: 0,
            })?;
            done += usize::try_from(n).unwrap_or(0).max(1);
        }
        Ok(())
    }

    /// write(2): everything is taken, by `/dev/full` nothing.
    ///
    /// # Errors
    /// `ENOSPC`; `EFAULT` where random(4) would read the bytes.
    pub fn write<K: Kernel>(self, k: &K, pieces: &[Piece]) -> Result<u64, Errno> {
        let wanted = total(pieces);
        match self {
            Device::Full if wanted > 0 => Err(Errno::ENOSPC),
            Device::Random if wanted > 0 => {
                // What is written is not mixed in, but it must be readable.
                let most = wanted.min(BOUNCE);
                match with_bounce(k, most, |buffer| gather(k, pieces, buffer)) {
                    0 => Err(Errno::EFAULT),
                    n if n < most => Ok(n as u64),
                    _ => Ok(wanted as u64),
                }
            }
            _ => Ok(wanted as u64),
        }
    }
}
