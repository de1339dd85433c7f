//! Tables as `kubectl` prints them: columns of text, two blanks between.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes a table with a head.
pub(super) fn write<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(head)?;
    rows.iter().try_for_each(|row| line(std::array::from_fn(|column| row[column].as_str())))
}

/// How long ago, in the largest unit that says enough: `45s`, `12m`, `7h`, `3d`.
pub(super) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let mut out = Vec::new();
        let rows = [["a".to_owned(), "10.0.0.1".to_owned()], ["longer".to_owned(), String::new()]];
        write(&mut out, ["NAME", "IP"], &rows).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "NAME    IP\na       10.0.0.1\nlonger\n");
    }

    #[test]
    fn ages() {
        for (seconds, text) in
            [(-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
