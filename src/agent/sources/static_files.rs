//! Static pods in files: `staticPodPath`, one file or a directory of them.
//!
//! As upstream's `pkg/kubelet/config/file.go`: names that begin with a dot are not read, nor are
//! folders in the directory; changes are told by the kernel, and everything is looked at again now and
//! then. Two things are otherwise. A file is read once it was closed or moved to its place, and not
//! while it is written. And a file that is there and cannot be used leaves its pod as it last was,
//! where a kubelet ends it with the next look at the directory; the last good version outlives a
//! restart of the agent.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use copepod_pod::{Origin, Source};
use futures_util::StreamExt;
use inotify::Event;
use k8s_openapi::api::core::v1::Pod;
use rustix::fs::OFlags;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::manifest::{self, ManifestError};
use super::{Update, file};
use crate::linux::watch_dir;
use crate::telemetry::chain;

/// From an event to the look: who writes one file often writes more.
const SETTLE: Duration = Duration::from_millis(50);
/// Files that are read: more than a node has pods. Others are named and left alone.
const FILES_MAX: usize = 512;

/// What is read.
#[derive(Debug)]
pub(crate) struct FileOptions {
    /// The file, or the directory.
    pub(crate) path: PathBuf,
    /// The node's name.
    pub(crate) node: String,
    /// How often it is looked at, whether or not there are events.
    pub(crate) every: Duration,
    /// What an earlier agent made of each file, for those that cannot be read now.
    pub(crate) kept: BTreeMap<PathBuf, Pod>,
}

/// Why there is nothing to be said of the source: it stays as it was.
#[derive(Debug, Error)]
enum ScanError {
    #[error("cannot look at {path}")]
    Look { path: PathBuf, source: io::Error },
    #[error("{0} is neither a file nor a directory")]
    Kind(PathBuf),
}

/// Says what there is, and again whenever it changes. Starts one task, which ends with the receiver.
pub(crate) fn follow(options: FileOptions, updates: mpsc::Sender<Update>) {
    tokio::spawn(run(Files::new(options), updates));
}

async fn run(mut files: Files, updates: mpsc::Sender<Update>) {
    let (path, every) = (files.path.clone(), files.every);
    let mut sent: Option<Vec<Pod>> = None;
    // What was said of trouble last: once, not with each look.
    let (mut trouble, mut unwatched) = (None, None);
    let mut is_event = true;
    loop {
        // First the watch, then the look: what changes between them is an event.
        let watch = watch_dir(watched(&path));
        tell(
            &mut unwatched,
            watch.as_ref().err().map(|e| format!("{}: {e}", path.display())),
            || "cannot watch static pods: changes are seen late",
        );
        let scan = spawn_blocking(move || (files.scan(is_event), files));
        let Ok((found, back)) = scan.await else { return };
        files = back;
        tell(
            &mut trouble,
            found.as_ref().err().map(|e| chain(e)),
            || "static pods stay as they are",
        );
        if let Ok(pods) = found
            && sent.as_ref() != Some(&pods)
        {
            sent = Some(pods.clone());
            let update = Update { source: Source::File, pods, is_seen: true };
            if updates.send(update).await.is_err() {
                return;
            }
        }
        let changed = async {
            match watch {
                Ok(mut events) => while !files.concerns(events.next().await) {},
                Err(_) => std::future::pending().await,
            }
        };
        is_event = tokio::select! {
            () = updates.closed() => return,
            () = changed => {
                sleep(SETTLE).await;
                true
            }
            () = sleep(every) => false,
        };
    }
}

/// Logs what is new.
fn tell(before: &mut Option<String>, now: Option<String>, what: impl Fn() -> &'static str) {
    if *before != now {
        if let Some(error) = &now {
            tracing::warn!(error, "{}", what());
        }
        *before = now;
    }
}

/// The directory whose events are those of the path.
fn watched(path: &Path) -> &Path {
    match path.is_file() {
        true => path.parent().unwrap_or(path),
        false => path,
    }
}

/// What is known of the files.
struct Files {
    path: PathBuf,
    node: String,
    every: Duration,
    known: BTreeMap<PathBuf, Known>,
    is_too_many: bool,
}

/// One file.
#[derive(Default)]
struct Known {
    /// How it was when it was read.
    stamp: Option<Stamp>,
    /// Its pod, as it last could be used.
    pod: Option<Pod>,
    /// Why it cannot be used now.
    error: Option<String>,
}

