//! Texts as Go writes them, since people and tools match on upstream's.

use std::{fmt::Write as _, time::Duration};

/// A duration as Go prints it (`%v`), of whole milliseconds: `7ms`, `10s`, `1m20.5s`, `1h0m0s`.
pub fn go_duration(duration: Duration) -> String {
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    if secs == 0 && millis > 0 {
        return format!("{millis}ms");
    }
    let fraction = format!(".{millis:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

/// A text, or bytes that need be none, as Go quotes it (`%q`).
pub fn go_quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote(&mut out, c);
        }
        for byte in chunk.invalid() {
            // Writing into a text cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn quote(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        ' '..='~' => out.push(c),
        _ => {
            let code = u32::from(c);
            // As above.
            let _ = match code {
                0..=0x7f => write!(out, "\\x{code:02x}"),
                _ if is_print(c) => write!(out, "{c}"),
                0x80..=0xffff => write!(out, "\\u{code:04x}"),
                0x1_0000.. => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Go's `IsPrint` for what is beyond ASCII, by Rust's own tables. One difference: a combining mark
/// is not printed here.
fn is_print(c: char) -> bool {
    c.escape_debug().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (millis, text) in [
            (0, "0s"),
            (7, "7ms"),
            (1_000, "1s"),
            (1_050, "1.05s"),
            (10_000, "10s"),
            (61_500, "1m1.5s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn quoting_is_gos() {
        for (text, quoted) in [
            ("\u{7}\u{8}\u{c}\n\r\t\u{b}", r#""\a\b\f\n\r\t\v""#),
            ("\u{0}\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("a'\u{a0}\u{200b}\u{feff}", r#""a'\u00a0\u200b\ufeff""#),
            ("\u{e0001}\u{1f600}", "\"\\U000e0001\u{1f600}\""),
            ("a\"\\é", r#""a\"\\é""#),
        ] {
            assert_eq!(go_quoted(text.as_bytes()), quoted);
        }
        assert_eq!(go_quoted(b"\x15\x03\xff"), r#""\x15\x03\xff""#);
    }
}
