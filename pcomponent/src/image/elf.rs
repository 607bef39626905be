//! ELF images for x86-64: what is needed to run a static program, fixed
//! (`ET_EXEC`) or position-independent (`ET_DYN` without an interpreter).
//! Source: elf(5) and the System V ABI, AMD64 supplement. Every field is an
//! allegation until checked here.

use proto::addr::{PAGE_SIZE, USER_MAX, USER_MIN, UserAddr};
use proto::mem::Prot;

/// Bytes of a 64-bit ELF header.
pub const HEADER: usize = 64;
/// Bytes of a program header.
const PHENT: usize = 56;
/// More program headers than any linker makes.
const MOST_HEADERS: u16 = 128;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// Where position-independent images go.
const PIE_BASE: u64 = 0x1000_0000_0000;

/// What is wrong with an image, in words for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ElfError {
    /// Shorter than its headers say.
    #[error("the file ends inside its {0}: it is truncated")]
    Truncated(&'static str),
    /// No ELF.
    #[error("it is not an ELF image (no \\x7fELF at its start)")]
    NotElf,
    /// A script.
    #[error("it is a script (#!): run its interpreter, a static binary, instead")]
    Script,
    /// 32-bit or big-endian.
    #[error("it is not a 64-bit little-endian image")]
    Class,
    /// For another CPU.
    #[error("it is for machine {0}, not x86-64 (62)")]
    Machine(u16),
    /// An object file, a core dump.
    #[error("it is of ELF type {0}, not an executable")]
    Type(u16),
    /// Dynamically linked.
    #[error("it is dynamically linked (it asks for {0}); link it with -static")]
    Dynamic(String),
    /// A header contradicts itself or the file.
    #[error("its {0} is malformed: {1}")]
    Malformed(&'static str, String),
}

/// A part of the image to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte in memory.
    pub addr: UserAddr,
    /// Bytes in memory.
    pub mem_len: u64,
    /// First byte in the file; congruent to `addr` modulo the page size.
    pub offset: u64,
    /// Bytes in the file; the rest is zeros.
    pub file_len: u64,
    /// Access.
    pub prot: Prot,
}

/// A checked image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// In ascending order, not overlapping by page.
    pub segments: Vec<Segment>,
    /// Where to start.
    pub entry: UserAddr,
    /// Where the program headers are in memory (`AT_PHDR`), if they are.
    pub phdr: Option<UserAddr>,
    /// How many (`AT_PHNUM`).
    pub phnum: u16,
    /// Whether the stack is to be executable.
    pub exec_stack: bool,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}
fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}
fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

/// One program header, as it stands in the file.
struct Phdr {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    file_len: u64,
    mem_len: u64,
}

impl Phdr {
    fn parse(b: &[u8]) -> Option<Phdr> {
        Some(Phdr {
            kind: u32_at(b, 0)?,
            flags: u32_at(b, 4)?,
            offset: u64_at(b, 8)?,
            vaddr: u64_at(b, 16)?,
            file_len: u64_at(b, 32)?,
            mem_len: u64_at(b, 40)?,
        })
    }
}

/// The ELF header's fields that matter, checked.
struct Ehdr {
    kind: u16,
    entry: u64,
    phoff: u64,
    phnum: u16,
}

fn header(b: &[u8]) -> Result<Ehdr, ElfError> {
    if b.starts_with(b"#!") {
        return Err(ElfError::Script);
    }
    if b.len() < 4 || &b[..4] != b"\x7fELF" {
        return Err(ElfError::NotElf);
    }
    if b.len() < HEADER {
        return Err(ElfError::Truncated("ELF header"));
    }
    if b[4] != 2 || b[5] != 1 {
        return Err(ElfError::Class);
    }
    let cut = || ElfError::Truncated("ELF header");
    let machine = u16_at(b, 18).ok_or_else(cut)?;
    if machine != EM_X86_64 {
        return Err(ElfError::Machine(machine));
    }
    let kind = u16_at(b, 16).ok_or_else(cut)?;
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(ElfError::Type(kind));
    }
    let phentsize = u16_at(b, 54).ok_or_else(cut)?;
    let phnum = u16_at(b, 56).ok_or_else(cut)?;
    if usize::from(phentsize) != PHENT || phnum == 0 || phnum > MOST_HEADERS {
        let why = format!("{phnum} entries of {phentsize} bytes");
        return Err(ElfError::Malformed("program header table", why));
    }
    let entry = u64_at(b, 24).ok_or_else(cut)?;
    let phoff = u64_at(b, 32).ok_or_else(cut)?;
    Ok(Ehdr {
        kind,
        entry,
        phoff,
        phnum,
    })
}

/// Where the program headers are in the file: offset and bytes.
///
/// # Errors
/// As [`parse`], for the ELF header.
pub fn header_table(head: &[u8]) -> Result<(u64, usize), ElfError> {
    let e = header(head)?;
    Ok((e.phoff, usize::from(e.phnum) * PHENT))
}

