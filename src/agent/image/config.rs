//! How an unpacked image is run: its configuration, its user's numbers, which of its files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use thiserror::Error;

use super::registry::shown;
use super::{ImageConfig, ImageUser};

/// Most bytes of `/etc/passwd` and `/etc/group` that are read.
const USERS_MAX: u64 = 1 << 20;
/// Most Wasm files that an error names.
const NAMED_MAX: usize = 16;
/// Where a command without a slash is looked for when the image has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an image cannot be run as it is.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// Its configuration cannot be read.
    #[error("its configuration is malformed: {0}")]
    Malformed(String),
    /// It has no Wasm at all.
    #[error("it is an ordinary linux image without a Wasm file{0}")]
    NoWasm(String),
    /// By its configuration alone it is no Wasm.
    #[error("it is an ordinary linux image, whose program is {0:?}: this node runs Wasm alone")]
    Ordinary(String),
    /// Several, and nothing says which.
    #[error(
        "its entrypoint {entrypoint:?} is no Wasm file, and it has {count}: name one as the container's command: {names}"
    )]
    Several {
        /// What it would run.
        entrypoint: String,
        /// How many Wasm files it has.
        count: usize,
        /// The first of them.
        names: String,
    },
    /// Its user has no number.
    #[error("its user {0:?} is not in its /etc/passwd or /etc/group")]
    User(String),
    /// Its files cannot be read.
    #[error("cannot read its {0}")]
    Io(String, #[source] io::Error),
}

/// What of a configuration matters, and the digests of its layers as unpacked.
///
/// # Errors
/// [`ConfigError::Malformed`].
pub(super) fn read(bytes: &[u8]) -> Result<(ImageConfig, String, Vec<String>), ConfigError> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| ConfigError::Malformed(shown(&e.to_string())))?;
    let run = config.config().clone().unwrap_or_default();
    let env = run.env().iter().flatten();
    let pairs =
        env.filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    let said = ImageConfig {
        entrypoint: run.entrypoint().clone().unwrap_or_default(),
        cmd: run.cmd().clone().unwrap_or_default(),
        env: pairs.collect(),
        user: None,
        working_dir: run.working_dir().clone().unwrap_or_default(),
    };
    let user = run.user().clone().unwrap_or_default();
    Ok((said, user, config.rootfs().diff_ids().clone()))
}

/// Whether an image may hold Wasm, by its configuration alone and the container's command: it is
/// made for Wasm, or what it runs has a Wasm file's name, or nothing says what it runs.
///
/// # Errors
/// [`ConfigError::Malformed`], [`ConfigError::Ordinary`].
pub(super) fn may_be_wasm(bytes: &[u8], command: Option<&str>) -> Result<(), ConfigError> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| ConfigError::Malformed(shown(&e.to_string())))?;
    let platform = [config.architecture().to_string(), config.os().to_string()];
    let made_for_wasm = platform.iter().any(|name| name.starts_with("was"));
    let (said, _, _) = read(bytes)?;
    let own = said.entrypoint.first().or(said.cmd.first()).map(String::as_str);
    match command.or(own) {
        Some(program) if !made_for_wasm && !program.ends_with(".wasm") => {
            Err(ConfigError::Ordinary(shown(program)))
        }
        Some(_) | None => Ok(()),
    }
}

impl ImageConfig {
    /// `PATH`, if it is set.
    pub(super) fn path(&self) -> Option<&str> {
        let (_, path) = self.env.iter().find(|(name, _)| name == "PATH")?;
        Some(path)
    }
}

/// The root of an image's files: paths in it are resolved as if it were the host's.
pub(super) struct Root {
    fd: std::os::fd::OwnedFd,
}

