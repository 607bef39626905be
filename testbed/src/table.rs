//! Columns of text.

/// Rows of cells, the first a heading; every column as wide as its widest
/// cell.
pub(crate) fn text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// Bytes as people read them: three digits and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Precision beyond 53 bits is not shown.
    let (mut value, mut unit) = (count as f64 / 1024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// Nanoseconds as people read them.
pub(crate) fn nanoseconds(count: u64) -> String {
    const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];
    if count < 1000 {
        return format!("{count} ns");
    }
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

fn three_digits(value: f64) -> String {
    let places = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.places$}")
}

/// Without what a terminal would obey instead of showing it.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// A number with its thousands apart.
pub(crate) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["NAME", "STATE"]),
            row(["memory-1", "ok"]),
            row(["é", ""]),
        ];
        assert_eq!(text(&rows), "NAME      STATE\nmemory-1  ok\né\n");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn amounts_as_people_read_them() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (100 << 20, "100 MiB"),
            (1023 << 10, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
        for (count, shown) in [
            (999, "999 ns"),
            (1500, "1.50 us"),
            (2_340_000_000, "2.34 s"),
        ] {
            assert_eq!(nanoseconds(count), shown);
        }
        for (count, shown) in [(7, "7"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(count), shown);
        }
    }
}