/// Parses an image from its ELF header, its program headers (see
/// [`header_table`]), the name of the interpreter it asks for if that is known,
/// and the file's length.
///
/// # Errors
/// [`ElfError`], for people.
pub fn parse(head: &[u8], table: &[u8], file_len: u64) -> Result<Image, ElfError> {
    let e = header(head)?;
    if table.len() < usize::from(e.phnum) * PHENT {
        return Err(ElfError::Truncated("program header table"));
    }
    let headers: Vec<Phdr> = table.chunks_exact(PHENT).filter_map(Phdr::parse).collect();
    if headers.iter().any(|h| h.kind == PT_INTERP) {
        return Err(ElfError::Dynamic("an interpreter, ld.so".into()));
    }
    let bias = if e.kind == ET_DYN { PIE_BASE } else { 0 };
    if e.kind == ET_DYN && !headers.iter().any(|h| h.kind == PT_DYNAMIC) {
        return Err(ElfError::Malformed(
            "type",
            "ET_DYN without a dynamic section".into(),
        ));
    }
    let mut segments = Vec::new();
    for h in headers
        .iter()
        .filter(|h| h.kind == PT_LOAD && h.mem_len > 0)
    {
        segments.push(segment(h, bias, file_len)?);
    }
    check_order(&segments)?;
    let entry = UserAddr(e.entry.wrapping_add(bias));
    let runs = segments
        .iter()
        .any(|s| s.prot.has(Prot::EXEC) && entry >= s.addr && entry.0 - s.addr.0 < s.mem_len);
    if !runs {
        let why = format!("{entry} is in no executable segment");
        return Err(ElfError::Malformed("entry point", why));
    }
    Ok(Image {
        phdr: phdr_address(&headers, &segments, &e, bias),
        segments,
        entry,
        phnum: e.phnum,
        exec_stack: headers
            .iter()
            .any(|h| h.kind == PT_GNU_STACK && h.flags & 1 != 0),
    })
}

fn segment(h: &Phdr, bias: u64, file_len: u64) -> Result<Segment, ElfError> {
    let bad = |why: &str| {
        let text = format!("{why} (vaddr {:#x}, offset {:#x})", h.vaddr, h.offset);
        ElfError::Malformed("loadable segment", text)
    };
    if h.file_len > h.mem_len {
        return Err(bad("longer in the file than in memory"));
    }
    let end = h
        .offset
        .checked_add(h.file_len)
        .ok_or_else(|| bad("offset wraps"))?;
    if end > file_len {
        return Err(ElfError::Truncated("loadable segment"));
    }
    if h.vaddr % PAGE_SIZE != h.offset % PAGE_SIZE {
        return Err(bad("address and offset differ within a page"));
    }
    let addr = h
        .vaddr
        .checked_add(bias)
        .ok_or_else(|| bad("address wraps"))?;
    let last = addr
        .checked_add(h.mem_len)
        .ok_or_else(|| bad("address wraps"))?;
    if addr < USER_MIN.0 || last > USER_MAX.0 - (1 << 30) {
        return Err(bad("outside the program's window"));
    }
    let bit = |flag: u32, p: Prot| if h.flags & flag != 0 { p } else { Prot::NONE };
    Ok(Segment {
        addr: UserAddr(addr),
        mem_len: h.mem_len,
        offset: h.offset,
        file_len: h.file_len,
        prot: bit(4, Prot::READ)
            .with(bit(2, Prot::WRITE))
            .with(bit(1, Prot::EXEC)),
    })
}

fn check_order(segments: &[Segment]) -> Result<(), ElfError> {
    if segments.is_empty() {
        return Err(ElfError::Malformed(
            "program header table",
            "nothing to load".into(),
        ));
    }
    let ends = |s: &Segment| UserAddr(s.addr.0 + s.mem_len).align_up(PAGE_SIZE);
    for pair in segments.windows(2) {
        if ends(&pair[0]).is_none_or(|end| end > pair[1].addr.align_down(PAGE_SIZE)) {
            let why = format!("{} and {} overlap or descend", pair[0].addr, pair[1].addr);
            return Err(ElfError::Malformed("loadable segments", why));
        }
    }
    Ok(())
}

