//! What `copepod image` prints: results on standard output, what went wrong on standard error.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::image::{Collected, Listed, Pushed};

/// Hex digits of a digest that a table shows.
const DIGEST_SHOWN: usize = 19;

/// How results are printed.
pub(super) struct Show {
    /// As JSON, an object a line.
    pub(super) json: bool,
}

impl Show {
    fn line(&self, text: &str, value: &Value) -> Result<()> {
        let line = if self.json { value.to_string() } else { text.to_owned() };
        if line.is_empty() {
            return Ok(());
        }
        writeln!(io::stdout(), "{line}").context("cannot write the result")
    }

    /// An image that was pushed.
    pub(super) fn pushed(&self, file: &Path, pushed: &Pushed) -> Result<u8> {
        let Pushed { image, digest, bytes } = pushed;
        let file = file.display().to_string();
        let value = json!({"file": file, "image": image, "digest": digest, "bytes": bytes});
        let text = format!("{image}: pushed {} as {digest}", HumanBytes(*bytes));
        self.line(&text, &value)?;
        Ok(0)
    }

    /// An image that was pulled.
    pub(super) fn pulled(&self, pulled: &Listed) -> Result<()> {
        let Listed { image, digest, bytes, fetched, whole: _ } = pulled;
        let value = json!({"image": image, "digest": digest, "bytes": bytes, "fetched": fetched});
        let how = match fetched {
            0 => "up to date".to_owned(),
            fetched => format!("pulled {}", HumanBytes(*fetched)),
        };
        self.line(&format!("{image}: {how}, {digest}"), &value)
    }

    /// An image that could not be had.
    pub(super) fn failed(&self, image: &str, reason: &str, error: &str) -> Result<()> {
        if self.json {
            return self.line("", &json!({"image": image, "reason": reason, "error": error}));
        }
        writeln!(io::stderr(), "copepod: {error}").context("cannot write the result")
    }

    /// All images.
    pub(super) fn listed(&self, images: &[Listed]) -> Result<u8> {
        let width = images.iter().map(|image| image.image.len()).max().unwrap_or(0).max(5);
        if !self.json {
            self.line(
                &format!("{:width$}  {:DIGEST_SHOWN$}  SIZE", "IMAGE", "DIGEST"),
                &Value::Null,
            )?;
        }
        for Listed { image, digest, bytes, whole, fetched: _ } in images {
            let value = json!({"image": image, "digest": digest, "bytes": bytes, "whole": whole});
            let size = if *whole { HumanBytes(*bytes).to_string() } else { "not whole".into() };
            let short = digest.get(..DIGEST_SHOWN).unwrap_or(digest);
            self.line(&format!("{image:width$}  {short}  {size}"), &value)?;
        }
        Ok(0)
    }

    /// An image that was to be removed.
    pub(super) fn removed(&self, image: &str, there: bool) -> Result<()> {
        if there || self.json {
            let value = json!({"image": image, "removed": there});
            return self.line(&format!("{image}: removed"), &value);
        }
        self.failed(image, "", &format!("image {image:?} is not here"))
    }

    /// What was removed together.
    pub(super) fn pruned(&self, gone: &Collected) -> Result<u8> {
        let Collected { images, bytes } = gone;
        if self.json {
            self.line("", &json!({"removed": images, "bytes": bytes}))?;
            return Ok(0);
        }
        for image in images {
            self.line(&format!("{image}: removed"), &Value::Null)?;
        }
        self.line(&format!("{} freed", HumanBytes(*bytes)), &Value::Null)?;
        Ok(0)
    }
}
