//! What an image name means.

use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::distribution::Reference as Parsed;

use super::digest::Digest;
use super::error::ImageError;

/// Longest name; a path of the host can be no longer (`PATH_MAX`).
const NAME_MAX: usize = 4096;

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
        return Err(ImageError::Name(image.chars().take(128).collect()));
    }
    let path = image.strip_prefix("file://").unwrap_or(image);
    if path.starts_with('/') {
        return Ok(Place::File(PathBuf::from(path)));
    }
    if path.len() == image.len() && (path.starts_with("./") || path.starts_with("../")) {
        // Without the "./" in the middle.
        return Ok(Place::File(base.join(path).components().collect()));
    }
    let reference = reference(image).ok_or_else(|| ImageError::Name(image.to_owned()))?;
    Ok(Place::Registry(reference))
}

/// Reads the name of an image of a registry; `None` for what is none.
pub(crate) fn reference(image: &str) -> Option<Reference> {
    // To Go's parser a first component with a capital is a host: no repository has one.
    let upper = image.split_once('/').filter(|(host, _)| {
        host.contains(|c: char| c.is_ascii_uppercase())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    let parsed: Parsed = match upper {
        Some((_, rest)) => format!("host.invalid/{rest}").parse().ok()?,
        None => image.parse().ok()?,
    };
    let digest = match parsed.digest() {
        Some(digest) => Some(Digest::parse(digest)?),
        None => None,
    };
    let name = parsed.repository();
    if name.contains(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    let host = upper.map_or(parsed.registry(), |(host, _)| host);
    Some(Reference {
        repository: Repository { host: host.to_owned(), name: name.to_owned() },
        tag: parsed.tag().map(str::to_owned),
        digest,
    })
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
        for image in relative.iter().chain(&others).chain(&references) {
            assert_eq!(means(image), "InvalidImageName", "{image:?}");
        }
        assert_eq!(means(&format!("./{}", "x".repeat(5000))), "InvalidImageName");
        assert_eq!(means(&format!("a@sha512:{}", "0".repeat(128))), "InvalidImageName");
        let error = resolve("a b", Path::new("/")).unwrap_err().to_string();
        let text = "couldn't parse image name \"a b\": invalid reference format";
        assert_eq!(error, format!("Failed to apply default image tag \"a b\": {text}"));
    }
}
