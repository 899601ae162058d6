//! What one container attempt sees as `/`.
//!
//! A directory of its own, which holds a copy of the image's files and the pod's single files
//! (`/etc/hosts` and the like), and a directory where each volume is. It is the guest's `/`; the
//! volumes are directories of the guest beside it, nested by name: a guest's own library takes the
//! one with the longest name that fits a path. So most pods need no mount. Three things do: a
//! single file that is to be written through, a secret's (no copy may lie on disk), and a link of
//! the image that leads around a volume's name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use copepod_pod::sub_path;
use copepod_wasm::{Mount, Preopen};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, VolumeMount};
use rustix::fs::{AtFlags, Mode, unlinkat};
use rustix::io::Errno;

use super::copy::{self, Link};
use super::sub_path::{Source, resolve};
use super::{Kind, TreeError, Volumes};
use crate::linux::{self, Links};

/// Mode of the tree's top and of what is made on the way to a file or volume.
const DIRECTORY: u32 = 0o755;
/// Mode of the pod's files.
pub(super) const FILE: u32 = 0o644;
/// Mode of the termination message: the guest's user may be any.
pub(super) const MESSAGE: u32 = 0o666;
/// Where a container leaves its last words by default.
pub(super) const DEFAULT_MESSAGE: &str = "/dev/termination-log";

/// What a tree is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// Whose it is.
    pub(crate) container: &'a ContainerSpec,
    /// The pod's volumes.
    pub(crate) volumes: &'a Volumes,
    /// The container's environment, for `subPathExpr`.
    pub(crate) env: &'a [(String, String)],
    /// The image's own files.
    pub(crate) image: Option<&'a Path>,
    /// The pod's files, by path in the tree without the slash before it.
    pub(crate) files: &'a [(&'static str, String)],
    /// Whether mounts may be asked for.
    pub(crate) mounts: bool,
}

/// What a container attempt is given of the host's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The directories that the guest sees, its `/` first.
    pub(crate) preopens: Vec<Preopen>,
    /// What is mounted below them.
    pub(crate) mounts: Vec<Mount>,
    /// Its termination message: a directory, and the file in it.
    pub(crate) message: Option<(PathBuf, PathBuf)>,
}

/// Makes the tree in the directory `root`, anew if it is there.
///
/// # Errors
/// [`TreeError`]; nothing of it is left then.
pub(crate) fn build(seen: &Seen<'_>, root: &Path) -> Result<Tree, TreeError> {
    let built = points(seen).and_then(|points| Builder::new(seen, root, points)?.build());
    if built.is_err() {
        // What cannot be removed now goes with the pod's directory.
        let _ = linux::remove_tree(root);
    }
    built
}

/// A volume mount, resolved.
struct Point<'a> {
    mount: &'a VolumeMount,
    /// Its mountPath, relative to the tree.
    at: PathBuf,
    source: Source,
    kind: Kind,
    read_only: bool,
}

/// The mounts of the container, each after those that it lies below.
fn points<'a>(seen: &Seen<'a>) -> Result<Vec<Point<'a>>, TreeError> {
    let mounts = seen.container.volume_mounts.as_deref().unwrap_or_default();
    let mut points =
        mounts.iter().map(|mount| point(seen, mount)).collect::<Result<Vec<_>, _>>()?;
    points.sort_by_key(|point| point.at.components().count());
    Ok(points)
}

fn point<'a>(seen: &Seen<'a>, mount: &'a VolumeMount) -> Result<Point<'a>, TreeError> {
    let volume =
        seen.volumes.get(&mount.name).ok_or_else(|| TreeError::NoVolume(mount.name.clone()))?;
    let path = sub_path(mount, seen.env)
        .map_err(|source| TreeError::SubPathName { volume: mount.name.clone(), source })?;
    let source = resolve(volume, Path::new(path.as_deref().unwrap_or_default()));
    let source = source.map_err(|source| TreeError::SubPath {
        volume: mount.name.clone(),
        container: seen.container.name.clone(),
        source,
    })?;
    let at = inside(&mount.mount_path);
    if at.as_os_str().is_empty() {
        return Err(TreeError::Whole(mount.name.clone()));
    }
    // As a kubelet mounts what it made itself.
    let made = matches!(volume.kind, Kind::Payload { .. });
    let read_only = made || mount.read_only == Some(true);
    Ok(Point { mount, at, source, kind: volume.kind, read_only })
}

/// A path of the guest, relative to its tree, without `.` and `..`.
pub(super) fn inside(path: &str) -> PathBuf {
    let mut at = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => at.push(part),
            Component::ParentDir => drop(at.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    at
}

/// A path of the guest, from its root.
fn absolute(at: &Path) -> String {
    Path::new("/").join(at).to_string_lossy().into_owned()
}

struct Builder<'a> {
    seen: &'a Seen<'a>,
    points: Vec<Point<'a>>,
    root: &'a Path,
    top: OwnedFd,
    links: Vec<Link>,
    tree: Tree,
}

