//! Names of ordinary images, as upstream hands them to a runtime.

use crate::image::{NameError, Reference, Repository, reference};

/// The name with its default tag, and the repository that credentials are looked up for. Only a
/// tag is added, as upstream does (`applyDefaultImageTag`): whose a short name is says the runtime.
///
/// # Errors
/// [`NameError`].
pub(super) fn tagged(image: &str) -> Result<(String, Repository), NameError> {
    let Reference { repository, tag, digest } = reference(image)?;
    let missing = tag.filter(|tag| digest.is_none() && !image.ends_with(&format!(":{tag}")));
    let tag = missing.map(|tag| format!(":{tag}")).unwrap_or_default();
    Ok((format!("{image}{tag}"), repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_added_where_there_is_none() {
        let digest = format!("a@sha256:{}", "0a".repeat(32));
        for (image, name, host, path) in [
            ("busybox", "busybox:latest", "docker.io", "library/busybox"),
            ("busybox:1", "busybox:1", "docker.io", "library/busybox"),
            ("h.io:5000/a/b", "h.io:5000/a/b:latest", "h.io:5000", "a/b"),
            ("latest", "latest:latest", "docker.io", "library/latest"),
            (&digest, &digest, "docker.io", "library/a"),
        ] {
            let (tagged, repository) = tagged(image).unwrap();
            assert_eq!(tagged, name);
            assert_eq!((repository.host.as_str(), repository.name.as_str()), (host, path));
        }
        for image in ["", "Upper", "./x.wasm", "/x", "a b", "a:b:c"] {
            assert!(tagged(image).is_err(), "{image:?}");
        }
    }
}
