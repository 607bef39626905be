//! Sizes as people write them.

/// A size or share that could not be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SizeError {
    /// Not a size.
    #[error(
        "{0:?} is not a size: write a number with an optional unit, such as 65536, 64M or 1GiB"
    )]
    Malformed(String),
    /// More than 2^64 - 1 bytes.
    #[error("{0:?} is more than 16 EiB")]
    TooLarge(String),
    /// Not a share.
    #[error(
        "{0:?} is not a share: write a number above 0 and at most 100 followed by %, such as 25%"
    )]
    NotPercent(String),
}

/// Bytes of a size such as `4096`, `64M` or `1GiB`. Units as in dd(1): K, M,
/// G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB, GB, TB powers of
/// 1000; B, or nothing, is bytes. Case does not matter.
///
/// # Errors
/// [`SizeError::Malformed`], [`SizeError::TooLarge`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let malformed = || SizeError::Malformed(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(malformed());
    }
    let unit = unit_bytes(unit.trim_start()).ok_or_else(malformed)?;
    let too_large = || SizeError::TooLarge(text.to_owned());
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(too_large)
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib") {
        Some(prefix) if !prefix.is_empty() => (prefix, 1024_u64),
        Some(_) => return None,
        None => match unit.strip_suffix('b') {
            Some(prefix) => (prefix, 1000),
            None => (unit.as_str(), 1024),
        },
    };
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    Some(base.pow(power))
}

/// The share, in percent, of a text such as `25%` or `2.5%`.
///
/// # Errors
/// [`SizeError::NotPercent`] for anything else, for 0 and for more than 100.
pub fn parse_percent(text: &str) -> Result<f64, SizeError> {
    text.trim()
        .strip_suffix('%')
        .and_then(|number| number.trim_end().parse::<f64>().ok())
        .filter(|share| *share > 0.0 && *share <= 100.0)
        .ok_or_else(|| SizeError::NotPercent(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("64M", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("1GiB", 1 << 30),
            ("1GB", 1_000_000_000),
            ("3kB", 3000),
            ("7B", 7),
            (" 2T ", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "", "M", "-1", "1.5G", "1X", "1iB", "1GBi", "0x10", "1 2", "٣",
        ] {
            assert_eq!(
                parse_size(text),
                Err(SizeError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        for text in ["99999999999999999999", "16777216T"] {
            assert_eq!(
                parse_size(text),
                Err(SizeError::TooLarge(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_percent("25%"), Ok(25.0));
        assert_eq!(parse_percent(" 2.5 %"), Ok(2.5));
        for text in ["25", "0%", "101%", "-5%", "NaN%", "inf%", "%", ""] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_plain_numbers_mean_themselves(text in ".{0,12}", n: u64) {
            let _ = (parse_size(&text), parse_percent(&text));
            prop_assert_eq!(parse_size(&n.to_string()), Ok(n));
        }
    }
}
