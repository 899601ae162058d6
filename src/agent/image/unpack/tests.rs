//! Archives as builders make them, and as attackers would.

use std::fs::{self, FileType};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// Layers on the disk, and where they are unpacked to.
struct Bench {
    dir: TempDir,
    layers: Vec<Layer>,
}

/// What a layer is made of: kind, path, target or text, mode.
type Entries<'a> = &'a [(EntryType, &'a str, &'a str, u32)];

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Link;
const SYMLINK: EntryType = EntryType::Symlink;

fn archive(entries: Entries<'_>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, text, mode) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000);
        // As it stands: the crate's own setters refuse what is hostile.
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let data = if *kind == FILE { text.as_bytes() } else { b"" };
        if matches!(*kind, LINK | SYMLINK) {
            let link = &mut header.as_gnu_mut().unwrap().linkname;
            link[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), layers: Vec::new() }
    }

    fn of(layers: &[Entries<'_>]) -> Self {
        let mut bench = Self::new();
        for entries in layers {
            bench.add(&archive(entries), Compression::None);
        }
        bench
    }

    fn add(&mut self, archive: &[u8], compression: Compression) {
        let packed = match compression {
            Compression::None => archive.to_vec(),
            Compression::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(archive).unwrap();
                gzip.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(archive, 1).unwrap(),
        };
        let digest = Digest::of(&packed);
        let path = self.dir.path().join(digest.hex());
        fs::write(&path, packed).unwrap();
        let diff_id = Digest::of(archive).to_string();
        self.layers.push(Layer { digest, path, compression, diff_id });
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self) -> Result<About, UnpackError> {
        unpack(&self.layers, &self.root())
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn kind(&self, path: &str) -> Option<FileType> {
        fs::symlink_metadata(self.root().join(path)).ok().map(|meta| meta.file_type())
    }

    /// The error's text; outside of the root nothing came to be.
    fn refused(&self) -> String {
        let error = self.unpack().unwrap_err();
        let mut there: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| self.layers.iter().all(|layer| layer.digest.hex() != name))
            .collect();
        there.sort();
        assert_eq!(there, ["root"]);
        crate::telemetry::chain(&error)
    }
}

#[test]
fn layers_lie_upon_one_another_however_they_are_packed() {
    let mut bench = Bench::new();
    let lower = archive(&[
        (DIR, "a/", "", 0o755),
        (FILE, "a/one", "1", 0o644),
        (FILE, "/abs/two", "2", 0o4755),
        (FILE, "./a.wasm", "\0asm\x01", 0o600),
        (SYMLINK, "a/link", "/abs/two", 0o777),
        (LINK, "a/hard", "a/one", 0o644),
    ]);
    bench.add(&lower, Compression::Gzip);
    bench.add(&archive(&[(FILE, "a/one", "new", 0o640), (DIR, "a", "", 0o555)]), Compression::Zstd);
    bench.add(&archive(&[(FILE, "b/c/d.wasm", "text", 0o644)]), Compression::None);
    let about = bench.unpack().unwrap();
    assert_eq!(about, About { bytes: about.bytes, wasm: vec!["/a.wasm".into()] });
    assert_eq!((bench.text("a/one").as_str(), bench.text("a/hard").as_str()), ("new", "1"));
    assert_eq!(fs::read_link(bench.root().join("a/link")).unwrap(), Path::new("../abs/two"));
    let meta = |path: &str| fs::metadata(bench.root().join(path)).unwrap();
    assert_eq!(meta("abs/two").permissions().mode() & 0o7777, 0o755, "no setuid");
    assert_eq!(meta("abs/two").mtime(), 1_000_000);
    assert_eq!(meta("a/one").permissions().mode() & 0o7777, 0o640);
    assert_eq!(meta("a").permissions().mode() & 0o7777, 0o755, "the agent can write");
    assert_eq!(meta("a/one").uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn whiteouts_hide_what_lies_below_and_nothing_else() {
    let bench = Bench::of(&[
        &[
            (FILE, "gone", "", 0o644),
            (FILE, "dir/gone/deep", "", 0o644),
            (FILE, "opaque/old", "", 0o644),
            (FILE, "opaque/sub/old", "", 0o644),
            (FILE, "kept", "k", 0o644),
        ],
        &[
            (FILE, "opaque/new", "n", 0o644),
            (FILE, "opaque/sub/new", "n", 0o644),
            (FILE, ".wh.gone", "", 0o644),
            (FILE, "dir/.wh.gone", "", 0o644),
            (FILE, "opaque/.wh..wh..opq", "", 0o644),
            (FILE, ".wh..wh.plnk", "", 0o644),
            (FILE, ".wh.never-there", "", 0o644),
            (FILE, "no/such/.wh.dir", "", 0o644),
        ],
    ]);
    bench.unpack().unwrap();
    let there = |path| bench.kind(path).is_some();
    for gone in ["gone", "dir/gone", "opaque/old", "opaque/sub/old", ".wh.gone", ".wh..wh.plnk"] {
        assert!(!there(gone), "{gone}");
    }
    for kept in ["dir", "kept", "opaque/new", "opaque/sub/new"] {
        assert!(there(kept), "{kept}");
    }
}

#[test]
fn links_lead_nowhere_but_into_the_image() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let out = outside.path().to_str().unwrap();
    let up = "../../../../../../../../../../../..";
    let far = format!("{up}{out}");
    let bench = Bench::of(&[&[
        (SYMLINK, "abs", out, 0o777),
        (SYMLINK, "rel", &far, 0o777),
        (SYMLINK, "self", "self", 0o777),
        (SYMLINK, "etc", "real", 0o777),
        (DIR, "real", "", 0o755),
        (FILE, "etc/in", "i", 0o644),
    ]]);
    bench.unpack().unwrap();
    assert_eq!(bench.text("real/in"), "i", "through a link within the image");
    // Neither writes through a link nor removes what lies behind one.
    for (kind, path) in [(FILE, "abs/x"), (FILE, "rel/x"), (DIR, "abs/x"), (FILE, "abs/.wh.secret")]
    {
        let links = [(SYMLINK, "abs", out, 0o777), (SYMLINK, "rel", far.as_str(), 0o777)];
        let bench = Bench::of(&[&[links[0], links[1], (kind, path, "x", 0o644)]]);
        let _ = bench.unpack();
        assert_eq!(fs::read_dir(out).unwrap().count(), 1, "{path}");
    }
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "s");
    // A link that is replaced is not followed, and a hard link finds nothing outside.
    let secret = format!("{out}/secret");
    let bench = Bench::of(&[&[(SYMLINK, "l", &secret, 0o777), (FILE, "l", "mine", 0o644)]]);
    bench.unpack().unwrap();
    assert_eq!(bench.text("l"), "mine");
    let bench = Bench::of(&[&[(LINK, "h", &secret, 0o644)]]);
    assert!(bench.refused().contains("which is no file of the image"));
    let bench = Bench::of(&[&[(SYMLINK, "l", out, 0o777), (LINK, "h", "l/secret", 0o644)]]);
    assert!(bench.refused().contains("which is no file of the image"));
}

