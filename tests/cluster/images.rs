//! Ordinary images for containerd: Debian's static busybox with all its names, and what holds a
//! pod's namespaces. They are packed once for each directory, as an archive that containerd, skopeo
//! and docker read.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::guest_program;

/// Debian's busybox with a link for each of its programs; its command is `sh`.
pub const BUSYBOX: &str = "docker.io/library/busybox:test";
/// The guest `actor` as a Linux program; hand over [`actor_archive`].
pub const ACTOR: &str = "docker.io/library/actor:test";
/// What holds a pod's namespaces, which nobody can pull.
pub const PAUSE: &str = "registry.k8s.io/pause:test";

/// Waits until it is told to end; also for children that nobody else waits for.
pub const PAUSE_C: &str = "#include <signal.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n#include \
                       <unistd.h>\nstatic void down(int s){(void)s;exit(0);}\nstatic void reap(int \
                       s){(void)s;while(waitpid(-1,0,WNOHANG)>0);}\nint main(void){signal(SIGINT,down);\
                       signal(SIGTERM,down);signal(SIGCHLD,reap);for(;;)pause();}\n";

/// The archive with both images, packed by whoever asks first for it in this directory.
#[track_caller]
pub fn archive(dir: &Path) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = dir.join("images.tar");
    if archive.exists() {
        return archive;
    }
    fs::create_dir_all(dir).expect("made");
    let work = tempfile::tempdir_in(dir).expect("made");
    let at = |name: &str| work.path().join(name);
    pause(&at("pause"), &at("pause.c"));
    busybox(&at("busybox"));
    let image =
        |name: &str, root: &str, config| Image { names: vec![name.into()], root: at(root), config };
    pack(
        &archive,
        &[
            image(PAUSE, "pause", json!({"Entrypoint": ["/pause"], "User": "65535:65535"})),
            image(BUSYBOX, "busybox", json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]})),
        ],
    );
    archive
}

/// The archive with [`ACTOR`], packed by whoever asks first for it in this directory.
#[track_caller]
pub fn actor_archive(dir: &Path) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = dir.join("actor.tar");
    if !archive.exists() {
        fs::create_dir_all(dir).expect("made");
        let work = tempfile::tempdir_in(dir).expect("made");
        let root = program_root(&work.path().join("actor"), &guest_program("actor"));
        let config = json!({"Entrypoint": ["/actor"]});
        pack(&archive, &[Image { names: vec![ACTOR.into()], root, config }]);
    }
    archive
}

/// Makes a root directory with one program and the folders that a runtime mounts on, and gives it.
#[track_caller]
pub fn program_root(root: &Path, program: &Path) -> PathBuf {
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    fs::copy(program, root.join(program.file_name().expect("a name"))).expect("copied");
    root.to_owned()
}

/// An image of one layer, to be packed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its references, each with a tag.
    pub names: Vec<String>,
    /// The folder with its files; all become root's.
    pub root: PathBuf,
    /// The part `config` of its configuration.
    pub config: Value,
}

/// Packs images as an archive; the file is there when it is whole.
#[track_caller]
pub fn pack(archive: &Path, images: &[Image]) {
    let work = tempfile::tempdir_in(archive.parent().expect("a folder")).expect("made");
    let manifest: Vec<Value> = images.iter().map(|image| packed(work.path(), image)).collect();
    let manifest = Value::from(manifest).to_string();
    fs::write(work.path().join("manifest.json"), manifest).expect("written");
    let new = archive.with_extension("new");
    tar(work.path(), &new);
    fs::rename(new, archive).expect("renamed");
}

/// A root directory with nothing but `/pause`.
fn pause(root: &Path, source: &Path) {
    fs::create_dir(root).expect("made");
    fs::write(source, PAUSE_C).expect("written");
    let args = ["-Os", "-static", "-s", "-o"].map(OsStr::new);
    run("gcc", &[&args[..], &[root.join("pause").as_os_str(), source.as_os_str()]].concat());
}

/// A root directory with busybox, the folders that a system has, and two users.
fn busybox(root: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    let all = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(root.join("tmp"), all).expect("set");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("busybox")).find(|f| f.is_file());
    let program = found.expect("busybox of `make test-setup`");
    fs::copy(&program, root.join("bin/busybox")).expect("copied");
    let names = Command::new(program).arg("--list").output().expect("busybox").stdout;
    for name in String::from_utf8_lossy(&names).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).expect("a name of its own");
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    fs::write(root.join("etc/passwd"), users).expect("written");
    fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n").expect("written");
}

/// Packs an image into the folder `into`: its part of the archive's manifest.
fn packed(into: &Path, image: &Image) -> Value {
    let layer = into.join("layer");
    tar(&image.root, &layer);
    let digest = hex(&fs::read(&layer).expect("packed"));
    let layer_file = format!("{digest}.tar");
    fs::rename(layer, into.join(&layer_file)).expect("renamed");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{}],
    });
    let config = config.to_string();
    let config_file = format!("{}.json", hex(config.as_bytes()));
    fs::write(into.join(&config_file), config).expect("written");
    json!({"Config": config_file, "RepoTags": image.names, "Layers": [layer_file]})
}

/// The SHA-256 of these bytes.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same bytes for the same files.
fn tar(from: &Path, to: &Path) {
    let args = ["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-C"].map(OsStr::new);
    let paths = [from.as_os_str(), OsStr::new("-cf"), to.as_os_str(), OsStr::new(".")];
    run("tar", &[&args[..], &paths].concat());
}

#[track_caller]
fn run(program: &str, args: &[&OsStr]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
