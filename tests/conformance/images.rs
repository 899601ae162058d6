//! Stand-ins of the images that upstream's tests name, from Debian's packages and the agnhost program
//! of the pinned version, since registry.k8s.io is not asked. They are kept as one archive outside
//! the checkout, made anew when what it is made of has changed.
//!
//! What the tests need beyond a program of that name, each found by a test that failed:
//!
//! - `/bin/sh` is bash, also by its own name: busybox's own drops variables such as `data-1`.
//! - agnhost's image has `agnhost-2`, a certificate for its TLS server, and `curl`.
//! - nonewprivs is a set-uid program that prints its effective user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::Containerd;
use copepod_tests::cluster::images::{Image, PAUSE_C, hex, pack};
use copepod_tests::cluster::pki::Authority;
use serde_json::{Value, json};

use crate::Programs;

/// What all images find their programs by.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Says who it is: root if its set-uid bit counts.
const NONEWPRIVS_C: &str = "#include <stdio.h>\n#include <unistd.h>\nint \
                            main(void){printf(\"Effective uid: %d\\n\",geteuid());return 0;}\n";
/// Hooks call `curl URL`; Debian has no static one.
const CURL: &str = "#!/bin/sh\nexec wget -q -O - \"$@\"\n";
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n\
                     nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nuser:x:1000:\nnobody:x:65534:\n";

/// The names of the images below, as in their references between the last `/` and the tag.
const STAND_INS: [&str; 7] =
    ["agnhost", "busybox", "glibc-dns-testing", "nginx", "nonewprivs", "nonroot", "pause"];
/// How they are made: another number whenever what this file makes is not what it was.
const RECIPE: u32 = 1;
/// Letters of a digest that tell archives apart.
const KEY: usize = 16;

/// The programs that they are made of.
struct Parts {
    busybox: PathBuf,
    bash: PathBuf,
    agnhost: PathBuf,
}

/// A stand-in: the names of the images it stands for (between registry and tag), whose versions the
/// tests' program tells; its files; its configuration.
struct StandIn {
    names: &'static [&'static str],
    root: PathBuf,
    config: Value,
}

/// The archive with all of them.
pub(crate) struct Archive {
    file: PathBuf,
    /// A word that names its content.
    pub(crate) key: String,
    images: Vec<String>,
}

impl Archive {
    /// Makes it, unless it is there.
    pub(crate) fn make(programs: &Programs) -> Result<Self> {
        let [busybox, bash] = ["busybox", "bash-static"].map(on_path);
        let parts = Parts { busybox: busybox?, bash: bash?, agnhost: programs.file("agnhost") };
        let images = references(programs)?;
        let mut digests = format!("{RECIPE}\n{}", images.join("\n"));
        for file in [&parts.busybox, &parts.bash, &parts.agnhost] {
            let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            digests.push_str(&hex(&bytes));
        }
        let mut key = hex(digests.as_bytes());
        key.truncate(KEY);
        let file = programs.kept.join(format!("images-{key}.tar"));
        if !file.exists() {
            fs::create_dir_all(&programs.kept)?;
            for old in fs::read_dir(&programs.kept)?.flatten() {
                if old.file_name().to_string_lossy().starts_with("images-") {
                    fs::remove_file(old.path())?;
                }
            }
            let work = tempfile::tempdir_in(&programs.kept)?;
            let all = stand_ins(work.path(), &parts)?;
            let packed: Vec<Image> = all.iter().map(|one| one.image(&images)).collect();
            pack(&file, &packed);
        }
        Ok(Self { file, key, images })
    }

    /// Hands them to a containerd.
    pub(crate) fn import(&self, containerd: &Containerd) {
        containerd.import(&self.file, &self.images);
    }
}

impl StandIn {
    fn image(&self, images: &[String]) -> Image {
        let ours = images.iter().filter(|image| self.names.contains(&name(image)));
        let names = ours.cloned().collect();
        Image { names, root: self.root.clone(), config: self.config.clone() }
    }
}

