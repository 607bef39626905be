//! Whether a run's output is the native run's.

use regex::bytes::Regex;

/// What is left out of comparisons.
#[derive(Clone, Debug)]
pub(super) struct Masks {
    masks: Vec<Regex>,
    sort_lines: bool,
}

impl Masks {
    pub(super) fn new(masks: &[Regex], sort_lines: bool) -> Masks {
        Masks {
            masks: masks.to_vec(),
            sort_lines,
        }
    }

    /// Output without what may differ.
    pub(super) fn apply(&self, output: Vec<u8>) -> Vec<u8> {
        let mut output = output;
        for mask in &self.masks {
            output = mask.replace_all(&output, &b""[..]).into_owned();
        }
        if !self.sort_lines {
            return output;
        }
        let mut lines: Vec<&[u8]> = output.split_inclusive(|byte| *byte == b'\n').collect();
        lines.sort_unstable();
        lines.concat()
    }
}

/// What is wrong with `seen`, in words; `None` where it is as `wanted`.
pub(super) fn difference(wanted: &[u8], seen: &[u8]) -> Option<String> {
    if wanted == seen {
        return None;
    }
    let mut pairs = wanted.iter().zip(seen);
    let at = pairs
        .position(|(one, other)| one != other)
        .unwrap_or(wanted.len().min(seen.len()));
    let line = 1 + wanted[..at].iter().filter(|byte| **byte == b'\n').count();
    Some(format!(
        "output differs from the first native run's in line {line}: {:?} instead of {:?}",
        line_at(seen, at),
        line_at(wanted, at)
    ))
}

/// The line around a position, cut short.
fn line_at(text: &[u8], at: usize) -> String {
    const MOST: usize = 60;
    let at = at.min(text.len());
    let from = text[..at]
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |n| n + 1);
    let to = text[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(text.len(), |n| at + n);
    // Where it differs must be seen in what is left of a long line.
    let from = from.max(at.saturating_sub(MOST / 2));
    String::from_utf8_lossy(&text[from..to.min(from + MOST)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(patterns: &[&str], sort_lines: bool) -> Masks {
        let masks: Vec<Regex> = patterns.iter().map(|p| Regex::new(p).unwrap()).collect();
        Masks::new(&masks, sort_lines)
    }

    #[test]
    fn what_matches_is_left_out() {
        let masks = masks(&["(?m)^library: [0-9.]+$", "\\x00+"], false);
        let output = masks.apply(b"a 1.5\nlibrary: 3.14\nb\xff\0\0\n".to_vec());
        assert_eq!(output, b"a 1.5\n\nb\xff\n");
    }

    #[test]
    fn lines_without_order() {
        let one = masks(&[], true).apply(b"b\na\nb\n".to_vec());
        assert_eq!(one, masks(&[], true).apply(b"b\nb\na\n".to_vec()));
        assert_ne!(one, masks(&[], true).apply(b"b\na\n".to_vec()));
        assert_ne!(one, masks(&[], false).apply(b"b\na\nb\n".to_vec()));
    }

    #[test]
    fn a_difference_is_shown_where_it_is() {
        assert_eq!(difference(b"x\ny", b"x\ny"), None);
        let said = difference(b"one\ntwo\n", b"one\ntoo\n").unwrap();
        assert!(
            said.contains("line 2") && said.contains("\"too\" instead of \"two\""),
            "{said}"
        );
        let said = difference(b"one\n", b"").unwrap();
        assert!(said.contains("\"\" instead of \"one\""), "{said}");
        let long = [vec![b'x'; 1000], b"y".to_vec()].concat();
        let said = difference(&long, &vec![b'x'; 1001]).unwrap();
        assert!(said.contains("y\"") && said.len() < 250, "{said}");
    }
}
