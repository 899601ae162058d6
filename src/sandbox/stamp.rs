//! Time stamps of log lines: RFC 3339 in UTC with nine digits of nanoseconds, as CRI logs have.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a stamp, `2026-11-22T03:00:00.123456789Z`.
pub(crate) const LEN: usize = 30;

const SECONDS_PER_DAY: u64 = 86_400;

/// The stamp of a time since the epoch. Years past 9999 do not fit and are cut to their last four
/// digits.
pub(crate) fn stamp(since_epoch: Duration) -> [u8; LEN] {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / SECONDS_PER_DAY);
    let of_day = seconds % SECONDS_PER_DAY;
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    for (range, value) in [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, of_day / 3600),
        (14..16, of_day / 60 % 60),
        (17..19, of_day % 60),
        (20..29, u64::from(since_epoch.subsec_nanos())),
    ] {
        put(&mut out[range], value);
    }
    out
}

/// Now, since the epoch; zero for a clock before it.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in nanoseconds since the epoch as the state file has it.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(now().as_nanos()).unwrap_or(i64::MAX)
}

fn put(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day since the epoch, in years that begin in March, where the leap day
/// is the last of the year (H. Hinnant, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_those_of_a_calendar() {
        // Each day from 1970 past the leap years of 2000 and 2100, at a moving time of day.
        for day in 0..60_000u64 {
            let at = Duration::new(day * SECONDS_PER_DAY + day * 7 % SECONDS_PER_DAY, 123_456_789);
            let expected =
                jiff::Timestamp::from_duration(at.try_into().expect("in range")).expect("in range");
            assert_eq!(
                std::str::from_utf8(&stamp(at)).expect("ascii"),
                format!("{expected:.9}"),
                "day {day}"
            );
        }
    }
}
