//! Upstream's vectors (`TestQuantityParse`, `TestQuantityString`), and laws.

use proptest::prelude::*;

use super::{NANO, Quantity, QuantityError};

fn read(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

#[test]
fn upstream_vectors_in_canonical_form() {
    for (text, canonical) in [
        ("0", "0"),
        ("0n", "0"),
        ("0Ki", "0"),
        ("0e5", "0"),
        ("8Ki", "8Ki"),
        ("3Ei", "3Ei"),
        ("1Ei", "1Ei"),
        ("100Ti", "100Ti"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("5n", "5n"),
        ("4u", "4u"),
        ("3m", "3m"),
        ("1.5", "1500m"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1080m", "1080m"),
        ("2500m", "2500m"),
        ("8k", "8k"),
        ("300T", "300T"),
        ("1000k", "1M"),
        ("100000", "100k"),
        ("1001000", "1001k"),
        ("1000000000000", "1T"),
        ("1e3", "1e3"),
        ("1E-3", "1e-3"),
        ("1e-9", "1e-9"),
        ("8E2", "800"),
        ("1e0", "1"),
        ("12e6", "12e6"),
        ("1E12", "1e12"),
        // Nothing gets lost on the way through a 64-bit float.
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775807", "-9223372036854775807"),
        // Parts of a nano round up, too large ones are capped.
        ("3.001n", "4n"),
        ("1.1E-9", "2e-9"),
        ("0.0000000001", "1n"),
        ("0.5e-9", "1e-9"),
        ("0.9n", "1n"),
        ("0.00000012345", "124n"),
        ("9Ei", "9223372036854775807"),
        ("9223372036854775807Ki", "9223372036854775807"),
        ("99999999999999999999999999999999999999999999", "9223372036854775807"),
        ("1e40", "9223372036854775807"),
        ("12E", "12E"),
        ("1000E", "1000E"),
        ("9.99999999999999999E", "9999999999999999990"),
        ("9.999999999999999999E", "9223372036854775807"),
        // Fractions of binary units.
        ("100.035Ki", "102435840m"),
        ("0.5Mi", "512Ki"),
        ("0.05Gi", "53687091200m"),
        ("0.000000000001Ki", "2n"),
        ("0.5Ki", "512"),
        ("1.0000000000000000000Ki", "1Ki"),
        ("0.0000000000000000001Ki", "1n"),
        ("0.0000000000000000011Ki", "1n"),
        ("0.5000000000000000001Ki", "512000000001n"),
        ("0.9765625Ki", "1k"),
        // "Things written by trolls".
        (".001", "1m"),
        (".0001k", "100m"),
        ("1.", "1"),
        ("1.G", "1G"),
        ("007", "7"),
        ("+5", "5"),
        ("-1.5Gi", "-1536Mi"),
    ] {
        assert_eq!(read(text).to_string(), canonical, "{text:?}");
    }
}

#[test]
fn upstream_errors() {
    for (text, error) in [
        ("", QuantityError::Format),
        ("1.1.M", QuantityError::Format),
        ("1+1.0M", QuantityError::Format),
        ("0.1am", QuantityError::Format),
        ("aoeu", QuantityError::Format),
        (" 1", QuantityError::Format),
        ("1 ", QuantityError::Format),
        ("1,5", QuantityError::Format),
        ("Ki", QuantityError::Format),
        ("-", QuantityError::Format),
        ("1e+-3", QuantityError::Format),
        ("１", QuantityError::Format),
        ("1µ", QuantityError::Format),
        ("0.1mi", QuantityError::Suffix),
        (".5i", QuantityError::Suffix),
        ("1i", QuantityError::Suffix),
        ("-3.01i", QuantityError::Suffix),
        ("-3.01e-", QuantityError::Suffix),
        ("1e", QuantityError::Suffix),
        ("1K", QuantityError::Suffix),
        ("1KiB", QuantityError::Format),
        ("1e99999999999999999999", QuantityError::Suffix),
    ] {
        assert_eq!(Quantity::parse(text), Err(error), "{text:?}");
    }
    assert_eq!(
        QuantityError::Format.to_string(),
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
}

#[test]
fn values_round_away_from_zero() {
    for (text, value, milli) in [
        ("1.5", 2, 1500),
        ("0.1m", 1, 1),
        ("-0.1m", -1, -1),
        ("1001m", 2, 1001),
        ("64Mi", 67_108_864, 67_108_864_000),
        ("9223372036854775807", i64::MAX, i64::MAX),
        ("12E", i64::MAX, i64::MAX),
        ("-12E", i64::MIN, i64::MIN),
    ] {
        assert_eq!((read(text).value(), read(text).milli_value()), (value, milli), "{text:?}");
    }
    assert_eq!(read("0.1m").rounded_to_milli().to_string(), "1m");
    assert_eq!(read("64Mi").rounded_to_milli().to_string(), "64Mi");
}

#[test]
fn order_and_sums_are_by_value() {
    assert_eq!(read("1Ki"), read("1024"));
    assert!(read("1M") < read("1Mi"));
    assert!(read("-1") < read("0"));
    assert_eq!(read("100m").plus(read("0.9")).to_string(), "1");
    // TestQuantityAddZeroPreservesSuffix
    assert_eq!(read("0").plus(read("1Gi")).to_string(), "1Gi");
    assert_eq!(read("1Gi").plus(read("0")).to_string(), "1Gi");
    // Less than one is written as a decimal, whatever its suffix was.
    assert_eq!(read("0.00048828125Ki").plus(read("1023.5")).to_string(), "1024");
    assert_eq!(read("0.0009765625Ki").plus(read("1023")).to_string(), "1Ki");
    let is_negative = ["-1n", "0", "1n"].map(|text| read(text).is_negative());
    assert_eq!(is_negative, [true, false, false]);
}

proptest! {
    /// What is printed is read again as the same number, and printed the same.
    #[test]
    fn canonical_form_is_stable(
        text in "[+-]?[0-9]{1,22}(\\.[0-9]{0,22})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,2})?",
    ) {
        let first = read(&text);
        let again = read(&first.to_string());
        // Beyond 2^63-1 only texts of up to 18 digits are kept, and the canonical one may be longer.
        if first.nano.abs() <= i128::from(i64::MAX) * NANO {
            prop_assert_eq!(first, again);
            prop_assert_eq!(first.to_string(), again.to_string());
        }
    }

    #[test]
    fn any_text_ends_in_a_value_or_an_error(text in "\\PC{0,40}") {
        let _ = Quantity::parse(&text).map(|q| (q.to_string(), q.value(), q.milli_value()));
    }

    /// Whole numbers agree with plain arithmetic.
    #[test]
    fn whole_numbers_are_exact(number in any::<i32>(), shift in 0_u32..4) {
        let suffix = ["", "Ki", "Mi", "Gi"][shift as usize];
        let expected = i64::from(number) << (10 * shift);
        prop_assert_eq!(read(&format!("{number}{suffix}")).value(), expected);
    }
}

#[test]
fn made_from_numbers_and_taken_from_one_another() {
    assert_eq!(Quantity::binary(64 << 20).to_string(), "64Mi");
    assert_eq!(Quantity::binary(1_000_000).to_string(), "1000000");
    assert_eq!(Quantity::binary(0).to_string(), "0");
    assert_eq!(Quantity::milli(2000).to_string(), "2");
    assert_eq!(Quantity::milli(1500).to_string(), "1500m");
    let left = |a: &str, b: &str| {
        let [a, b] = [a, b].map(|text| Quantity::parse(text).expect("a quantity"));
        a.minus_to_zero(b).to_string()
    };
    assert_eq!(left("4", "250m"), "3750m");
    assert_eq!(left("1Gi", "100M"), "973741824");
    assert_eq!(left("1Gi", "2Gi"), "0");
}