/// A reference's word between its last `/` and its tag.
fn name(reference: &str) -> &str {
    let last = reference.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// The images that there are stand-ins for, as the tests of the pinned version name them.
fn references(programs: &Programs) -> Result<Vec<String>> {
    let output = Command::new(programs.file("e2e.test")).arg("--list-images").output()?;
    ensure!(output.status.success(), "e2e.test --list-images: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let mut all: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    // Another registry has an agnhost that must not be had without a password.
    all.retain(|image| image.starts_with("registry.k8s.io/") && STAND_INS.contains(&name(image)));
    all.sort();
    Ok(all)
}

fn on_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is missing: `make test-setup` installs it"))
}

fn stand_ins(work: &Path, parts: &Parts) -> Result<Vec<StandIn>> {
    let root = |name: &str| -> Result<PathBuf> {
        let root = work.join(name);
        base(&root, parts)?;
        Ok(root)
    };
    let config = |more: Value| {
        let mut config = json!({"Env": [PATH]});
        for (name, value) in more.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        config
    };
    let plain = root("plain")?;
    let agnhost_root = root("agnhost")?;
    add_agnhost(&agnhost_root, &parts.agnhost)?;
    let nginx = root("nginx")?;
    fs::create_dir_all(nginx.join("usr/share/nginx/html"))?;
    fs::write(nginx.join("usr/share/nginx/html/index.html"), "<title>Welcome to nginx!</title>\n")?;
    let nonewprivs = root("nonewprivs")?;
    compile(NONEWPRIVS_C, &nonewprivs.join("nnp"))?;
    fs::set_permissions(nonewprivs.join("nnp"), fs::Permissions::from_mode(0o4755))?;
    let pause = work.join("pause");
    fs::create_dir(&pause)?;
    compile(PAUSE_C, &pause.join("pause"))?;
    let all = vec![
        StandIn {
            names: &["busybox"],
            root: plain.clone(),
            config: config(json!({"Cmd": ["sh"]})),
        },
        StandIn {
            names: &["nonroot"],
            root: plain,
            config: config(json!({"User": "1234", "Cmd": ["id"]})),
        },
        StandIn {
            names: &["agnhost", "glibc-dns-testing"],
            root: agnhost_root,
            config: config(json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"]})),
        },
        StandIn {
            names: &["nginx"],
            root: nginx,
            config: config(
                json!({"Cmd": ["httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"]}),
            ),
        },
        StandIn {
            names: &["nonewprivs"],
            root: nonewprivs,
            config: config(json!({"User": "1000", "Entrypoint": ["/nnp"]})),
        },
        StandIn {
            names: &["pause"],
            root: pause,
            config: config(json!({"User": "65535:65535", "Entrypoint": ["/pause"]})),
        },
    ];
    Ok(all)
}

/// The folders of a system, busybox under each of its names, bash as the shell, three users.
fn base(root: &Path, parts: &Parts) -> Result<()> {
    for folder in
        ["bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "tmp", "usr/bin", "var"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(&parts.busybox, root.join("bin/busybox"))?;
    fs::copy(&parts.bash, root.join("bin/bash"))?;
    symlink("bash", root.join("bin/sh"))?;
    let names = Command::new(&parts.busybox).arg("--list").output()?.stdout;
    let names = String::from_utf8(names)?;
    for name in names.lines().filter(|name| !["busybox", "bash", "sh"].contains(name)) {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(root.join("etc/passwd"), USERS)?;
    fs::write(root.join("etc/group"), GROUPS)?;
    Ok(())
}

fn add_agnhost(root: &Path, agnhost: &Path) -> Result<()> {
    fs::copy(agnhost, root.join("agnhost"))?;
    symlink("agnhost", root.join("agnhost-2"))?;
    fs::create_dir(root.join("uploads"))?;
    let server = Authority::new("conformance").server("localhost", &["localhost", "127.0.0.1"]);
    fs::write(root.join("localhost.crt"), &server.certificate)?;
    fs::write(root.join("localhost.key"), &server.key)?;
    let curl = root.join("bin/curl");
    fs::write(&curl, CURL)?;
    fs::set_permissions(curl, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn compile(source: &str, program: &Path) -> Result<()> {
    let file = program.with_extension("c");
    fs::write(&file, source)?;
    let output = Command::new("gcc")
        .args(["-Os", "-static", "-s", "-o"])
        .arg(program)
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "gcc: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(file)?;
    Ok(())
}
