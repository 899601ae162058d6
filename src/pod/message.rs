//! The termination message of a container (upstream `getTerminationMessage`,
//! `readLastStringFromContainerLogs`, `normalizeStatus`).

/// Most bytes of the file, from its end (`MaxContainerTerminationMessageLength`).
const MAX_FILE_BYTES: usize = 4096;
/// Most bytes of the log, from its end (`MaxContainerTerminationMessageLogLength`).
const MAX_LOG_BYTES: usize = 2048;
/// Most lines of the log, from its end (`MaxContainerTerminationMessageLogLines`).
const MAX_LOG_LINES: usize = 80;
/// Most bytes of all messages of a pod, an even share for each container
/// (`MaxPodTerminationMessageLogLength`).
const MAX_POD_BYTES: usize = 12 * 1024;

/// The message that an ended container's status shows: what the runtime says of the end, then what
/// the guest has left in its file. `from_logs` is the log's text, for a failed container of the
/// policy `FallbackToLogsOnError`: it counts where the file is empty. Of a file or log that is
/// longer than upstream takes, the end is taken.
#[must_use]
pub fn termination_message(of_runtime: &str, from_file: &str, from_logs: Option<&str>) -> String {
    let of_guest = match (from_file, from_logs) {
        ("", Some(log)) => last_bytes(last_lines(log), MAX_LOG_BYTES),
        (file, _) => last_bytes(file, MAX_FILE_BYTES),
    };
    let parts = [of_runtime, of_guest].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(": ")
}

/// The share of one of a pod's `containers` in the messages: the start of this one.
pub(crate) fn share(message: &str, containers: usize) -> &str {
    let most = MAX_POD_BYTES / containers.max(1);
    &message[..message.floor_char_boundary(most)]
}

fn last_bytes(text: &str, most: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(most))..]
}

fn last_lines(text: &str) -> &str {
    // The end of the last line is no further line.
    let whole = text.strip_suffix('\n').unwrap_or(text);
    let mut starts = whole.rmatch_indices('\n').map(|(at, _)| at + 1);
    starts.nth(MAX_LOG_LINES - 1).map_or(text, |start| &text[start..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_runtimes_word_comes_before_the_guests() {
        for (of_runtime, file, log, expected) in [
            ("", "", None, ""),
            ("out of fuel", "", None, "out of fuel"),
            ("", "done\n", None, "done\n"),
            ("trap", "why", Some("log"), "trap: why"),
            ("trap", "", Some("log\n"), "trap: log\n"),
            ("", "", Some(""), ""),
        ] {
            assert_eq!(termination_message(of_runtime, file, log), expected);
        }
    }

    #[test]
    fn of_what_is_too_long_the_end_is_taken() {
        let file = format!("{}{}", "a".repeat(100), "b".repeat(4096));
        assert_eq!(termination_message("", &file, None), "b".repeat(4096));
        let lines = |from: u32| (from..200).map(|i| format!("{i}\n")).collect::<String>();
        assert_eq!(termination_message("", "", Some(&lines(0))), lines(120));
        assert_eq!(termination_message("", "", Some(&lines(120))), lines(120));
        let log = format!("{}é{}", "x".repeat(9), "b".repeat(2047));
        assert_eq!(termination_message("", "", Some(&log)), "b".repeat(2047), "no half character");
    }

    #[test]
    fn a_pod_of_many_containers_shares() {
        let message = "x".repeat(4096);
        for (containers, bytes) in [(0, 4096), (1, 4096), (3, 4096), (4, 3072), (1000, 12)] {
            assert_eq!(share(&message, containers).len(), bytes);
        }
        assert_eq!(share("ééé", 4096), "é");
    }

    proptest! {
        #[test]
        fn a_message_is_an_end_and_bounded(file in "\\PC{0,40}", log in "(a|é|\n){0,200}") {
            let message = termination_message("", &file, Some(&log));
            prop_assert!(file.ends_with(&message) || file.is_empty() && log.ends_with(&message));
            prop_assert!(message.lines().count() <= MAX_LOG_LINES);
        }
    }
}
