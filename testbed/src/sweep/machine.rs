//! The machine that figures are of.

use super::record::Machine;
use std::fs::read_to_string;

/// This one.
pub(super) fn this() -> Machine {
    let processors = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let uname = rustix::system::uname();
    Machine {
        kernel: uname.release().to_string_lossy().into_owned(),
        processor: field(&processors, "model name")
            .unwrap_or("unknown")
            .to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: field(&memory, "MemTotal")
            .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(0, |kib| kib << 10),
    }
}

/// The first value of that name in lines of `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name() {
        let text = "model\t: 1\nmodel name\t: A B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name"), Some("A B"));
        assert_eq!(field(text, "none"), None);
        assert!(this().memory_bytes > 0);
    }
}