#[test]
fn each_hostile_entry_is_refused_by_its_name() {
    for (entry, text) in [
        ((FILE, "../x", "", 0), "entry \"../x\": it leads out of the image (..)"),
        ((FILE, "a/../../x", "", 0), "it leads out of the image"),
        ((LINK, "x", "../../etc/passwd", 0), "it leads out of the image"),
        ((EntryType::Char, "null", "", 0), "entry \"null\": a device, which no guest gets"),
        ((EntryType::Block, "sda", "", 0), "a device"),
        ((EntryType::Fifo, "pipe", "", 0), "a fifo"),
        ((EntryType::GNUSparse, "s", "", 0), "a sparse file"),
        ((EntryType::new(b'Z'), "s", "", 0), "of a kind that is not served"),
        ((SYMLINK, "l", "", 0), "a link to nothing"),
        ((FILE, "", "x", 0), "it stands for the root"),
        ((FILE, ".wh...", "", 0), "a whiteout of nothing"),
        ((LINK, "h", "dir", 0), "which is no file of the image"),
    ] {
        let bench = Bench::of(&[&[(DIR, "dir", "", 0o755), entry]]);
        let said = bench.refused();
        assert!(said.contains(text), "{said}");
    }
}

/// An archive of an entry for a long name or records, and a file after it.
fn noted(kind: u8, note: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, data) in [(EntryType::new(kind), note), (FILE, &b"x"[..])] {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path("short").unwrap();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

#[test]
fn long_names_are_read_in_both_forms_and_bounded() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    for archive in
        [noted(b'L', format!("{long}\0").as_bytes()), noted(b'x', &record("path", &long))]
    {
        let mut bench = Bench::new();
        bench.add(&archive, Compression::None);
        bench.unpack().unwrap();
        assert_eq!(bench.text(&long), "x");
    }
    let deep = "d/".repeat(200);
    for (archive, text) in [
        (noted(b'L', &[b'a'; 5000]), "a path of more than 4095 bytes"),
        (noted(b'L', &vec![b'a'; 32 << 20]), "a path of more than 4095 bytes"),
        (noted(b'x', &vec![b'1'; 2 << 20]), "PAX records are cut off or larger than 1 MiB"),
        (noted(b'x', &record("path", "../up")), "it leads out of the image"),
        (noted(b'x', &record("size", "99999999999")), "it is too large"),
        (noted(b'x', &record("GNU.sparse.major", "1")), "a sparse file"),
        (noted(b'L', deep.as_bytes()), "deeper than 128 directories"),
        (noted(b'L', &[b'a'; 256]), "a name of more than 255 bytes"),
    ] {
        let mut bench = Bench::new();
        bench.add(&archive, Compression::None);
        let said = bench.refused();
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn bombs_and_damage_end_early() {
    // 300 MiB of zeros, in less than one.
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(300 << 20);
    header.set_cksum();
    builder.append(&header, io::repeat(0).take(300 << 20)).unwrap();
    let zeros = builder.into_inner().unwrap();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut bench = Bench::new();
        bench.add(&zeros, compression);
        let said = bench.refused();
        assert!(said.contains("bytes unpack to more than"), "{said}");
    }

    let good = archive(&[(FILE, "a", "text", 0o644)]);
    let mut cut = Bench::new();
    cut.add(&good[..512 + 2], Compression::None);
    assert!(cut.refused().contains("entry \"a\": cut off"));
    let mut wrong = Bench::new();
    wrong.add(&good, Compression::None);
    wrong.layers[0].diff_id = format!("sha256:{}", "0".repeat(64));
    assert!(wrong.refused().contains("expected sha256:0000"));
    let mut unlike = Bench::new();
    unlike.add(&good, Compression::None);
    unlike.layers[0].compression = Compression::Gzip;
    assert!(unlike.refused().contains("cannot unpack: invalid gzip header"));
    let mut noise = Bench::new();
    noise.add(&[7; 2048], Compression::None);
    assert!(noise.refused().contains("cannot unpack: "));
}

#[test]
fn the_number_of_files_is_bounded() {
    let entries: Vec<_> = (0..=ENTRIES_MAX).map(|_| (DIR, "d", "", 0o755)).collect();
    let bench = Bench::of(&[&entries]);
    assert!(bench.refused().ends_with("more than 100000 files in the image"));
}
