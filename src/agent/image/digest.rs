//! The name of a blob: the sha256 of its bytes.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::input::hex;

/// Hex digits of a sha256.
const HEX_LEN: usize = 64;
const PREFIX: &str = "sha256:";

/// A sha256, of the form `sha256:` and 64 lower-case hex digits: safe as a file's name. Registries
/// know other algorithms, and nobody uses them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    /// Reads a digest; `None` for another algorithm or another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?;
        let known = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hex.len() == HEX_LEN && hex.bytes().all(known)).then(|| Self(text.to_owned()))
    }

    /// The digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::taken(Sha256::new_with_prefix(bytes))
    }

    /// The digest of all that went into the hasher.
    pub(super) fn taken(hasher: Sha256) -> Self {
        Self(format!("{PREFIX}{}", hex(&hasher.finalize())))
    }

    /// The hex digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sha256_that_can_be_a_files_name() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::parse(empty).map(|digest| digest.hex().len()), Some(64));
        let upper = empty.to_uppercase();
        for wrong in ["", "sha256:", &empty[..70], &upper, &empty[7..], "sha256:../../etc/passwd"] {
            assert_eq!(Digest::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(Digest::parse(&format!("sha512:{}", "0".repeat(128))), None);
    }
}
