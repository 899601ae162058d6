//! Quantities of resources (`500m`, `64Mi`, `1e3`) as Go's `resource.Quantity` reads, compares and
//! prints them (upstream `k8s.io/apimachinery/pkg/api/resource`), in whole nano units.
//!
//! Differences, all on input that nobody writes: a text without any digit (`Ki`, `+`) is refused;
//! decimal fractions with a binary suffix count to their 18th digit, and anything after it as a
//! little more than nothing; a decimal beyond ±8.5e28 is capped.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Nano units in one.
const NANO: i128 = 1_000_000_000;
/// The largest number that upstream promises to hold; larger ones are capped to it.
const MAX: i128 = i64::MAX as i128;
/// Decimals of up to so many digits are kept beyond [`MAX`] (upstream's `maxInt64Factors`): `12E`.
const EXACT_DIGITS: usize = 18;

/// Why a text is no quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form number, suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The form is right, the suffix is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `12e6`
    Exponent,
    /// `12Mi`
    Binary,
    /// `12M`
    Decimal,
}

/// An exact number of nano units, with the way it was written. Equality and order are by value.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// A suffix: what it multiplies by.
enum Factor {
    Ten(i64, Format),
    Two(u32),
}

impl Quantity {
    /// Reads a quantity. Parts of a nano unit round away from zero, too large numbers are capped
    /// at 2^63-1.
    ///
    /// # Errors
    /// [`QuantityError`] where the text is no quantity (white space included).
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = digits(rest);
        let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Format);
        }
        let whole = whole.trim_start_matches('0');
        let (magnitude, mut format) = match factor(rest)? {
            Factor::Ten(exponent, format) => (decimal(whole, fraction, exponent), format),
            Factor::Two(shift) => (binary(whole, fraction, shift), Format::Binary),
        };
        if format == Format::Binary && magnitude < NANO {
            format = Format::Decimal;
        }
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, format })
    }

    /// So many whole units, written with binary suffixes (bytes: `64Mi`).
    #[must_use]
    pub fn binary(units: u64) -> Self {
        Self { nano: i128::from(units) * NANO, format: Format::Binary }
    }

    /// So many thousandths, written with decimal suffixes (cores: `1500m`).
    #[must_use]
    pub fn milli(thousandths: u64) -> Self {
        Self { nano: i128::from(thousandths) * (NANO / 1000), format: Format::Decimal }
    }

    /// Whole units, rounded away from zero and capped to `i64` (bytes of memory, cores).
    #[must_use]
    pub fn value(&self) -> i64 {
        self.rounded(NANO)
    }

    /// Thousandths, rounded away from zero and capped to `i64` (millicores).
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        self.rounded(NANO / 1000)
    }

    /// The same rounded away from zero to whole thousandths, which is what the API server stores
    /// (`SetDefaults_ResourceList`).
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        let milli = NANO / 1000;
        Self { nano: div_away(self.nano, milli) * milli, ..self }
    }

    /// Below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Neither above nor below zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// The sum, written as the first is; a zero takes over the way of the other.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }

    /// What is left without `other`, written as the first is; never below zero.
    #[must_use]
    pub fn minus_to_zero(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano).max(0), ..self }
    }

    fn rounded(&self, unit: i128) -> i64 {
        let units = div_away(self.nano, unit);
        i64::try_from(units).unwrap_or(if self.is_negative() { i64::MIN } else { i64::MAX })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    /// Canonical: no fraction, no loss, the largest suffix (`1.5` is `1500m`, `0.5Gi` `512Mi`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0 && self.nano.abs() >= 1024 * NANO;
        if self.format == Format::Binary && whole {
            let (number, power) = reduce(self.nano / NANO, 1024, BINARY.len());
            return write!(f, "{number}{}", BINARY[power]);
        }
        let (number, power) = reduce(self.nano, 1000, DECIMAL.len());
        if self.format == Format::Exponent && power != 3 {
            // `power` is below ten, so this is in -9..=18.
            let exponent = i64::try_from(power).unwrap_or(0) * 3 - 9;
            return write!(f, "{number}e{exponent}");
        }
        write!(f, "{number}{}", DECIMAL[power])
    }
}

