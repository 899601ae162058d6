//! The store with real files, as one agent and as several.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use super::*;

struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        Self { dir, store }
    }

    /// A blob that came whole.
    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut ingest = self.store.ingest(&digest, bytes.len() as u64).unwrap();
        ingest.write(&bytes[usize::try_from(ingest.have()).unwrap()..]).unwrap();
        ingest.finish().unwrap();
        digest
    }

    /// An artefact of so many bytes, used so long ago.
    fn image(&self, name: &str, bytes: usize, age_s: u64) -> Digest {
        let wasm = [name.as_bytes(), &vec![0; bytes - name.len()]].concat();
        let (config, wasm) = (self.put(b"{}"), self.put(&wasm));
        let manifest = json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config.to_string(), "size": 2},
            "layers": [{"mediaType": "application/wasm", "digest": wasm.to_string(), "size": bytes}],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        self.store.add(&digest, &manifest).unwrap();
        self.store.name(name, &digest, &manifest).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age_s);
        let file = OpenOptions::new().append(true).open(self.store.blob(&digest)).unwrap();
        file.set_modified(then).unwrap();
        digest
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.store.list().unwrap().into_iter().map(|named| named.name).collect();
        names.sort();
        names
    }

    fn count(&self, below: &str) -> usize {
        fs::read_dir(self.store.dir.join(below)).unwrap().count()
    }
}

#[test]
fn a_blob_goes_on_where_it_was_cut_off() {
    let bench = Bench::new();
    let bytes = b"all of the bytes";
    let digest = Digest::of(bytes);
    let begin = || bench.store.ingest(&digest, bytes.len() as u64).unwrap();
    let mut first = begin();
    first.write(&bytes[..7]).unwrap();
    // Another agent meanwhile: it begins anew, and both may finish.
    let mut second = begin();
    assert_eq!((first.have(), second.have()), (7, 0));
    second.write(bytes).unwrap();
    second.finish().unwrap();
    drop(first);
    // A process that another test starts at this moment has the lock until it is its program.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut third = begin();
    while third.have() == 0 && Instant::now() < deadline {
        std::thread::yield_now();
        third = begin();
    }
    assert_eq!(third.have(), 7);
    third.go_on_at(7).unwrap();
    third.write(&bytes[7..]).unwrap();
    assert!(third.is_whole());
    third.finish().unwrap();
    assert!(bench.store.has(&digest, bytes.len() as u64));
    assert_eq!(bench.store.read(&digest, 99).unwrap().unwrap(), bytes);
    assert_eq!((bench.count("blobs/sha256"), bench.count("ingest")), (1, 0));
    // A registry that cannot go on begins anew.
    let mut fourth = begin();
    fourth.write(b"xx").unwrap();
    fourth.go_on_at(0).unwrap();
    fourth.write(bytes).unwrap();
    fourth.finish().unwrap();
}

#[test]
fn what_is_not_what_it_should_be_leaves_nothing() {
    let bench = Bench::new();
    let digest = Digest::of(b"expected");
    let begin = || bench.store.ingest(&digest, 8).unwrap();
    let mut wrong = begin();
    wrong.write(b"deceptio").unwrap();
    let said = wrong.finish().unwrap_err().to_string();
    assert!(said.contains("its bytes have the digest sha256:"), "{said}");
    let mut long = begin();
    assert!(long.write(b"deception").unwrap_err().to_string().ends_with("more than its 8 bytes"));
    drop(long);
    let mut short = begin();
    short.write(b"dec").unwrap();
    assert!(short.finish().unwrap_err().to_string().ends_with("3 bytes, expected 8"));
    assert_eq!((bench.count("blobs/sha256"), bench.count("ingest")), (0, 0));
    fs::write(bench.store.dir.join("ingest").join(digest.hex()), "longer than that").unwrap();
    assert_eq!(begin().have(), 0);
}

#[test]
fn the_least_recently_used_go_first_and_none_in_use() {
    let bench = Bench::new();
    let old = bench.image("old", 1000, 300);
    bench.image("middle", 1000, 200);
    bench.image("new", 1000, 100);
    let hold = bench.store.hold(&old).unwrap();
    // Held, and used just now: the others are older.
    let gone = bench.store.shrink_to(2800, false).unwrap();
    assert_eq!(gone.images, ["middle"]);
    assert_eq!(bench.names(), ["new", "old"]);
    let gone = bench.store.prune().unwrap();
    assert_eq!(gone.images, ["new"]);
    assert!(gone.bytes > 1000);
    drop(hold);
    assert_eq!(bench.store.prune().unwrap().images, ["old"]);
    assert_eq!((bench.count("blobs/sha256"), bench.names().len()), (0, 0));
}

#[test]
fn nothing_goes_while_somebody_looks() {
    let bench = Bench::new();
    bench.image("a", 100, 10);
    let presence = bench.store.enter().unwrap();
    assert_eq!(bench.store.prune().unwrap(), Collected::default());
    // Another agent on the same store sees it too.
    let other = Store::open(bench.dir.path().join("images")).unwrap();
    assert_eq!(other.list().unwrap().len(), 1);
    drop(presence);
    assert_eq!(bench.store.prune().unwrap().images, ["a"]);
}

#[test]
fn what_nobody_names_goes() {
    let bench = Bench::new();
    let shared = bench.put(b"{}");
    bench.image("a", 100, 10);
    bench.image("b", 200, 10);
    let stray = bench.put(b"stray");
    fs::write(bench.store.dir.join("ingest/unfinished-x"), "x").unwrap();
    assert!(bench.store.unname("a").unwrap());
    assert!(!bench.store.unname("a").unwrap());
    bench.store.collect().unwrap();
    assert!(!bench.store.has(&stray, 5) && bench.store.has(&shared, 2));
    assert_eq!((bench.count("blobs/sha256"), bench.count("ingest")), (3, 0));
    assert_eq!(bench.names(), ["b"]);
    // A name that leads elsewhere now leaves its old image to nobody.
    bench.image("b", 300, 10);
    bench.store.collect().unwrap();
    assert_eq!(bench.count("blobs/sha256"), 3);
}

#[test]
fn damage_is_named() {
    let bench = Bench::new();
    let manifest = bench.image("a", 100, 10);
    fs::write(bench.store.blob(&manifest), "spoilt").unwrap();
    assert_eq!(bench.store.manifest(&manifest).unwrap(), None, "it is asked for again");
    let said = bench.store.read(&manifest, 99).unwrap_err().to_string();
    assert!(said.contains("is damaged: remove it"), "{said}");
    fs::write(bench.store.dir.join("index.json"), "[]").unwrap();
    let said = bench.store.list().unwrap_err().to_string();
    assert!(said.ends_with("index.json is damaged: remove it"), "{said}");
}

#[test]
fn unpacked_files_belong_to_their_manifest() {
    let bench = Bench::new();
    let manifest = bench.image("a", 100, 10);
    let about = About { bytes: 500, wasm: vec!["/x.wasm".into()] };
    for _ in 0..2 {
        let dir = bench.store.unpacking().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        bench.store.keep_files(dir, &manifest, &about).unwrap();
    }
    let (root, found) = bench.store.files(&manifest).unwrap().unwrap();
    assert!(root.is_dir() && found == about);
    assert_eq!((bench.count("files"), bench.count("ingest")), (1, 0));
    let gone = bench.store.prune().unwrap();
    assert!(gone.bytes >= 600, "{gone:?}");
    assert_eq!(bench.count("files"), 0);
}
