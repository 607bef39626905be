//! The kernel as QEMU boots it fastest: the ELF image out of the bzImage, by
//! its PVH entry point (no decompression in the guest, no firmware).

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

// Offsets in a bzImage (Documentation/arch/x86/boot.rst of Linux).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD: usize = 0x248;
const SECTOR: usize = 512;

/// Writes the ELF image of the bzImage at `from`, if it isn't there yet.
pub(super) fn extract(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let image = std::fs::read(from).with_context(|| from.display().to_string())?;
    let payload = payload(&image).with_context(|| format!("{} is no bzImage", from.display()))?;
    let elf = decompress(payload)?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "the kernel in {} is not an ELF image",
        from.display()
    );
    let part = to.with_extension(format!("part-{}", std::process::id()));
    std::fs::write(&part, elf).with_context(|| part.display().to_string())?;
    std::fs::rename(&part, to).with_context(|| to.display().to_string())
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize, len: usize| {
        let bytes = image.get(at..at + len)?;
        let value = bytes.iter().rev().fold(0, |v, b| v << 8 | usize::from(*b));
        Some(value)
    };
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" || word(VERSION, 2)? < 0x208 {
        return None;
    }
    // Zero stands for four, for the boot loaders of old.
    let sectors = match word(SETUP_SECTORS, 1)? {
        0 => 4,
        sectors => sectors,
    };
    let begin = (sectors + 1) * SECTOR + word(PAYLOAD, 4)?;
    // The last four bytes are the size of what is in it.
    let len = word(PAYLOAD + 4, 4)?.checked_sub(4)?;
    image.get(begin..begin.checked_add(len)?)
}

/// The program that undoes a compression, by what it begins with.
fn program(payload: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
    ];
    known
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .map(|(_, program)| *program)
}

/// Decompresses with the program that fits.
pub(super) fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let program = program(payload).context("it is compressed in an unknown way")?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}: install it"))?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut to| to.write_all(payload)));
        child.wait_with_output()
    })?;
    ensure!(
        !output.stdout.is_empty(),
        "{program} could not decompress it"
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(sectors: u8, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; (usize::from(sectors.max(4)) + 1) * SECTOR];
        image[SETUP_SECTORS] = sectors;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD..PAYLOAD + 4].copy_from_slice(&16_u32.to_le_bytes());
        let len = payload.len() as u32 + 4;
        image[PAYLOAD + 4..PAYLOAD + 8].copy_from_slice(&len.to_le_bytes());
        image.extend([0xee; 16]);
        image.extend(payload);
        image.extend([0; 100]);
        image
    }

    #[test]
    fn the_payload_lies_where_the_header_says() {
        for sectors in [0, 4, 27] {
            assert_eq!(payload(&image(sectors, b"kernel")), Some(&b"kernel"[..]));
        }
        let whole = image(27, b"kernel");
        for len in 0..whole.len() - 110 {
            assert_eq!(payload(&whole[..len]), None, "{len}");
        }
        let mut huge = whole.clone();
        huge[PAYLOAD..PAYLOAD + 8].fill(0xff);
        assert_eq!(payload(&huge), None);
    }

    #[test]
    fn compressions_are_told_apart() {
        assert_eq!(program(b"\x1f\x8b\x08"), Some("gzip"));
        assert_eq!(program(b"\xfd7zXZ\0"), Some("xz"));
        assert_eq!(program(b"\x28\xb5\x2f\xfd"), Some("zstd"));
        assert_eq!(program(b"\x7fELF"), None);
    }
}
