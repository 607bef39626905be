//! The kernel's ELF image out of a bzImage: QEMU boots that through its PVH
//! entry, which spares it the real-mode path.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::ops::Range;
use std::process::{Command, Stdio};

/// Where the setup header's fields are, and what they say
/// (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// What a payload of zero setup sectors means, for old loaders' sake.
const DEFAULT_SETUP_SECTORS: usize = 4;

/// How the payload is compressed, by its first bytes, and what undoes that.
const TOOLS: [(&[u8], &[&str]); 6] = [
    (&[0x1f, 0x8b], &["gzip", "-dc"]),
    (
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &["xz", "-dc", "--single-stream"],
    ),
    (&[0x28, 0xb5, 0x2f, 0xfd], &["zstd", "-dc"]),
    (b"BZh", &["bzip2", "-dc"]),
    (&[0x5d, 0, 0], &["xz", "--format=lzma", "-dc"]),
    (&[0x02, 0x21, 0x4c, 0x18], &["lz4", "-dc"]),
];

/// The ELF image in a bzImage.
pub(super) fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let payload = &image[payload];
    if payload.starts_with(b"\x7fELF") {
        return Ok(payload.to_vec());
    }
    let known = TOOLS.iter().find(|(magic, _)| payload.starts_with(magic));
    let Some((_, tool)) = known else {
        bail!("the kernel is compressed in a way that is not known here");
    };
    let elf = filter(tool, payload)?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "what {} made of the kernel is no ELF image",
        tool[0]
    );
    Ok(elf)
}

/// Where the compressed kernel lies.
fn payload(image: &[u8]) -> Result<Range<usize>> {
    ensure!(
        image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"),
        "this is no Linux kernel (bzImage)"
    );
    let sectors = match usize::from(image[SETUP_SECTORS]) {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let start = (sectors + 1) * SECTOR + word(image, PAYLOAD_OFFSET)?;
    // The image's length follows the compressed bytes; tools must not see it.
    let length = word(image, PAYLOAD_LENGTH)?;
    let range = start..start + length.saturating_sub(4);
    ensure!(
        range.end <= image.len() && !range.is_empty(),
        "the kernel image is cut short"
    );
    Ok(range)
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    let bytes = bytes.context("the kernel image is cut short")?;
    Ok(u32::from_le_bytes(*bytes) as usize)
}

/// What a program makes of its standard input.
pub(super) fn filter(tool: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let (program, arguments) = tool.split_first().context("no tool")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}: install it"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = Vec::new();
    let read = std::thread::scope(|scope| {
        // It need not take all: what it makes of it is judged.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        stdout.map(|mut stdout| stdout.read_to_end(&mut output))
    });
    let status = child
        .wait()
        .with_context(|| format!("waiting for {program}"))?;
    read.transpose()
        .with_context(|| format!("reading from {program}"))?;
    ensure!(
        status.success() || !output.is_empty(),
        "{program} failed ({status})"
    );
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        let length = u32::try_from(payload.len()).unwrap() + 4;
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0; 4]);
        image
    }

    #[test]
    fn a_plain_image_is_taken_as_it_is() {
        assert_eq!(extract(&image(b"\x7fELF rest")).unwrap(), b"\x7fELF rest");
    }

    #[test]
    fn a_compressed_image_is_unpacked() {
        let packed = filter(&["gzip", "-c"], b"\x7fELF of some length").unwrap();
        assert_eq!(extract(&image(&packed)).unwrap(), b"\x7fELF of some length");
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let whole = image(b"\x7fELF rest");
        for bytes in [&b"short"[..], &whole[..whole.len() - 8], &image(b"????")] {
            assert!(extract(bytes).is_err());
        }
    }
}
