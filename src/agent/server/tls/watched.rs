//! What was read from files, and is read again when they have changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::TlsError;
use crate::telemetry::chain;

/// How a file looks from outside; `None`: it is not there. A link is looked through, so that a
/// secret's `..data` which is swapped is seen.
type Look = Option<[i64; 6]>;

/// A value from a few small files. It costs a `stat` of each to have it.
pub(in crate::server) struct Watched<T> {
    paths: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, TlsError>,
    state: Mutex<State<T>>,
}

struct State<T> {
    looks: Vec<Look>,
    value: T,
}

impl<T: Clone> Watched<T> {
    /// Reads the value for the first time.
    ///
    /// # Errors
    /// Those of `read`.
    pub(in crate::server) fn new(
        paths: Vec<PathBuf>,
        read: fn(&[PathBuf]) -> Result<T, TlsError>,
    ) -> Result<Self, TlsError> {
        // Looked at before it is read: what is written between the two is read once more.
        let looks = looks(&paths);
        let value = read(&paths)?;
        Ok(Self { paths, read, state: Mutex::new(State { looks, value }) })
    }

    /// The value as the files have it now; the last good one where they cannot be read or do not
    /// fit, as between the writes of two that belong together.
    pub(in crate::server) fn get(&self) -> T {
        let now = looks(&self.paths);
        // A panic elsewhere leaves it whole: each change is one assignment.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looks != now {
            state.looks = now;
            match (self.read)(&self.paths) {
                Ok(value) => state.value = value,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a changed file is not used");
                }
            }
        }
        state.value.clone()
    }
}

fn looks(paths: &[PathBuf]) -> Vec<Look> {
    let look = |path: &PathBuf| {
        let seen = Path::metadata(path).ok()?;
        let [dev, ino, size] = [seen.dev(), seen.ino(), seen.size()].map(u64::cast_signed);
        // The change time too: a file that was renamed over may carry an old modification time.
        let changed = seen.ctime_nsec() ^ (seen.ctime() << 30);
        Some([dev, ino, size, seen.mtime(), seen.mtime_nsec(), changed])
    };
    paths.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        let read = |paths: &[PathBuf]| {
            let text = fs::read_to_string(&paths[0])
                .map_err(|source| TlsError::Read { path: paths[0].clone(), source })?;
            let why = |e: std::num::ParseIntError| TlsError::Unusable {
                path: paths[0].clone(),
                why: e.to_string(),
            };
            text.parse::<u32>().map_err(why)
        };
        assert!(Watched::new(vec![path.clone()], read).is_err());
        fs::write(&path, "1").expect("writes");
        let watched = Watched::new(vec![path.clone()], read).expect("reads");
        assert_eq!(watched.get(), 1);
        let put = |text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).expect("writes");
            fs::rename(new, &path).expect("renames");
        };
        put("2");
        assert_eq!(watched.get(), 2);
        put("x");
        assert_eq!(watched.get(), 2);
        fs::remove_file(&path).expect("removes");
        assert_eq!(watched.get(), 2);
        put("3");
        assert_eq!(watched.get(), 3);
    }
}
