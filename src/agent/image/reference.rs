//! What an image name means.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::digest::Digest;
use super::error::ImageError;

/// Longest name; a path of the host can be no longer (`PATH_MAX`).
const NAME_MAX: usize = 4096;

/// Longest host and repository (`RepositoryNameTotalLengthMax`).
const REPOSITORY_MAX: usize = 255;
/// Characters of an image's id.
const IDENTIFIER: usize = 64;
/// Longest tag.
const TAG_MAX: usize = 128;
/// The registry of names without one.
const HUB: &str = "docker.io";

/// Why a text is no name of an image, in the words of `distribution/reference`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum NameError {
    /// Any other reason.
    #[error("invalid reference format")]
    Format,
    /// With small letters it might be one.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// An image's id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// Longer than a repository's may be.
    #[error("repository name must not be more than {REPOSITORY_MAX} characters")]
    TooLong,
}

/// What an image name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A Wasm file of this host.
    File(PathBuf),
    /// An image that a registry serves.
    Registry(Reference),
}

/// A repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Repository {
    /// The registry as it is named, `docker.io` or `localhost:5000`.
    pub(crate) host: String,
    /// The repository's name there.
    pub(crate) name: String,
}

/// An image of a registry, in full: with its host and with a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Where it lies.
    pub(crate) repository: Repository,
    /// Its tag; `latest` for a name that has neither tag nor digest.
    pub(crate) tag: Option<String>,
    /// Its digest, which counts before the tag.
    pub(crate) digest: Option<Digest>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository.host, self.repository.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The file or image that the name `image` means: `./x.wasm` and `../x.wasm` from the folder
/// `base`, an absolute path, or `file://` before one (taken as it stands, no percent signs
/// decoded); everything else is a reference, completed as docker does.
///
/// # Errors
/// [`ImageError::Name`].
pub(crate) fn resolve(image: &str, base: &Path) -> Result<Place, ImageError> {
    if image.len() > NAME_MAX || image.chars().any(char::is_control) {
        return Err(ImageError::name(image, NameError::Format));
    }
    let path = image.strip_prefix("file://").unwrap_or(image);
    if path.starts_with('/') {
        return Ok(Place::File(PathBuf::from(path)));
    }
    if path.len() == image.len() && (path.starts_with("./") || path.starts_with("../")) {
        // Without the "./" in the middle.
        return Ok(Place::File(base.join(path).components().collect()));
    }
    let reference = reference(image).map_err(|why| ImageError::name(image, why))?;
    Ok(Place::Registry(reference))
}

/// Reads the name of an image of a registry. The grammar is that of `distribution/reference`, the rule
/// for what is a host docker's (`splitDockerDomain`). By hand: the regular expression of `oci-spec`
/// takes 11 MiB for as long as the agent lives.
///
/// # Errors
/// [`NameError`].
pub(crate) fn reference(image: &str) -> Result<Reference, NameError> {
    if image.len() == IDENTIFIER && image.bytes().all(|b| b"0123456789abcdef".contains(&b)) {
        return Err(NameError::Identifier(image.into()));
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).ok_or(NameError::Format)?)),
        None => (image, None),
    };
    // A colon before the last slash is a port's.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].rsplit_once(':') {
        Some((part, tag)) => (&rest[..last + part.len()], Some(tag)),
        None => (rest, None),
    };
    let is_host = |first: &str| {
        first == "localhost" || first.contains(|c: char| ".:".contains(c) || c.is_ascii_uppercase())
    };
    let (host, path) = match name.split_once('/').filter(|(first, _)| is_host(first)) {
        None => (HUB, name),
        Some(("index.docker.io", path)) => (HUB, path),
        Some(with_host) => with_host,
    };
    let of_docker = host == HUB && !path.contains('/');
    let name = if of_docker { format!("library/{path}") } else { path.to_owned() };
    // Upstream looks at what is before the first colon of the rest, before anything else.
    let small = path.split(':').next().unwrap_or(path);
    if small.chars().any(char::is_uppercase) {
        return Err(NameError::Uppercase(small.into()));
    }
    if !(is_domain(host) && name.split('/').all(is_component) && tag.is_none_or(is_tag)) {
        return Err(NameError::Format);
    }
    if host.len() + 1 + name.len() > REPOSITORY_MAX {
        return Err(NameError::TooLong);
    }
    let tag = tag.or(digest.is_none().then_some("latest")).map(str::to_owned);
    let repository = Repository { host: host.to_owned(), name };
    Ok(Reference { repository, tag, digest })
}

