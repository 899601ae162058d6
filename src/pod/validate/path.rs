//! Paths within a volume.

use super::Errors;

/// A relative path without `..` (upstream `validateLocalDescendingPath`); an empty one is good.
pub(super) fn descending(errors: &mut Errors, at: &str, path: &str) {
    if path.starts_with('/') {
        errors.invalid(at, path, "must be a relative path");
    }
    no_backsteps(errors, at, path);
}

/// A path without `..`.
pub(super) fn no_backsteps(errors: &mut Errors, at: &str, path: &str) {
    if path.split('/').any(|part| part == "..") {
        errors.invalid(at, path, "must not contain '..'");
    }
}

/// The path of a file that a volume is to have (upstream `ValidateLocalNonReservedPath`): names
/// that start with `..` are the writer's own.
pub(super) fn local_file(errors: &mut Errors, at: &str, path: &str) {
    if path.is_empty() {
        return errors.required(at, "");
    }
    descending(errors, at, path);
    if path.starts_with("..") && path != ".." && !path.starts_with("../") {
        errors.invalid(at, path, "must not start with '..'");
    }
}
