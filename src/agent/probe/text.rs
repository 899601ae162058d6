//! Texts as upstream has them, since people and tools match on those.

use std::io;

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
    fn lists_and_errors_are_written_as_go_does() {
        assert_eq!(list(&["sh".into(), "-c".into(), "exit 1".into()]), "[sh -c exit 1]");
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(errno(&refused), "connection refused");
    }
}