impl Root {
    /// Opens the directory.
    ///
    /// # Errors
    /// [`ConfigError::Io`].
    pub(super) fn open(path: &Path) -> Result<Self, ConfigError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty());
        let fd = opened.map_err(|e| ConfigError::Io("files".into(), e.into()))?;
        Ok(Self { fd })
    }

    /// Opens a regular file; `None` if there is none.
    fn file(&self, path: &Path) -> Option<File> {
        // Not blocking: what is no file is let go just below.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(&self.fd, path, flags, Mode::empty(), resolve).ok()?);
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    }

    /// The Wasm file at a path of the image, from its first byte; `None` if it is none.
    pub(super) fn wasm(&self, path: &Path) -> Option<File> {
        let file = self.file(path)?;
        let mut first = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).ok()?;
        (first == *b"\0asm").then_some(file)
    }

    /// The Wasm file that a command's first word means, as a shell in the image would find it with
    /// this `WORKDIR` and `PATH`, and its path.
    pub(super) fn command(
        &self,
        word: &str,
        (working_dir, path): (&str, Option<&str>),
    ) -> Option<(PathBuf, File)> {
        let working_dir = Path::new("/").join(working_dir);
        let found = |path: PathBuf| self.wasm(&path).map(|file| (path, file));
        if word.is_empty() {
            return None;
        }
        // `Path::join` takes an absolute one as it is.
        if let Some(here) = found(working_dir.join(word)) {
            return Some(here);
        }
        if word.contains('/') {
            return None;
        }
        path.unwrap_or(PATH).split(':').find_map(|dir| found(Path::new("/").join(dir).join(word)))
    }

    /// Which of the Wasm files (`wasm`) is run: the container's command if it names one, else the
    /// image's own if that does, else the only one there is.
    ///
    /// # Errors
    /// [`ConfigError::NoWasm`], [`ConfigError::Several`].
    pub(super) fn choose(
        &self,
        command: Option<&str>,
        config: &ImageConfig,
        wasm: &[String],
    ) -> Result<(PathBuf, File), ConfigError> {
        let own = config.entrypoint.first().or(config.cmd.first()).map(String::as_str);
        for word in command.into_iter().chain(own) {
            if let Some(found) = self.command(word, (&config.working_dir, config.path())) {
                return Ok(found);
            }
        }
        let only = match wasm {
            [only] => self.wasm(Path::new(only)).map(|file| (PathBuf::from(only), file)),
            [] | [_, _, ..] => None,
        };
        let entrypoint = shown(command.or(own).unwrap_or_default());
        match (only, wasm.len()) {
            (Some(only), _) => Ok(only),
            (None, 0) => Err(ConfigError::NoWasm(match entrypoint.as_str() {
                "" => String::new(),
                word => format!(": its entrypoint is {word:?}"),
            })),
            (None, count) => {
                let names: Vec<&str> = wasm.iter().take(NAMED_MAX).map(String::as_str).collect();
                Err(ConfigError::Several { entrypoint, count, names: shown(&names.join(", ")) })
            }
        }
    }

    /// `USER` (`name`, `name:group`, or numbers) as numbers, by the image's own files.
    ///
    /// # Errors
    /// [`ConfigError::User`] for a name that they do not have.
    pub(super) fn user(&self, user: &str) -> Result<Option<ImageUser>, ConfigError> {
        if user.is_empty() {
            return Ok(None);
        }
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let unknown = || ConfigError::User(shown(user));
        let entry = self.entry("etc/passwd", |fields| {
            fields.first().is_some_and(|f| f == name) || fields.get(2).is_some_and(|f| f == name)
        })?;
        let field = |entry: &[String], at: usize| entry.get(at).and_then(|f| f.parse::<u32>().ok());
        let uid = match name.parse() {
            Ok(uid) => uid,
            Err(_) => entry.as_ref().and_then(|entry| field(entry, 2)).ok_or_else(unknown)?,
        };
        let gid = match group {
            None => entry.as_ref().and_then(|entry| field(entry, 3)),
            Some(group) => Some(match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let named = |fields: &[String]| fields.first().is_some_and(|f| f == group);
                    let entry = self.entry("etc/group", named)?;
                    entry.and_then(|entry| field(&entry, 2)).ok_or_else(unknown)?
                }
            }),
        };
        Ok(Some(ImageUser { uid, gid }))
    }

    /// The first line of a table that fits.
    fn entry(
        &self,
        table: &str,
        fits: impl Fn(&[String]) -> bool,
    ) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(file) = self.file(Path::new(table)) else { return Ok(None) };
        for line in BufReader::new(file.take(USERS_MAX)).split(b'\n') {
            let line = line.map_err(|e| ConfigError::Io(table.into(), e))?;
            let line = String::from_utf8_lossy(&line);
            let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            if fits(&fields) {
                return Ok(Some(fields));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ordinary_image_is_told_by_its_configuration() {
        let config = |platform: (&str, &str), run: serde_json::Value| {
            let (os, architecture) = platform;
            let rootfs = json!({"type": "layers", "diff_ids": []});
            let all =
                json!({"os": os, "architecture": architecture, "config": run, "rootfs": rootfs});
            all.to_string().into_bytes()
        };
        let linux = ("linux", "amd64");
        for (platform, run, command, ordinary) in [
            (linux, json!({"Entrypoint": ["/bin/sh"]}), None, true),
            (linux, json!({"Cmd": ["sh"]}), None, true),
            (linux, json!({"Entrypoint": ["/app.wasm"]}), Some("sh"), true),
            (linux, json!({"Entrypoint": ["/bin/sh"]}), Some("/app.wasm"), false),
            (linux, json!({"Entrypoint": ["/app.wasm"]}), None, false),
            (linux, json!({}), None, false),
            (("wasi", "wasm"), json!({"Entrypoint": ["/app"]}), None, false),
            (("linux", "wasm32"), json!({"Entrypoint": ["/app"]}), None, false),
        ] {
            let said = may_be_wasm(&config(platform, run.clone()), command);
            let told = matches!(said, Err(ConfigError::Ordinary(_)));
            assert_eq!(told, ordinary, "{platform:?} {run} {command:?}: {said:?}");
        }
        assert!(matches!(may_be_wasm(b"{", None), Err(ConfigError::Malformed(_))));
    }
}