/// Takes as many whole factors of `base` out of `number` as there are steps after the first.
fn reduce(mut number: i128, base: i128, steps: usize) -> (i128, usize) {
    let mut power = 0;
    while number % base == 0 && power + 1 < steps {
        number /= base;
        power += 1;
    }
    (number, power)
}

/// Division that rounds away from zero.
fn div_away(number: i128, by: i128) -> i128 {
    number / by + (number % by).signum()
}

/// Splits off the decimal digits at the start.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Reads the suffix, which is the whole rest of a quantity.
fn factor(suffix: &str) -> Result<Factor, QuantityError> {
    let ten = |exponent| Ok(Factor::Ten(exponent, Format::Decimal));
    match suffix {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => Ok(Factor::Two(10)),
        "Mi" => Ok(Factor::Two(20)),
        "Gi" => Ok(Factor::Two(30)),
        "Ti" => Ok(Factor::Two(40)),
        "Pi" => Ok(Factor::Two(50)),
        "Ei" => Ok(Factor::Two(60)),
        _ => exponent(suffix),
    }
}

/// Reads `e3`, `E-3`; tells a wrong form from a wrong suffix as upstream does.
fn exponent(suffix: &str) -> Result<Factor, QuantityError> {
    let after = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let number = after.strip_prefix(['+', '-']).unwrap_or(after);
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let power = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = power.parse().map_err(|_| QuantityError::Suffix)?;
    Ok(Factor::Ten(exponent, Format::Exponent))
}

/// `whole.fraction` × 10^`exponent` in nano units, rounded up.
fn decimal(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let text = format!("{whole}{fraction}");
    let number = text.trim_start_matches('0');
    if number.is_empty() {
        return 0;
    }
    // A text's length fits an i64; so far out nothing is left to tell apart.
    let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let shift = exponent.saturating_sub(places).saturating_add(9);
    let exact = whole.len().max(1) + fraction.len() <= EXACT_DIGITS;
    let cap = if exact { i128::MAX / 2 } else { MAX * NANO };
    if shift < 0 {
        let dropped = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
        let kept = number.len().saturating_sub(dropped);
        let more = number[kept..].bytes().any(|b| b != b'0');
        return parse_capped(&number[..kept], cap).saturating_add(i128::from(more)).min(cap);
    }
    let ten = u32::try_from(shift).ok().and_then(|shift| 10_i128.checked_pow(shift));
    ten.and_then(|ten| parse_capped(number, cap).checked_mul(ten))
        .map_or(MAX * NANO, |n| n.min(cap))
}

/// `whole.fraction` × 2^`shift` in nano units, rounded up and capped.
fn binary(whole: &str, fraction: &str, shift: u32) -> i128 {
    const PLACES: usize = 18;
    let cap = MAX * NANO;
    let whole = parse_capped(whole, MAX).checked_mul(NANO << shift).unwrap_or(cap).min(cap);
    let kept = &fraction[..fraction.len().min(PLACES)];
    let more = fraction[kept.len()..].bytes().any(|b| b != b'0');
    // Below 10^18 × 2^60, so it fits; in units of 10^-18, of which 10^9 are one nano.
    let part = parse_capped(&format!("{kept:0<PLACES$}"), i128::MAX) << shift;
    let part = div_away(part, NANO) + i128::from(more && part % NANO == 0);
    (whole + part).min(cap)
}

/// A row of decimal digits as a number, at most `cap`; none is zero.
fn parse_capped(digits: &str, cap: i128) -> i128 {
    if digits.is_empty() {
        return 0;
    }
    digits.parse().unwrap_or(cap).min(cap)
}

#[cfg(test)]
#[path = "quantity_test.rs"]
mod tests;
