//! What a volume mount says beyond its volume.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::VolumeMount;
use thiserror::Error;

use crate::expand::{MAX_EXPANDED_BYTES, expand, expanded_len};

/// Why a mount has no sub path: the message of its container's waiting reason
/// `CreateContainerConfigError`. Upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SubPathError {
    /// Variables of `subPathExpr` that are not set, or empty.
    #[error("missing value for {0}")]
    Missing(String),
    /// It starts with a slash.
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    /// It leads out of the volume.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Backsteps(String),
    /// No kernel takes a path of this length.
    #[error("SubPath of volume mount {0:?} is too long once its $(VAR) references are expanded")]
    TooLong(String),
}

/// The path within its volume that a mount shows; `None` for the whole volume. `env` is the
/// container's environment.
///
/// # Errors
/// [`SubPathError`].
pub fn sub_path(
    mount: &VolumeMount,
    env: &[(String, String)],
) -> Result<Option<String>, SubPathError> {
    let given = |field: &Option<String>| field.clone().filter(|path| !path.is_empty());
    let path = match (given(&mount.sub_path_expr), given(&mount.sub_path)) {
        (Some(expression), _) => expanded(mount, &expression, env)?,
        (None, Some(path)) => path,
        (None, None) => return Ok(None),
    };
    if path.starts_with('/') {
        return Err(SubPathError::Absolute(path));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(SubPathError::Backsteps(path));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

fn expanded(
    mount: &VolumeMount,
    expression: &str,
    env: &[(String, String)],
) -> Result<String, SubPathError> {
    let find = |name: &str| env.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str());
    let missing = std::cell::RefCell::new(BTreeSet::new());
    let size = expanded_len(expression, |name| {
        let value = find(name).unwrap_or_default();
        if value.is_empty() {
            missing.borrow_mut().insert(name.to_owned());
        }
        Some(value.len())
    });
    let missing = missing.into_inner();
    if !missing.is_empty() {
        let names: Vec<String> = missing.into_iter().collect();
        return Err(SubPathError::Missing(names.join(", ")));
    }
    if size > MAX_EXPANDED_BYTES {
        return Err(SubPathError::TooLong(mount.mount_path.clone()));
    }
    Ok(expand(expression, find))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mount(sub_path: &str, expression: &str) -> VolumeMount {
        VolumeMount {
            mount_path: "/m".to_owned(),
            sub_path: Some(sub_path.to_owned()),
            sub_path_expr: Some(expression.to_owned()),
            ..VolumeMount::default()
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn sub_paths() {
        let env = env(&[("POD", "web-0"), ("UP", ".."), ("ROOT", "/"), ("EMPTY", "")]);
        for (sub, expression, expected) in [
            ("", "", Ok(None)),
            ("a/b", "", Ok(Some("a/b"))),
            ("a/$(POD)", "", Ok(Some("a/$(POD)"))),
            ("", "logs/$(POD)/$$(POD)", Ok(Some("logs/web-0/$(POD)"))),
            ("", "a/$(UP)/b", Err("unable to provision SubPath `a/../b`: must not contain '..'")),
            ("", "$(ROOT)etc", Err("error SubPath `/etc` must not be an absolute path")),
            ("/a", "", Err("error SubPath `/a` must not be an absolute path")),
            ("", "$(Z)/$(EMPTY)/$(A)/$(Z)", Err("missing value for A, EMPTY, Z")),
        ] {
            let found = sub_path(&mount(sub, expression), &env).map_err(|e| e.to_string());
            assert_eq!(found, expected.map(|p| p.map(str::to_owned)).map_err(str::to_owned));
        }
        let huge = [("BIG".to_owned(), "x".repeat(1 << 20))];
        let found = sub_path(&mount("", &"$(BIG)".repeat(1000)), &huge);
        assert_eq!(found, Err(SubPathError::TooLong("/m".to_owned())));
        let most = sub_path(&mount("", "$(BIG)$(BIG)"), &huge).map(Option::unwrap);
        assert_eq!(most.map(|path| path.len()), Ok(MAX_EXPANDED_BYTES));
    }

    proptest! {
        #[test]
        fn a_sub_path_stays_in_its_volume(expression in "[$()A./]{0,12}", value in "[./a]{0,6}") {
            let env = [("A".to_owned(), value)];
            if let Ok(Some(path)) = sub_path(&mount("", &expression), &env) {
                prop_assert!(!path.is_empty() && !path.starts_with('/'));
                prop_assert!(path.split('/').all(|part| part != ".."));
            }
        }
    }
}
