//! `testbed vm`'s command line.

use super::switch::LOSS_UNIT;
use super::{MOST_NODES, Node, packages};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The machines' name if none is given.
const NAME: &str = "vm";

/// See [`crate::cli::Command::Vm`].
#[derive(Subcommand, Debug)]
pub(crate) enum Vm {
    /// Fetches what the machines are made of; `up` does that by itself.
    Prepare {
        /// The kernel's package.
        #[arg(long, value_name = "PACKAGE", default_value = packages::KERNEL)]
        kernel: String,
    },
    /// Boots the machines, and brings a testbed of the same name up on them.
    Up(UpArgs),
    /// Shows the machines.
    Status {
        /// Which.
        #[arg(default_value = NAME)]
        name: String,
    },
    /// Runs a command in a machine: busybox, rdma, ibv_devinfo, perftest.
    Exec {
        /// Of these machines.
        #[arg(long, default_value = NAME)]
        name: String,
        /// In which: 1, 2, ...
        node: Node,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Connects this terminal to a machine's console, a shell. Ctrl-C leaves.
    Console {
        /// Of these machines.
        #[arg(long, default_value = NAME)]
        name: String,
        /// Which: 1, 2, ...
        node: Node,
    },
    /// Ends a machine at once, as a power cut does.
    Kill {
        /// Of these machines.
        #[arg(long, default_value = NAME)]
        name: String,
        /// Which: 1, 2, ...
        node: Node,
    },
    /// Changes a machine's network cable.
    Link(LinkArgs),
    /// Takes the machines down, and the testbed on them.
    Down {
        /// Which.
        #[arg(default_value = NAME)]
        name: String,
    },
}

/// See [`Vm::Up`].
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Their name, and the testbed's.
    #[arg(long, default_value = NAME)]
    pub(super) name: String,
    /// How many: the first are processors and memory, the last is storage.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_NODES)))]
    pub(super) nodes: u16,
    /// Memory of each machine.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_memory)]
    pub(super) memory: u64,
    /// Processors of each machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) cpus: u16,
    /// The kernel's package.
    #[arg(long, value_name = "PACKAGE", default_value = packages::KERNEL)]
    pub(super) kernel: String,
    /// The directory of this computer that programs see as `/`: the storage
    /// machine reaches it over 9p, with your rights.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(super) share: PathBuf,
    /// What carries messages and pages between the machines.
    #[arg(long, value_enum, default_value_t = crate::plan::Fabric::Verbs)]
    pub(super) fabric: crate::plan::Fabric,
    /// What the components log: error, warn, info, debug.
    #[arg(long, value_name = "LEVEL")]
    pub(super) log: Option<String>,
    /// Boot the machines alone, without a testbed on them.
    #[arg(long)]
    pub(super) bare: bool,
}

/// See [`Vm::Link`].
#[derive(Args, Debug)]
pub(crate) struct LinkArgs {
    /// Of these machines.
    #[arg(long, default_value = super::args::NAME)]
    pub(super) name: String,
    /// Which: 1, 2, ...
    pub(super) node: Node,
    /// Share of frames lost each way, e.g. 1%.
    #[arg(long, value_name = "PERCENT", value_parser = parse_loss)]
    pub(super) loss: Option<u32>,
    /// Delay added to frames each way, e.g. 1ms, 50us.
    #[arg(long, value_name = "TIME", value_parser = parse_delay)]
    pub(super) delay: Option<Duration>,
    /// Cut it.
    #[arg(long, conflicts_with = "up")]
    pub(super) down: bool,
    /// Mend it.
    #[arg(long)]
    pub(super) up: bool,
}

/// Less does not boot.
const LEAST_MEMORY: u64 = 256 << 20;

fn parse_memory(text: &str) -> Result<u64, String> {
    let size = member::parse_size(text).map_err(|why| why.to_string())?;
    if size < LEAST_MEMORY {
        return Err(format!(
            "{text} is too little for a machine: give 256MiB or more"
        ));
    }
    Ok(size)
}

fn parse_loss(text: &str) -> Result<u32, String> {
    let percent = text.trim_end_matches('%').parse::<f64>().ok();
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let loss = (percent / 100.0 * f64::from(LOSS_UNIT)) as u32;
            Ok(loss)
        }
        _ => Err(format!("{text} is no share: give 0% to 100%")),
    }
}

/// Longest delay of a link: more is a cut.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

fn parse_delay(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no delay: give e.g. 50us, 1ms, 2s, at most 10s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let micros = match unit {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let delay = Duration::from_micros(number.checked_mul(micros).ok_or_else(wrong)?);
    if delay > LONGEST_DELAY {
        return Err(wrong());
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cables_are_described() {
        assert_eq!(parse_loss("1%"), Ok(10_000));
        assert_eq!(parse_loss("0.5"), Ok(5_000));
        assert!(parse_loss("101%").is_err() && parse_loss("x").is_err());
        assert_eq!(parse_delay("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_delay("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["1", "ms", "11s", "1h", "99999999999999999999s"] {
            assert!(parse_delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn machines_have_enough_memory() {
        assert!(parse_memory("16M").unwrap_err().contains("256MiB"));
        assert_eq!(parse_memory("1GiB"), Ok(1 << 30));
    }
}
