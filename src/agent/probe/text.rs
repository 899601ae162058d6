//! Texts as Go writes them, since people and tools match on upstream's.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

/// `NAME_NAMESPACE(UID)` (upstream: `format.Pod`).
pub(super) fn pod(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// `HOST:PORT` (Go: `net.JoinHostPort`).
pub(super) fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A list of texts as `%v` has it.
pub(super) fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(" "))
}

/// A duration of whole seconds as `%v` has it: `1s`, `1m5s`, `1h0m0s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// Bytes as `%q` has them.
pub(super) fn quoted(bytes: &[u8]) -> String {
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
            let _ = match code {
                0..=0x7f => write!(out, "\\x{code:02x}"),
                // What Rust shows as itself, Go does too, but for combining marks.
                _ if c.escape_debug().count() == 1 => write!(out, "{c}"),
                0x80..=0xffff => write!(out, "\\u{code:04x}"),
                0x1_0000.. => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// What the kernel said, without Rust's number and capital: `connection refused`.
pub(super) fn errno(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_lists_and_errors_are_written_as_go_does() {
        for (seconds, text) in [(1, "1s"), (65, "1m5s"), (60, "1m0s"), (3600, "1h0m0s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(list(&["sh".into(), "-c".into(), "exit 1".into()]), "[sh -c exit 1]");
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(errno(&refused), "connection refused");
    }

    #[test]
    fn bytes_are_quoted_as_go_does() {
        assert_eq!(quoted("a\"\\\n\té\u{0}\u{7f}".as_bytes()), r#""a\"\\\n\té\x00\x7f""#);
        assert_eq!(quoted(b"\x15\x03\xff"), r#""\x15\x03\xff""#);
        assert_eq!(quoted("\u{200b}".as_bytes()), r#""\u200b""#);
    }
}