/// `HOST` or `HOST:PORT`, each part of the host's name of letters, digits and inner dashes.
fn is_domain(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, "0"), |(host, port)| (host, port));
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        label.bytes().all(inner) && !label.is_empty() && label.trim_matches('-') == label
    };
    host.split('.').all(is_label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// One part of a repository's name: small letters and digits, with one dot, one or two underscores or
/// any number of dashes between them.
fn is_component(text: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.into_iter().all(|end| end.is_some_and(is_word))
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

/// A tag: letters, digits and underscores, from the second on dots and dashes as well.
fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| is_word(b) || b == b'.' || b == b'-';
    text.bytes().next().is_some_and(is_word) && text.bytes().all(rest) && text.len() <= TAG_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(image: &str) -> String {
        match resolve(image, Path::new("/pods")) {
            Ok(Place::File(path)) => path.display().to_string(),
            Ok(Place::Registry(reference)) => reference.to_string(),
            Err(error) => error.reason().to_owned(),
        }
    }

    #[test]
    fn paths_are_taken() {
        for (image, path) in [
            ("./x.wasm", "/pods/x.wasm"),
            ("../a b/x.wasm", "/pods/../a b/x.wasm"),
            ("/x.wasm", "/x.wasm"),
            ("file:///a/x%20.wasm", "/a/x%20.wasm"),
        ] {
            assert_eq!(means(image), path);
        }
    }

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (image, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("x.wasm", "docker.io/library/x.wasm:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("index.docker.io/a", "docker.io/library/a:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest"),
            ("ghcr.io/a/b:V1", "ghcr.io/a/b:V1"),
            ("UPPER/x", "UPPER/x:latest"),
            ("docker.io/a", "docker.io/library/a:latest"),
            ("a_b--c__d/f.g:_x.-1", "docker.io/a_b--c__d/f.g:_x.-1"),
            ("a.b-c.io:80/x", "a.b-c.io:80/x:latest"),
        ] {
            assert_eq!(means(image), full);
        }
        assert_eq!(means(&format!("a@{digest}")), format!("docker.io/library/a@{digest}"));
        assert_eq!(means(&format!("h.io/a:1@{digest}")), format!("h.io/a:1@{digest}"));
    }

    #[test]
    fn everything_else_is_refused_by_upstreams_reason() {
        let relative = ["file://x.wasm", "file://./x.wasm", "file://host/x.wasm"];
        let others = ["", "-x", "a b", ".", "..", "a//b", "http://a/b", "./x\n.wasm", "./a\0b"];
        let references = ["Upper", "docker.io/a/Upper", "a:", "a@sha256:00", "a:b:c", "h:x/a"];
        let more =
            ["a..b", "a___b", "a_", "-a/b", "h.io/", "h.io:/a", "-h.io/a", "a:-x", "a:é", "a@b@c"];
        for image in relative.iter().chain(&others).chain(&references).chain(&more) {
            assert_eq!(means(image), "InvalidImageName", "{image:?}");
        }
        assert_eq!(means(&format!("./{}", "x".repeat(5000))), "InvalidImageName");
        assert_eq!(means(&format!("a@sha512:{}", "0".repeat(128))), "InvalidImageName");
        assert_eq!(means(&format!("a:{}", "x".repeat(129))), "InvalidImageName");
        assert_eq!(means(&format!("h.io/{}", "x".repeat(251))), "InvalidImageName");
        let id = "0a".repeat(32);
        let long = format!("h.io/{}", "x".repeat(251));
        for (image, why) in [
            ("a b", "invalid reference format"),
            ("a/Upper:B", "invalid reference format: repository name (a/Upper) must be lowercase"),
            ("Upper", "invalid reference format: repository name (Upper) must be lowercase"),
            (
                &id,
                &format!(
                    "invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"
                ),
            ),
            (&long, "repository name must not be more than 255 characters"),
        ] {
            let error = resolve(image, Path::new("/")).unwrap_err().to_string();
            let text = format!("couldn't parse image name {image:?}: {why}");
            assert_eq!(error, format!("Failed to apply default image tag {image:?}: {text}"));
        }
    }
}
