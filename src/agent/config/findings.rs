//! What is found wrong, and what is said, while a configuration is put together.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::duration::GoDuration;
use crate::sources::SourceError;
use crate::telemetry::chain;

/// One thing wrong with the configuration.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("--config: {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error("--config: {0} is longer than 1 MiB, the most that a configuration may be")]
    TooLong(PathBuf),
    /// The file is no text.
    #[error("--config: {0} is not UTF-8 text")]
    NotText(PathBuf),
    /// The file is no `KubeletConfiguration`, or has unknown fields, duplicates, wrong types.
    #[error(transparent)]
    Decode(SourceError),
    /// A field of the file has a wrong value.
    #[error("{file}: {field}: {text}")]
    Field {
        /// The file.
        file: String,
        /// Its path in the file: `authentication.webhook.cacheTTL`.
        field: String,
        /// What was expected.
        text: String,
    },
    /// A flag has a wrong value, or is missing.
    #[error("{flag}: {text}")]
    Flag {
        /// Its name, with the dashes.
        flag: &'static str,
        /// What was expected.
        text: String,
    },
    /// The machine is not one for this configuration.
    #[error("{0}")]
    Machine(String),
}

/// All that is wrong with a configuration, a line each.
#[derive(Debug)]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}", chain(error))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something that is accepted and not done as a kubelet would; printed `NAME: TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The field, or the flag with its dashes.
    pub(crate) name: String,
    /// What is done instead.
    pub(crate) text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

/// The errors and warnings so far.
#[derive(Debug)]
pub(super) struct Findings {
    file: Option<PathBuf>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Findings {
    /// None yet, of a configuration with this file.
    pub(super) fn new(file: Option<&Path>) -> Self {
        Self { file: file.map(Into::into), errors: Vec::new(), warnings: Vec::new() }
    }

    /// A field's value is wrong.
    pub(super) fn field(&mut self, field: &str, text: impl Into<String>) {
        let file = self.file.as_ref().map_or("defaults".into(), |path| path.display().to_string());
        self.errors.push(ConfigError::Field { file, field: field.into(), text: text.into() });
    }

    /// A flag's value is wrong.
    pub(super) fn flag(&mut self, flag: &'static str, text: impl Into<String>) {
        self.errors.push(ConfigError::Flag { flag, text: text.into() });
    }

    /// The machine does not fit.
    pub(super) fn machine(&mut self, text: impl Into<String>) {
        self.errors.push(ConfigError::Machine(text.into()));
    }

    /// A field or flag is accepted, with a word on what is done.
    pub(super) fn warn(&mut self, name: &str, text: impl Into<String>) {
        self.warnings.push(Warning { name: name.into(), text: text.into() });
    }

    /// A path of the file: from its directory where it is relative; none for an empty one.
    pub(super) fn path(&self, value: Option<&str>) -> Option<PathBuf> {
        let value = value.filter(|value| !value.is_empty())?;
        let base = self.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        Some(absolute(&base.join(value)))
    }

    /// A field's duration; the default where it is zero or not given.
    pub(super) fn duration(
        &mut self,
        field: &str,
        value: Option<GoDuration>,
        default: Duration,
    ) -> Duration {
        match value.filter(|value| !value.is_zero()).map(GoDuration::to_std) {
            None => default,
            Some(Some(duration)) => duration,
            Some(None) => {
                self.field(field, "must not be negative");
                default
            }
        }
    }

    /// A number that may not be negative; what it is, or 0.
    pub(super) fn count(&mut self, field: &str, value: i32) -> u32 {
        u32::try_from(value).unwrap_or_else(|_| {
            self.field(field, format!("{value} must not be a negative number"));
            0
        })
    }

    /// The configuration with its warnings, or all errors.
    pub(super) fn into_result<T>(self, config: T) -> Result<(T, Vec<Warning>), ConfigErrors> {
        if self.errors.is_empty() {
            Ok((config, self.warnings))
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

/// The path from the root; as it is where the current folder is gone.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}