/// What is another number when a file was written; so it need not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([u64; 3], [i64; 4]);

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Self([meta.dev(), meta.ino(), meta.len()], times)
    }
}

impl Files {
    fn new(options: FileOptions) -> Self {
        let kept = options.kept.into_iter();
        let known = kept.map(|(path, pod)| (path, Known { pod: Some(pod), ..Known::default() }));
        Self {
            path: options.path,
            node: options.node,
            every: options.every,
            known: known.collect(),
            is_too_many: false,
        }
    }

    /// Whether an event may be of what is read.
    fn concerns(&self, event: Option<io::Result<Event<OsString>>>) -> bool {
        let Some(Ok(Event { name: Some(name), .. })) = event else { return true };
        let of_path = self.path.file_name() == Some(&name);
        // Beside a single file there may be others; of a directory that is not there its parents are
        // watched.
        match self.path.is_dir() {
            true => !is_hidden(&name),
            false => of_path || !self.path.parent().is_some_and(Path::is_dir),
        }
    }

    /// The pods of all files, in the order of the files' names. With `again` a file is read even
    /// though it looks as before: it may have been written twice within one tick of the kernel.
    ///
    /// # Errors
    /// [`ScanError`]; what was known stays.
    fn scan(&mut self, again: bool) -> Result<Vec<Pod>, ScanError> {
        let failed = |path: &Path, source| ScanError::Look { path: path.into(), source };
        let mut paths = match fs::metadata(&self.path) {
            // Upstream: no files, no pods.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&self.path, error)),
            Ok(meta) if meta.is_file() => vec![self.path.clone()],
            Ok(meta) if meta.is_dir() => {
                visible(&self.path).map_err(|error| failed(&self.path, error))?
            }
            Ok(_) => return Err(ScanError::Kind(self.path.clone())),
        };
        paths.sort();
        let is_too_many = paths.len() > FILES_MAX;
        if is_too_many && !self.is_too_many {
            let count = paths.len();
            tracing::warn!(path = %self.path.display(), count, "only {FILES_MAX} files are read");
        }
        self.is_too_many = is_too_many;
        paths.truncate(FILES_MAX);
        let mut before = std::mem::take(&mut self.known);
        for path in paths {
            let mut known = before.remove(&path).unwrap_or_default();
            if self.look(&path, &mut known, again) {
                self.known.insert(path, known);
            }
        }
        Ok(self.known.values().filter_map(|known| known.pod.clone()).collect())
    }

    /// Looks at one file; whether it is there.
    fn look(&self, path: &Path, known: &mut Known, again: bool) -> bool {
        // A pipe is opened without waiting for who writes.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let error = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => format!("{}: {error}", path.display()),
            // Neither is a manifest, nor was one: whatever was there is gone.
            Ok((meta, _)) if !meta.is_file() => {
                known.pod = None;
                format!("{}: not a file, and not gone into", path.display())
            }
            Ok((meta, _)) if !again && known.stamp == Some(Stamp::of(&meta)) => return true,
            Ok((meta, file)) => {
                known.stamp = Some(Stamp::of(&meta));
                match self.read(path, file) {
                    Ok((pod, warnings)) => {
                        if known.pod.as_ref() != Some(&pod) {
                            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                        }
                        *known = Known { stamp: known.stamp, pod: Some(pod), error: None };
                        return true;
                    }
                    Err(error) => chain(&error),
                }
            }
        };
        if known.error.as_ref() != Some(&error) {
            match &known.pod {
                Some(_) => tracing::error!(error, "this static pod stays as it was"),
                None => tracing::error!(error, "this is no static pod"),
            }
            known.error = Some(error);
        }
        true
    }

    fn read(&self, path: &Path, from: File) -> Result<(Pod, Vec<String>), ManifestError> {
        let name = path.display().to_string();
        let base = path.parent().unwrap_or(path).into();
        let content = file::bounded(&super::Source { name: name.clone(), base }, from)?;
        manifest::one(&name, &content, Origin::File(&name), &self.node)
    }
}

/// What is in the directory and not hidden.
fn visible(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !is_hidden(&entry.file_name()) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
#[path = "static_files_test.rs"]
mod tests;
