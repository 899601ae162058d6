//! What is on disk of each attached pod: all that a DEL needs, before the ADD; its result after it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::conf::NetworkList;

/// Most bytes of a record: a configuration, a result, and the pod's annotations.
const RECORD_MAX: u64 = 4 << 20;
/// What the names of records end with.
const SUFFIX: &str = ".json";
/// What the names of records begin with that are being written.
const UNFINISHED: &str = ".new-";

/// Why a record could not be kept.
#[derive(Debug, Error)]
#[error("cannot {verb} the network record {path}")]
pub(crate) struct RecordError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// One pod's attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// `CNI_CONTAINERID`.
    pub(super) container_id: String,
    /// `CNI_IFNAME`.
    pub(super) interface: String,
    /// `CNI_ARGS`.
    pub(super) args: String,
    /// The network as it was configured then.
    pub(super) network: NetworkList,
    /// The arguments of its plugins' capabilities.
    pub(super) capabilities: Map<String, Value>,
    /// The last plugin's result; without one the ADD did not end.
    pub(super) result: Option<Value>,
    /// The pod's addresses, of the result.
    pub(super) ips: Vec<IpAddr>,
}

/// The records, each a file of its pod's uid.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// A record that is seen by whoever reads, but may be lost with the machine's power.
#[must_use]
pub(super) struct Unsynced {
    file: File,
    path: PathBuf,
    dir: PathBuf,
}

impl Unsynced {
    /// Has the disk keep it.
    pub(super) fn sync(&self) -> Result<(), RecordError> {
        let synced = self.file.sync_data().and_then(|()| File::open(&self.dir)?.sync_all());
        synced.map_err(|source| RecordError { verb: "sync", path: self.path.clone(), source })
    }
}

impl Records {
    /// Those in `dir`, which is made when one is written.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}{SUFFIX}"))
    }

    /// The pod's record. One that cannot be understood is none: it was not written whole, so no
    /// plugin ran by it.
    pub(super) fn read(&self, uid: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(uid);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened,
        };
        let mut bytes = Vec::new();
        file.and_then(|file| file.take(RECORD_MAX + 1).read_to_end(&mut bytes))
            .map_err(|source| RecordError { verb: "read", path: path.clone(), source })?;
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "network record dropped");
                Ok(None)
            }
        }
    }

    /// Writes a record before any plugin runs. The disk need not have it before that: until then
    /// there is nothing to undo after the loss of power.
    pub(super) fn begin(&self, uid: &str, record: &Record) -> Result<Unsynced, RecordError> {
        let failed = |source| RecordError { verb: "write", path: self.path(uid), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed)?;
        let (new, file) = self.write_new(uid, record).map_err(failed)?;
        fs::rename(&new, self.path(uid)).map_err(failed)?;
        Ok(Unsynced { file, path: self.path(uid), dir: self.dir.clone() })
    }

    /// Writes a record with a result in its predecessor's place. The disk has the one or the
    /// other, whatever happens: both lead to the same DEL.
    pub(super) fn finish(&self, uid: &str, record: &Record) -> Result<(), RecordError> {
        let finish = || {
            let (new, file) = self.write_new(uid, record)?;
            file.sync_data()?;
            fs::rename(&new, self.path(uid))
        };
        finish().map_err(|source| RecordError { verb: "write", path: self.path(uid), source })
    }

    fn write_new(&self, uid: &str, record: &Record) -> io::Result<(PathBuf, File)> {
        let bytes = serde_json::to_vec(record)?;
        if bytes.len() as u64 > RECORD_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let path = self.dir.join(format!("{UNFINISHED}{uid}"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&bytes)?;
        Ok((path, file))
    }

    /// Removes the pod's record; none is no error.
    pub(super) fn remove(&self, uid: &str) -> Result<(), RecordError> {
        for path in [self.dir.join(format!("{UNFINISHED}{uid}")), self.path(uid)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(RecordError { verb: "remove", path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The uids of all records.
    pub(super) fn uids(&self) -> Vec<String> {
        uids_in(&self.dir, SUFFIX)
    }
}

/// The names in a directory of files of pods, without what they end with; those that begin with a
/// dot are none.
pub(super) fn uids_in(dir: &Path, suffix: &str) -> Vec<String> {
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = listed.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| !name.starts_with('.'));
    names.filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned())).collect()
}
