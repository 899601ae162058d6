//! What an image name means.

use std::path::{Path, PathBuf};

use super::error::ImageError;

/// Longest name; a path of the host can be no longer (`PATH_MAX`).
const NAME_MAX: usize = 4096;

/// The file that the image `image` means: `./x.wasm` and `../x.wasm` from the folder `base`, an
/// absolute path, or `file://` before one (taken as it stands, no percent signs decoded).
///
/// # Errors
/// [`ImageError::Name`] for what is no image name at all, [`ImageError::Registry`] for one that a
/// registry would have to serve, which a bare `x.wasm` is too.
pub(crate) fn resolve(image: &str, base: &Path) -> Result<PathBuf, ImageError> {
    if image.len() > NAME_MAX || image.chars().any(char::is_control) {
        return Err(ImageError::Name(image.chars().take(128).collect()));
    }
    let path = image.strip_prefix("file://").unwrap_or(image);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    if path.len() == image.len() && (path.starts_with("./") || path.starts_with("../")) {
        // Without the "./" in the middle.
        return Ok(base.join(path).components().collect());
    }
    Err(match is_reference(image) {
        true => ImageError::Registry(image.to_owned()),
        false => ImageError::Name(image.to_owned()),
    })
}

/// Whether a registry could know the name; what it would say to it is not asked here.
fn is_reference(image: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.bytes().all(known)
        && !image.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(image: &str) -> &'static str {
        resolve(image, Path::new("/pods")).unwrap_err().reason()
    }

    #[test]
    fn paths_are_taken() {
        let resolved = |image| resolve(image, Path::new("/pods")).unwrap();
        assert_eq!(resolved("./x.wasm"), Path::new("/pods/x.wasm"));
        assert_eq!(resolved("./x.wasm").as_os_str(), "/pods/x.wasm");
        assert_eq!(resolved("../a b/x.wasm"), Path::new("/pods/../a b/x.wasm"));
        assert_eq!(resolved("/x.wasm"), Path::new("/x.wasm"));
        assert_eq!(resolved("file:///a/x%20.wasm"), Path::new("/a/x%20.wasm"));
    }

    #[test]
    fn everything_else_is_refused_by_upstreams_reasons() {
        for image in ["x.wasm", "nginx", "ghcr.io/a/b:1@sha256:00", "localhost:5000/x"] {
            assert_eq!(reason(image), "ErrImagePull", "{image}");
        }
        let relative = ["file://x.wasm", "file://./x.wasm", "file://host/x.wasm"];
        let others = ["", "-x", "a b", ".", "..", "a//b", "http://a/b", "./x\n.wasm", "./a\0b"];
        for image in relative.iter().chain(&others) {
            assert_eq!(reason(image), "InvalidImageName", "{image:?}");
        }
        assert_eq!(reason(&format!("./{}", "x".repeat(5000))), "InvalidImageName");
    }
}
