//! What the pods run: the guest `actor` as a static Linux program of an ordinary image and as Wasm,
//! and servers; all in a registry of the run's own, the usual ones known to each node beforehand.
//!
//! A scenario names `ACTOR`, `HTTP` (serves on 8080), `GRPC` (ordinary alone, 5000), `PULL-X` (an actor
//! that is in the registry only) or `MISSING` (in none).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use copepod_tests::cluster::images::{Image, pack, program_root};
use copepod_tests::cluster::{Containerd, ControlPlane};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest, guest_program};
use serde_json::json;

use crate::scenario::{Column, Scenario};

/// For a push, on a machine with other work too.
const SOON: Duration = Duration::from_secs(60);
/// The words that name an image, the first letters of one.
const USUAL: [&str; 3] = ["ACTOR", "HTTP", "GRPC"];
pub(crate) const PULL: &str = "PULL-";
const MISSING: &str = "MISSING";

/// The registry with them, and the archive for a containerd.
pub(crate) struct Images {
    registry: Registry,
    archive: PathBuf,
}

/// Whether it is the word of an image.
pub(crate) fn is_word(text: &str) -> bool {
    USUAL.contains(&text) || text == MISSING || text.starts_with(PULL)
}

impl Images {
    /// Makes and pushes what the scenarios name.
    #[track_caller]
    pub(crate) fn push(plane: &ControlPlane, scenarios: &[Scenario]) -> Self {
        let work = tempfile::tempdir_in(plane.dir()).expect("made");
        let registry = Registry::start();
        let archive = work.keep().join("oracle.tar");
        let images = Self { registry, archive };
        let pulled: BTreeSet<String> = scenarios.iter().flat_map(|one| one.images(PULL)).collect();
        let folder = images.archive.parent().expect("a folder").to_owned();
        let root = program_root(&folder.join("actor"), &guest_program("actor"));
        pack(&images.archive, &images.usual(&folder, &root));
        let later: Vec<Image> = pulled.iter().map(|word| images.pulled(word, &root)).collect();
        let archive = folder.join("pulled.tar");
        if !later.is_empty() {
            pack(&archive, &later);
        }
        for word in &pulled {
            push_ordinary(&archive, &images.name(word, Column::Ordinary));
            images.push_wasm("actor", &images.name(word, Column::Wasm));
        }
        images.push_wasm("actor", &images.name("ACTOR", Column::Wasm));
        images.push_wasm("http", &images.name("HTTP", Column::Wasm));
        images
    }

    /// Its registry's host and port.
    pub(crate) fn host(&self) -> String {
        self.registry.host()
    }

    /// The reference that a word stands for.
    pub(crate) fn name(&self, word: &str, column: Column) -> String {
        let kind = if column == Column::Wasm { "w" } else { "o" };
        format!("{}/{kind}-{}:1", self.host(), word.to_lowercase())
    }

    fn usual(&self, folder: &Path, actor: &Path) -> [Image; 3] {
        let e2e = std::env::var_os("COPEPOD_E2E").expect("COPEPOD_E2E: see the Makefile");
        let grpc = program_root(&folder.join("grpc"), &Path::new(&e2e).join("agnhost"));
        let image = |word: &str, root: &Path, command: &[&str]| Image {
            names: vec![self.name(word, Column::Ordinary)],
            root: root.to_owned(),
            config: json!({"Entrypoint": command}),
        };
        [
            image("ACTOR", actor, &["/actor"]),
            image("HTTP", actor, &["/actor", "serve", "8080"]),
            image("GRPC", &grpc, &["/agnhost", "grpc-health-checking"]),
        ]
    }

    /// Of the same files, and yet another image: one of the same configuration would be known by
    /// both names.
    fn pulled(&self, word: &str, actor: &Path) -> Image {
        Image {
            names: vec![self.name(word, Column::Ordinary)],
            root: actor.to_owned(),
            config: json!({"Entrypoint": ["/actor"], "Labels": {"for": word}}),
        }
    }

    fn push_wasm(&self, guest_name: &str, name: &str) {
        let file = guest(guest_name);
        let args = ["image", "push", file.to_str().expect("UTF-8"), name];
        let output = Home::new().copepod(args).output(SOON);
        assert!(output.status.success(), "{output:?}");
    }

    /// Hands the usual ordinary ones to a containerd.
    pub(crate) fn import(&self, containerd: &Containerd) {
        let names = USUAL.map(|word| self.name(word, Column::Ordinary));
        containerd.import(&self.archive, &names);
    }
}

fn push_ordinary(archive: &Path, name: &str) {
    let output = Command::new("skopeo")
        .args(["copy", "--dest-tls-verify=false"])
        .arg(format!("docker-archive:{}:{name}", archive.display()))
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo of `make test-setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