fn phdr_address(headers: &[Phdr], segments: &[Segment], e: &Ehdr, bias: u64) -> Option<UserAddr> {
    if let Some(h) = headers.iter().find(|h| h.kind == PT_PHDR) {
        return h.vaddr.checked_add(bias).map(UserAddr);
    }
    let len = u64::from(e.phnum) * PHENT as u64;
    let holder = segments.iter().find(|s| {
        e.phoff >= s.offset
            && e.phoff
                .checked_add(len)
                .is_some_and(|end| end <= s.offset + s.file_len)
    })?;
    holder.addr.checked_add(e.phoff - holder.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phdr(kind: u32, flags: u32, offset: u64, vaddr: u64, file: u64, mem: u64) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(kind.to_le_bytes());
        b.extend(flags.to_le_bytes());
        for v in [offset, vaddr, vaddr, file, mem, 4096] {
            b.extend(v.to_le_bytes());
        }
        b
    }

    fn image(kind: u16, machine: u16, entry: u64, table: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let mut h = vec![0u8; HEADER];
        h[..4].copy_from_slice(b"\x7fELF");
        h[4] = 2;
        h[5] = 1;
        h[16..18].copy_from_slice(&kind.to_le_bytes());
        h[18..20].copy_from_slice(&machine.to_le_bytes());
        h[24..32].copy_from_slice(&entry.to_le_bytes());
        h[32..40].copy_from_slice(&64u64.to_le_bytes());
        h[54..56].copy_from_slice(&56u16.to_le_bytes());
        h[56..58].copy_from_slice(&(table.len() as u16).to_le_bytes());
        (h, table.concat())
    }

    fn good() -> Vec<Vec<u8>> {
        vec![
            phdr(PT_LOAD, 5, 0, 0x40_0000, 0x2000, 0x2000),
            phdr(PT_LOAD, 6, 0x2f00, 0x60_2f00, 0x100, 0x9000),
        ]
    }

    #[test]
    fn a_good_image() {
        let (h, t) = image(ET_EXEC, 62, 0x40_1000, &good());
        let i = parse(&h, &t, 0x3000).unwrap();
        assert_eq!(i.segments.len(), 2);
        assert_eq!(i.phdr, Some(UserAddr(0x40_0040)));
        assert_eq!(i.segments[1].prot, Prot::READ_WRITE);
        assert_eq!(header_table(&h).unwrap(), (64, 112));
    }

    #[test]
    fn a_static_pie_is_moved() {
        let mut table = good();
        table[0] = phdr(PT_LOAD, 5, 0, 0, 0x2000, 0x2000);
        table.push(phdr(PT_DYNAMIC, 6, 0x2f00, 0x60_2f00, 0x100, 0x100));
        let (h, t) = image(ET_DYN, 62, 0x1000, &table);
        let i = parse(&h, &t, 0x3000).unwrap();
        assert_eq!(i.entry, UserAddr(PIE_BASE + 0x1000));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let whole = good();
        let check = |kind, machine, entry, table: &[Vec<u8>], len| {
            let (h, t) = image(kind, machine, entry, table);
            parse(&h, &t, len).unwrap_err()
        };
        assert_eq!(
            check(ET_EXEC, 183, 0, &whole, 0x3000),
            ElfError::Machine(183)
        );
        assert_eq!(check(1, 62, 0, &whole, 0x3000), ElfError::Type(1));
        let cut = check(ET_EXEC, 62, 0x40_1000, &whole, 0x2f80);
        assert_eq!(cut, ElfError::Truncated("loadable segment"));
        let mut interp = good();
        interp.push(phdr(PT_INTERP, 4, 0x100, 0x40_0100, 8, 8));
        assert!(matches!(
            check(ET_EXEC, 62, 0x40_1000, &interp, 0x3000),
            ElfError::Dynamic(_)
        ));
        assert!(matches!(
            check(ET_EXEC, 62, 0x99, &whole, 0x3000),
            ElfError::Malformed(..)
        ));
        assert_eq!(parse(b"#!/bin/sh", &[], 9).unwrap_err(), ElfError::Script);
        assert_eq!(parse(b"hello", &[], 5).unwrap_err(), ElfError::NotElf);
        assert_eq!(
            parse(b"\x7fELF", &[], 4).unwrap_err(),
            ElfError::Truncated("ELF header")
        );
        let (h, _) = image(ET_EXEC, 62, 0, &whole);
        assert_eq!(
            parse(&h, &[], 64).unwrap_err(),
            ElfError::Truncated("program header table")
        );
        let swapped = [whole[1].clone(), whole[0].clone()];
        assert!(matches!(
            check(ET_EXEC, 62, 0x40_1000, &swapped, 0x3000),
            ElfError::Malformed(..)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_sound(
            mut head in prop::collection::vec(any::<u8>(), 0..80),
            table in prop::collection::vec(any::<u8>(), 0..600),
            len in any::<u64>(), fix in any::<bool>(),
        ) {
            if fix && head.len() >= HEADER {
                head[..6].copy_from_slice(b"\x7fELF\x02\x01");
                head[16..20].copy_from_slice(&[2, 0, 62, 0]);
                head[54..58].copy_from_slice(&[56, 0, 3, 0]);
            }
            if let Ok(image) = parse(&head, &table, len) {
                for s in image.segments {
                    prop_assert!(s.addr >= USER_MIN && s.addr.0 + s.mem_len < USER_MAX.0);
                    prop_assert!(s.offset + s.file_len <= len && s.file_len <= s.mem_len);
                }
            }
        }
    }
}
