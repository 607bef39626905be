//! The first stack of a program: argument count, arguments, environment and
//! the auxiliary vector (System V ABI, AMD64 supplement, 3.4.1).

use linux_raw_sys::auxvec as at;
use proto::addr::UserAddr;

/// What the auxiliary vector tells the program.
#[derive(Clone, Debug, Default)]
pub struct Aux {
    /// Program headers in memory.
    pub phdr: Option<UserAddr>,
    /// How many.
    pub phnum: u16,
    /// First instruction.
    pub entry: UserAddr,
    /// Real and effective ids: uid, euid, gid, egid.
    pub ids: [u32; 4],
    /// Sixteen random bytes for the libc's canaries.
    pub random: [u8; 16],
    /// CPU features (`AT_HWCAP`, `AT_HWCAP2`).
    pub hwcap: [u64; 2],
    /// The host's vDSO: calls that never trap.
    pub vdso: u64,
    /// Least size of a signal stack.
    pub min_sigstack: u64,
}

/// A built stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstStack {
    /// The stack pointer at the entry point: 16-byte aligned.
    pub sp: UserAddr,
    /// What stands from `sp` to the top.
    pub bytes: Vec<u8>,
}

/// Builds the stack below `top`. `None` where it would not fit `room` bytes
/// (`E2BIG`).
pub fn build(
    top: UserAddr,
    room: u64,
    exec_path: &[u8],
    argv: &[Vec<u8>],
    envp: &[Vec<u8>],
    aux: &Aux,
) -> Option<FirstStack> {
    let mut strings = Strings {
        top: top.0,
        bytes: Vec::new(),
    };
    let exec = strings.push(exec_path)?;
    let platform = strings.push(b"x86_64")?;
    let random = strings.push_raw(&aux.random)?;
    let env: Vec<u64> = envp
        .iter()
        .rev()
        .map(|s| strings.push(s))
        .collect::<Option<_>>()?;
    let args: Vec<u64> = argv
        .iter()
        .rev()
        .map(|s| strings.push(s))
        .collect::<Option<_>>()?;

    let mut words = vec![argv.len() as u64];
    words.extend(args.iter().rev());
    words.push(0);
    words.extend(env.iter().rev());
    words.push(0);
    for (key, value) in auxv(aux, exec, platform, random) {
        words.extend([u64::from(key), value]);
    }
    let strings_start = top.0 - strings.bytes.len() as u64;
    let sp = strings_start.checked_sub(words.len() as u64 * 8)? & !15;
    if top.0 - sp > room {
        return None;
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.resize((strings_start - sp) as usize, 0);
    strings.bytes.reverse();
    bytes.extend(strings.bytes);
    Some(FirstStack {
        sp: UserAddr(sp),
        bytes,
    })
}

/// Strings from the top down; kept reversed so that pushing is cheap.
struct Strings {
    top: u64,
    bytes: Vec<u8>,
}

impl Strings {
    fn push_raw(&mut self, s: &[u8]) -> Option<u64> {
        self.bytes.extend(s.iter().rev());
        self.top.checked_sub(self.bytes.len() as u64)
    }
    fn push(&mut self, s: &[u8]) -> Option<u64> {
        self.bytes.push(0);
        self.push_raw(s)
    }
}

fn auxv(aux: &Aux, exec: u64, platform: u64, random: u64) -> Vec<(u32, u64)> {
    let mut v = vec![
        (at::AT_SYSINFO_EHDR, aux.vdso),
        (at::AT_MINSIGSTKSZ, aux.min_sigstack),
        (at::AT_HWCAP, aux.hwcap[0]),
        (at::AT_PAGESZ, proto::PAGE_SIZE),
        (at::AT_CLKTCK, 100),
        (at::AT_PHENT, 56),
        (at::AT_PHNUM, u64::from(aux.phnum)),
        (at::AT_BASE, 0),
        (at::AT_FLAGS, 0),
        (at::AT_ENTRY, aux.entry.0),
        (at::AT_UID, u64::from(aux.ids[0])),
        (at::AT_EUID, u64::from(aux.ids[1])),
        (at::AT_GID, u64::from(aux.ids[2])),
        (at::AT_EGID, u64::from(aux.ids[3])),
        (at::AT_SECURE, 0),
        (at::AT_RANDOM, random),
        (at::AT_HWCAP2, aux.hwcap[1]),
        (at::AT_EXECFN, exec),
        (at::AT_PLATFORM, platform),
    ];
    if let Some(phdr) = aux.phdr {
        v.push((at::AT_PHDR, phdr.0));
    }
    v.retain(|(key, value)| *key != at::AT_SYSINFO_EHDR || *value != 0);
    v.push((at::AT_NULL, 0));
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(s: &FirstStack, at: u64) -> u64 {
        let i = (at - s.sp.0) as usize;
        u64::from_le_bytes(s.bytes[i..i + 8].try_into().unwrap())
    }

    fn string(s: &FirstStack, at: u64) -> &[u8] {
        let tail = &s.bytes[(at - s.sp.0) as usize..];
        &tail[..tail.iter().position(|b| *b == 0).unwrap()]
    }

    proptest! {
        /// Reading the stack as a libc does gives back what was put in.
        #[test]
        fn reads_back(
            argv in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..8),
            envp in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..8),
        ) {
            let top = UserAddr(0x7000_0000);
            let aux = Aux { entry: UserAddr(0x40_1000), phnum: 3, random: [7; 16], ..Aux::default() };
            let s = build(top, 1 << 20, b"/bin/p", &argv, &envp, &aux).unwrap();
            prop_assert_eq!(s.sp.0 % 16, 0);
            prop_assert_eq!(s.sp.0 + s.bytes.len() as u64, top.0);
            let mut at = s.sp.0;
            prop_assert_eq!(word(&s, at), argv.len() as u64);
            for list in [&argv, &envp] {
                for expected in list {
                    at += 8;
                    prop_assert_eq!(string(&s, word(&s, at)), &expected[..]);
                }
                at += 8;
                prop_assert_eq!(word(&s, at), 0);
            }
            let mut seen = std::collections::HashMap::new();
            loop {
                at += 8;
                let (key, value) = (word(&s, at), word(&s, at + 8));
                at += 8;
                seen.insert(key, value);
                if key == 0 { break; }
            }
            prop_assert_eq!(seen[&9], 0x40_1000);
            prop_assert_eq!(string(&s, seen[&31]), b"/bin/p");
            let random = (seen[&25] - s.sp.0) as usize;
            prop_assert_eq!(&s.bytes[random..random + 16], &[7u8; 16]);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let args = vec![vec![b'x'; 1000]; 10];
        assert!(
            build(
                UserAddr(0x7000_0000),
                4096,
                b"p",
                &args,
                &[],
                &Aux::default()
            )
            .is_none()
        );
    }
}
