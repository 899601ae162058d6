//! An image's files, copied for one container attempt: what a guest changes is its own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use super::TreeError;

/// What an owner needs of a directory to fill and remove it.
const OWNER: u32 = 0o700;

/// A link of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Where it is, relative to the tree.
    pub(super) path: PathBuf,
    /// Where it leads to, relative to the tree, by its words alone.
    pub(super) target: PathBuf,
}

/// Copies all that is below `from` to `to`, an empty directory; gives the links. The kernel shares
/// the blocks of files where the file system can. How much it is was bounded when it was unpacked.
///
/// # Errors
/// [`TreeError::Copy`].
pub(super) fn copy(from: &Path, to: &Path) -> Result<Vec<Link>, TreeError> {
    let mut links = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        let path = from.join(&dir);
        let failed = |source| TreeError::Copy { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = dir.join(entry.map_err(failed)?.file_name());
            let (source, dest) = (from.join(&name), to.join(&name));
            let failed = |e| TreeError::Copy { path: source.clone(), source: e };
            let about = fs::symlink_metadata(&source).map_err(failed)?;
            let kind = about.file_type();
            if kind.is_dir() {
                directory(&dest, about.mode()).map_err(failed)?;
                left.push(name);
            } else if kind.is_symlink() {
                let target = fs::read_link(&source).map_err(failed)?;
                symlink(&target, &dest).map_err(failed)?;
                links.push(Link { target: lead(&name, &target), path: name });
            } else if kind.is_file() {
                fs::copy(&source, &dest).map_err(failed)?;
            } else {
                // No image is unpacked with anything else.
                continue;
            }
            give(&about, &dest).map_err(failed)?;
        }
    }
    Ok(links)
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    let mode = (mode & 0o7777) | OWNER;
    fs::DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives a copy the owner that the image's file has.
fn give(about: &fs::Metadata, dest: &Path) -> io::Result<()> {
    let made = fs::symlink_metadata(dest)?;
    if (made.uid(), made.gid()) == (about.uid(), about.gid()) {
        return Ok(());
    }
    lchown(dest, Some(about.uid()), Some(about.gid()))?;
    // A change of owner clears some bits.
    if made.is_file() { fs::set_permissions(dest, about.permissions()) } else { Ok(()) }
}

/// Where a link at `path` leads to.
fn lead(path: &Path, target: &Path) -> PathBuf {
    let mut at = if target.is_absolute() {
        PathBuf::new()
    } else {
        path.parent().unwrap_or(Path::new("")).to_path_buf()
    };
    for part in target.components() {
        match part {
            Component::Normal(part) => at.push(part),
            // The tree's top has nothing above it.
            Component::ParentDir => drop(at.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_links_and_modes_are_copied_and_not_shared() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).expect("makes");
        fs::create_dir(&to).expect("makes");
        fs::write(from.join("a/file"), "text").expect("writes");
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4711)).expect("sets");
        std::os::unix::fs::chown(from.join("a/file"), Some(7), Some(8)).expect("gives");
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4711)).expect("sets");
        fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o555)).expect("sets");
        for (link, target) in [("a/b/up", "../../c/./d"), ("root", "/a/x"), ("out", "../../../e")] {
            symlink(target, from.join(link)).expect("links");
        }
        let mut links = copy(&from, &to).expect("copies");
        links.sort_by(|a, b| a.path.cmp(&b.path));
        let link = |path: &str, target: &str| Link { path: path.into(), target: target.into() };
        assert_eq!(links, [link("a/b/up", "c/d"), link("out", "e"), link("root", "a/x")]);
        let about = fs::metadata(to.join("a/file")).expect("is there");
        assert_eq!((about.mode() & 0o7777, about.uid(), about.gid()), (0o4711, 7, 8));
        assert_eq!(about.nlink(), 1);
        let mode = fs::metadata(to.join("a/b")).expect("is there").mode();
        assert_eq!(mode & 0o7777, 0o755, "its owner can empty it");
        assert_eq!(fs::read_link(to.join("root")).expect("a link"), Path::new("/a/x"));
        fs::write(to.join("a/file"), "new").expect("writes");
        assert_eq!(fs::read_to_string(from.join("a/file")).expect("reads"), "text");
    }
}