impl<'a> Builder<'a> {
    fn new(seen: &'a Seen<'a>, root: &'a Path, points: Vec<Point<'a>>) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Make { path: root.into(), source };
        let made = || -> io::Result<OwnedFd> {
            if let Some(parent) = root.parent() {
                fs::create_dir_all(parent)?;
            }
            match fs::create_dir(root) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // An earlier try of this attempt.
                    linux::remove_tree(root)?;
                    fs::create_dir(root)?;
                }
                other => other?,
            }
            fs::set_permissions(root, fs::Permissions::from_mode(DIRECTORY))?;
            linux::open_top(root)
        };
        let top = made().map_err(failed)?;
        let links = seen.image.map(|image| copy::copy(image, root)).transpose()?;
        let links = links.unwrap_or_default();
        Ok(Self { seen, points, root, top, links, tree: Tree::default() })
    }

    fn build(mut self) -> Result<Tree, TreeError> {
        let security = self.seen.container.security_context.as_ref();
        let read_only = security.and_then(|own| own.read_only_root_filesystem) == Some(true);
        let (host, guest) = (self.root.to_path_buf(), "/".into());
        self.tree.preopens.push(Preopen { host, guest, read_only });
        for i in 0..self.points.len() {
            let show =
                if self.points[i].source.is_dir { Self::directory } else { Self::single_file };
            show(&mut self, i)?;
        }
        for (path, text) in self.seen.files {
            let path = Path::new(path);
            if !self.is_mounted(path) {
                self.place(path, FILE, text.as_bytes())?;
            }
        }
        self.message(read_only)?;
        Ok(self.tree)
    }

    /// Whether a volume shows this path, or what it lies below.
    fn is_mounted(&self, path: &Path) -> bool {
        self.points.iter().any(|point| path.starts_with(&point.at))
    }

    /// The volume that covers this path, and the path in it.
    fn cover<'p>(&self, path: &'p Path) -> Option<(&Point<'a>, &'p Path)> {
        let below = |point: &&Point<'a>| point.source.is_dir && path != point.at;
        let covers = self.points.iter().filter(below);
        let covers = covers.filter_map(|point| Some((point, path.strip_prefix(&point.at).ok()?)));
        covers.max_by_key(|(point, _)| point.at.components().count())
    }

    /// Shows a directory of a volume.
    fn directory(&mut self, i: usize) -> Result<(), TreeError> {
        let point = &self.points[i];
        let Source { path: host, .. } = point.source.clone();
        let (guest, read_only) = (absolute(&point.at), point.read_only);
        let mount = match self.cover(&point.at) {
            Some((over, rest)) => {
                if over.kind == Kind::EmptyDir {
                    // For the eye alone: whatever guests made of it, the volume is seen.
                    let top = linux::open_top(&over.source.path);
                    let mode = Mode::from_raw_mode(DIRECTORY);
                    let _ = top.and_then(|top| linux::make_below(top, rest, mode, Links::Refused));
                }
                None
            }
            None => self.mountpoint(point)?.map(|target| Mount {
                source: host.clone(),
                target,
                read_only,
            }),
        };
        self.tree.preopens.push(Preopen { host, guest, read_only });
        self.tree.mounts.extend(mount);
        Ok(())
    }

    /// Makes the directory where a volume is seen; gives it if the volume has to be mounted there,
    /// since a link of the image leads to it by another name.
    fn mountpoint(&self, point: &Point<'_>) -> Result<Option<PathBuf>, TreeError> {
        let path = self.root.join(&point.at);
        let made = make(&self.top, &point.at).and_then(linux::path_of);
        let made = made.map_err(|source| TreeError::Make { path: path.clone(), source })?;
        let around =
            |link: &&Link| link.target.starts_with(&point.at) || point.at.starts_with(&link.target);
        let why = match self.links.iter().find(around) {
            Some(link) => format!("the image's link {} leads around it", absolute(&link.path)),
            None if made != path => "a link of the image is on its way".into(),
            None => return Ok(None),
        };
        self.may_mount(point, why)?;
        Ok(Some(made))
    }

    /// Refuses what takes a mount where none can be made.
    fn may_mount(&self, point: &Point<'_>, why: String) -> Result<(), TreeError> {
        if self.seen.mounts {
            return Ok(());
        }
        let (volume, path) = (point.mount.name.clone(), point.mount.mount_path.clone());
        Err(TreeError::NeedsMount { volume, path, why })
    }

    /// Shows a single file of a volume: a copy of one that never changes, else the file itself.
    fn single_file(&mut self, i: usize) -> Result<(), TreeError> {
        let point = &self.points[i];
        let (source, read_only) = (point.source.path.clone(), point.read_only);
        let failed = |source| TreeError::Make { path: self.root.join(&point.at), source };
        let cover = self.cover(&point.at);
        let secret = point.kind == Kind::Payload { secret: true };
        if matches!(point.kind, Kind::Payload { .. })
            && cover.is_none()
            && !(secret && self.seen.mounts)
        {
            let about = fs::metadata(&source).map_err(failed)?;
            let bytes = fs::read(&source).map_err(failed)?;
            let file = self.place(&point.at, about.mode() & 0o7777, &bytes)?;
            // Its group is the pod's, if any.
            let made = file.metadata().map_err(failed)?;
            if made.gid() != about.gid() {
                fchown(&file, None, Some(about.gid())).map_err(failed)?;
            }
            return Ok(());
        }
        self.may_mount(point, "a single file of it is shown".into())?;
        let target = match cover {
            Some((over, rest)) => {
                let top = linux::open_top(&over.source.path).map_err(failed)?;
                let parent = make_refused(&top, rest.parent().unwrap_or(rest)).map_err(failed)?;
                touch(&parent, rest).map_err(failed)?;
                linux::path_of(&parent).map_err(failed)?
            }
            None => {
                self.place(&point.at, FILE, b"")?;
                let parent = make(&self.top, point.at.parent().unwrap_or(&point.at));
                parent.and_then(linux::path_of).map_err(failed)?
            }
        };
        let target = target.join(point.at.file_name().unwrap_or_default());
        self.tree.mounts.push(Mount { source, target, read_only });
        Ok(())
    }

    /// Puts a file into the tree, over one of the image.
    fn place(&self, at: &Path, mode: u32, bytes: &[u8]) -> Result<File, TreeError> {
        let made = || -> io::Result<File> {
            let parent = make(&self.top, at.parent().unwrap_or(at))?;
            replace(&parent, at, mode, bytes)
        };
        made().map_err(|source| TreeError::Make { path: self.root.join(at), source })
    }

    /// Makes the file of the termination message, empty: in the tree, or in the volume that covers
    /// its path. One that the guest could not write to is not made, and there is no message then.
    fn message(&mut self, read_only: bool) -> Result<(), TreeError> {
        let path = self.seen.container.termination_message_path.as_deref();
        let at = inside(path.unwrap_or(DEFAULT_MESSAGE));
        let Some(name) = at.file_name().map(PathBuf::from) else { return Ok(()) };
        let failed = |source| TreeError::Make { path: self.root.join(&at), source };
        let dir = match self.cover(&at) {
            Some((over, _)) if over.read_only => return Ok(()),
            Some((over, rest)) => {
                let top = linux::open_top(&over.source.path).map_err(failed)?;
                let parent = make_refused(&top, rest.parent().unwrap_or(rest)).map_err(failed)?;
                if over.kind == Kind::HostPath {
                    // The user's own file is not to be emptied.
                    touch(&parent, rest).map_err(failed)?;
                } else {
                    replace(&parent, rest, MESSAGE, b"").map_err(failed)?;
                }
                linux::path_of(&parent).map_err(failed)?
            }
            None if self.is_mounted(&at) => return Ok(()),
            None => {
                let parent = at.parent().unwrap_or(&at).to_path_buf();
                let is_new = !self.root.join(&parent).exists();
                self.place(&at, MESSAGE, b"")?;
                let dir = make(&self.top, &parent).and_then(linux::path_of).map_err(failed)?;
                if read_only && is_new {
                    // Nothing else is in there.
                    let (host, guest) = (dir.clone(), absolute(&parent));
                    self.tree.preopens.push(Preopen { host, guest, read_only: false });
                }
                dir
            }
        };
        self.tree.message = Some((dir, name));
        Ok(())
    }
}

/// Makes directories of a tree, its links followed as the guest would.
fn make(top: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    linux::make_below(top, path, Mode::from_raw_mode(DIRECTORY), Links::Root)
}

/// Makes directories of a volume.
fn make_refused(top: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    linux::make_below(top, path, Mode::from_raw_mode(DIRECTORY), Links::Refused)
}

/// Makes a new file of the last name of `path` in `parent`, whatever was there.
fn replace(parent: &OwnedFd, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default();
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let place = linux::proc_path(parent).join(name);
    let mut file = match options.open(&place) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            match unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            options.open(&place)?
        }
        other => other?,
    };
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Makes an empty file of the last name of `path` in `parent`, unless something is there.
fn touch(parent: impl AsFd, path: &Path) -> io::Result<()> {
    let place = linux::proc_path(parent).join(path.file_name().unwrap_or_default());
    let mut options = File::options();
    match options.write(true).create_new(true).mode(MESSAGE).open(place) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tests;
