//! What a sandbox enters before anything else: its control groups and its pod's network.
//!
//! Done first, so that all it takes from then on counts as the container's, and before the jail,
//! whose filter allows none of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use copepod_wasm::Description;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// The own file by which the kernel chooses whom to kill for want of memory.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What could not be entered. The guest is not started then.
#[derive(Debug, Error)]
pub(crate) enum EnterError {
    #[error("cannot enter the control group by {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {score} to {OOM_SCORE}")]
    OomScore {
        score: i32,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the network namespace {path}")]
    Network {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot join the network namespace {path}")]
    Join {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Enters what the description names, in this order: control groups, OOM score, network.
///
/// # Errors
/// [`EnterError`]; the process must end then, since it may be half in.
pub(crate) fn enter(description: &Description) -> Result<(), EnterError> {
    for path in &description.cgroups {
        write(path, "0").map_err(|source| EnterError::Cgroup { path: path.clone(), source })?;
    }
    if let Some(score) = description.oom_score_adj {
        set_oom_score(score).map_err(|source| EnterError::OomScore { score, source })?;
    }
    description.network.as_deref().map_or(Ok(()), join)
}

/// One write: a control file takes its value whole.
fn write(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// A lower score than the agent's own needs a right that it may lack (`CAP_SYS_RESOURCE`); the
/// guest runs without it then, a little earlier to be killed.
fn set_oom_score(score: i32) -> io::Result<()> {
    let own: i32 = fs::read_to_string(OOM_SCORE)?.trim().parse().map_err(io::Error::other)?;
    match write(Path::new(OOM_SCORE), &score.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && score < own => Ok(()),
        result => result,
    }
}

fn join(path: &Path) -> Result<(), EnterError> {
    let namespace = File::open(path)
        .map_err(|source| EnterError::Network { path: path.to_path_buf(), source })?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|source| EnterError::Join { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_entered_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("tasks");
        assert_eq!(write(&missing, "0").map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
        assert!(!missing.exists(), "nothing is made");
        let Err(e @ EnterError::Network { .. }) = join(&missing) else { panic!("was joined") };
        assert!(e.to_string().contains("tasks"), "{e}");
        // Another kind of namespace, and no namespace at all.
        for path in [Path::new("/proc/self/ns/uts"), dir.path()] {
            let Err(e @ EnterError::Join { .. }) = join(path) else { panic!("was joined") };
            assert!(e.to_string().contains(&*path.to_string_lossy()), "{e}");
        }
    }

    #[test]
    fn a_score_may_always_rise() {
        let own: i32 =
            fs::read_to_string(OOM_SCORE).expect("reads").trim().parse().expect("is one");
        set_oom_score(own).expect("stays");
        assert!(set_oom_score(1001).is_err(), "no such score");
    }
}
