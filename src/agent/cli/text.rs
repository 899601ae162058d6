//! Words and columns that several commands show.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Blanks between two columns, as kubectl has them.
const GAP: &str = "   ";

/// The time since `time` as kubectl shows it: the largest two units that say something.
pub(super) fn age(time: &Time, now: Timestamp) -> String {
    match now.as_second() - time.0.as_second() {
        seconds @ ..120 => format!("{}s", seconds.max(0)),
        seconds @ 120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds @ 600..10_800 => format!("{}m", seconds / 60),
        seconds @ 10_800..172_800 => format!("{}h", seconds / 3600),
        seconds @ 172_800.. => format!("{}d", seconds / 86_400),
    }
}

/// Rows of cells as lines, each column as wide as its widest cell. `paint` gets a cell's place and
/// its text, padded, and gives what is shown.
pub(super) fn columns(
    rows: &[Vec<String>],
    paint: impl Fn(usize, usize, String) -> String,
) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for (y, row) in rows.iter().enumerate() {
        for (x, cell) in row.iter().enumerate() {
            let last = x + 1 == row.len();
            let padded = if last { cell.clone() } else { format!("{cell:0$}", widths[x]) };
            text.push_str(&paint(y, x, padded));
            text.push_str(if last { "\n" } else { GAP });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let age = |seconds: i64| {
            let now = Timestamp::UNIX_EPOCH;
            age(&Time(now - jiff::SignedDuration::from_secs(seconds)), now)
        };
        let all = [-1, 0, 119, 125, 660, 10_800, 172_800].map(age);
        assert_eq!(all, ["0s", "0s", "119s", "2m5s", "11m", "3h", "2d"]);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["A".into(), "B".into()], vec!["längs".into(), "x y".into()]];
        assert_eq!(columns(&rows, |_, _, cell| cell), "A       B\nlängs   x y\n");
    }
}
