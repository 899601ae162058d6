//! The files that `fileKeyRef` reads: `NAME='value'` lines (upstream `pkg/kubelet/util/env`,
//! KEP-3721). A value is all between its quotes, over several lines if need be; blank lines, lines
//! that start with `#` and comments after a value are skipped; `NAME= …` is an empty value.

use thiserror::Error;

/// What is wrong with a line; the words are upstream's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EnvFileError {
    /// No `=` in it.
    #[error("invalid environment variable format at line {0}: missing '='")]
    NoAssignment(usize),
    /// Nothing before the `=`.
    #[error("invalid environment variable format at line {0}: empty variable name")]
    NoName(usize),
    /// White space before the `=`.
    #[error(
        "invalid environment variable format at line {0}: whitespace before '=' is not allowed"
    )]
    SpaceBeforeAssignment(usize),
    /// The value has no quote at its start.
    #[error(
        "invalid environment variable format at line {0}: value must be enclosed in single quotes"
    )]
    NotQuoted(usize),
    /// More than a comment after the value.
    #[error(
        "invalid environment variable format at line {0}: unexpected content after closing quote"
    )]
    AfterQuote(usize),
    /// The file ends within the value that starts in this line.
    #[error("invalid environment variable format starting at line {0}: unclosed single quote")]
    Unclosed(usize),
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The value of the first variable of this name. Lines after it are not looked at.
///
/// # Errors
/// [`EnvFileError`] for a line before it that is none of the above.
pub(crate) fn find(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(EnvFileError::NoAssignment(number))?;
        if name.is_empty() {
            return Err(EnvFileError::NoName(number));
        }
        if name.ends_with(BLANKS) {
            return Err(EnvFileError::SpaceBeforeAssignment(number));
        }
        let value = if value.starts_with(BLANKS) {
            String::new()
        } else {
            let quoted = value.strip_prefix('\'').ok_or(EnvFileError::NotQuoted(number))?;
            quoted_value(quoted, number, &mut lines)?
        };
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// All up to the closing quote; `first` is the rest of line `start`.
fn quoted_value<'a>(
    first: &'a str,
    start: usize,
    lines: &mut impl Iterator<Item = (&'a str, usize)>,
) -> Result<String, EnvFileError> {
    let mut value = String::new();
    let (mut rest, mut number) = (first, start);
    loop {
        if let Some((inside, after)) = rest.split_once('\'') {
            value.push_str(inside);
            let after = after.trim_start_matches(BLANKS);
            let is_over = after.is_empty() || after.starts_with('#');
            return if is_over { Ok(value) } else { Err(EnvFileError::AfterQuote(number)) };
        }
        value.push_str(rest);
        value.push('\n');
        (rest, number) = lines.next().ok_or(EnvFileError::Unclosed(start))?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values() {
        let text = "# a comment\n\n \tA='1'\nB='two words' # said\nC= 'ignored'\r\n\
                    D='first\n  # second\r\nthird'\nE=''\nA='2'\nnot read\n";
        for (key, value) in [
            ("A", Some("1")),
            ("B", Some("two words")),
            ("C", Some("")),
            ("D", Some("first\n  # second\nthird")),
            ("E", Some("")),
        ] {
            assert_eq!(find(text, key).unwrap().as_deref(), value, "{key}");
        }
        assert_eq!(find(text, "F"), Err(EnvFileError::NoAssignment(11)));
        assert_eq!(find("A='1'", "F"), Ok(None));
    }

    #[test]
    fn wrong_lines() {
        for (text, error) in [
            ("A", EnvFileError::NoAssignment(1)),
            ("\n='1'", EnvFileError::NoName(2)),
            ("A ='1'", EnvFileError::SpaceBeforeAssignment(1)),
            ("A=1", EnvFileError::NotQuoted(1)),
            ("A=\"1\"", EnvFileError::NotQuoted(1)),
            ("A=", EnvFileError::NotQuoted(1)),
            ("A='1'2", EnvFileError::AfterQuote(1)),
            ("A='1\n2''", EnvFileError::AfterQuote(2)),
            ("\nA='1\n2\n", EnvFileError::Unclosed(2)),
        ] {
            assert_eq!(find(text, "A"), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_value_is_no_longer_than_its_file(text in "([AB#= \t'\r\n]|\\PC){0,40}") {
            for key in ["A", "B", ""] {
                if let Ok(Some(value)) = find(&text, key) {
                    prop_assert!(value.len() <= text.len());
                }
            }
        }

        #[test]
        fn what_is_written_is_read(value in "[^'\r]{0,40}") {
            prop_assert_eq!(find(&format!("X='1'\nA='{value}'"), "A"), Ok(Some(value)));
        }
    }
}
