//! Images prepared for real: this test program is the compile job.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use copepod_wasm::GuestKind;
use tempfile::TempDir;

use super::*;
use crate::image::job::JobError;
use crate::linux::compile_jail::Limits;

#[expect(unreachable_pub, reason = "the integration tests take the same file from their crate")]
#[path = "../../../tests/bomb.rs"]
mod bomb;

const LIMITS: &str = "COPEPOD_TEST_JOB_LIMITS";
/// An empty command: a function () -> () exported as `_start`.
const COMMAND: &[u8] =
    b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

/// An image that is a path counted from `base`.
fn request<'a>(image: &'a str, base: &'a Path) -> ImageRequest<'a> {
    ImageRequest { image, base, policy: PullPolicy::IfNotPresent, command: None, secrets: None }
}

/// A folder with images, a cache, and a program that is the compile job.
struct Bench {
    dir: TempDir,
    program: PathBuf,
}

impl Bench {
    /// The program is this one, as [`as_the_job`]; each run of it adds a line to the file `runs`.
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let test = std::env::current_exe().unwrap();
        // The test harness talks on descriptor 1, so the artefact goes to descriptor 9.
        let script = format!(
            "#!/bin/sh\necho run >>'{}'\nexec 9>&1 >/dev/null\nexport {LIMITS}='{} {}'\n\
             exec '{}' --exact image::tests::as_the_job --nocapture\n",
            runs.display(),
            limits.memory_bytes,
            limits.cpu_seconds,
            test.display(),
        );
        let program = dir.path().join("program");
        executable(&program, &script);
        Self { dir, program }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at(name), bytes).unwrap();
    }

    fn images(&self) -> Images {
        Images::open(self.at("cache"), self.program.clone()).unwrap()
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.at("runs")).map_or(0, |text| text.lines().count())
    }

    fn cache_files(&self) -> usize {
        fs::read_dir(self.at("cache")).unwrap().count()
    }

    async fn fails(&self, name: &str) -> ImageError {
        let error =
            self.images().prepare(request(name, self.dir.path()), &Quiet).await.unwrap_err();
        assert_eq!(self.cache_files(), 0, "something was left of {name}");
        error
    }
}

/// Written by a process of its own: a descriptor open for writing that another test's fork
/// inherited would make the program "busy".
fn executable(path: &Path, text: &str) {
    let mut cat = Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 700 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(cat.wait().unwrap().success());
}

fn text(error: &ImageError) -> String {
    crate::telemetry::chain(error)
}

/// Is the compile job when [`Bench`]'s program runs it; as a test of its own it is nothing.
#[test]
fn as_the_job() {
    let Ok(limits) = std::env::var(LIMITS) else { return };
    let (memory, cpu) = limits.split_once(' ').unwrap();
    let limits =
        Limits { memory_bytes: memory.parse().unwrap(), cpu_seconds: cpu.parse().unwrap() };
    let wasm = fs::File::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let artefact = fs::File::options().write(true).open("/proc/self/fd/9").unwrap();
    std::process::exit(compiler::confined(&limits, wasm, Some(artefact)).into());
}

#[tokio::test]
async fn an_image_is_compiled_once_and_found_then() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let images = bench.images();
    let prepare = || images.prepare(request("./x.wasm", bench.dir.path()), &Quiet);
    let (one, two) = tokio::join!(prepare(), prepare());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.cached != two.cached, bench.runs()), (true, 1));
    assert_eq!((one.kind, one.image.as_str()), (GuestKind::P1Command, "./x.wasm"));
    assert_eq!((one.image_id.len(), &one.image_id[..7]), (7 + 64, "sha256:"));
    assert_eq!((&one.artefact, one.bytes), (&two.artefact, COMMAND.len() as u64));
    let artefact = fs::read(&one.artefact).unwrap();
    assert_eq!(
        wasmtime::Engine::detect_precompiled(&artefact),
        Some(wasmtime::Precompiled::Module)
    );

    // Another agent finds it too, and once it is gone it is compiled anew.
    let other = bench.images();
    let found = other.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap();
    assert!(found.cached);
    fs::remove_file(&found.artefact).unwrap();
    assert!(!prepare().await.unwrap().cached);
    assert_eq!((bench.runs(), bench.cache_files()), (2, 1));
}

#[tokio::test]
async fn a_changed_file_is_another_image() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let images = bench.images();
    let first = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap();
    // The same module with a custom section.
    bench.write("x.wasm", &[COMMAND, b"\0\x02\x01x"].concat());
    let second = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap();
    assert!(!second.cached && first.image_id != second.image_id);
    assert!(first.artefact.exists() && second.artefact.exists());
}

#[tokio::test]
async fn two_agents_at_once_are_harmless() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let (a, b) = (bench.images(), bench.images());
    let (one, two) = tokio::join!(
        a.prepare(request("./x.wasm", bench.dir.path()), &Quiet),
        b.prepare(request("./x.wasm", bench.dir.path()), &Quiet)
    );
    assert_eq!(one.unwrap().artefact, two.unwrap().artefact);
    assert_eq!(bench.cache_files(), 1);
}

#[tokio::test]
async fn what_is_no_guest_is_refused_with_its_reason() {
    let bench = Bench::new(Limits::JOB);
    bench.write("cut.wasm", &COMMAND[..COMMAND.len() - 2]);
    bench.write("script.wasm", b"#!/bin/sh\n");
    bench.write("empty.wasm", b"");
    // Its function leaves a value on the stack: only the compiler looks there.
    let wrong = [&COMMAND[..COMMAND.len() - 6], b"\x0a\x06\x01\x04\0\x41\0\x0b"].concat();
    bench.write("wrong.wasm", &wrong);
    for (name, said) in [
        ("./cut.wasm", "image ./cut.wasm: malformed Wasm at byte 34: unexpected end"),
        ("./script.wasm", "image ./script.wasm: not a Wasm binary: a script"),
        ("./empty.wasm", "image ./empty.wasm: not a Wasm binary: the file is empty"),
        ("./wrong.wasm", "compiling ./wrong.wasm: failed to compile: wasm[0]::function[0]: "),
    ] {
        let error = bench.fails(name).await;
        assert!(text(&error).starts_with(said), "{}", text(&error));
        assert_eq!(error.reason(), "ErrImagePull");
    }
}

#[tokio::test]
async fn only_regular_files_are_read() {
    let bench = Bench::new(Limits::JOB);
    fs::create_dir(bench.at("dir.wasm")).unwrap();
    assert!(Command::new("mkfifo").arg(bench.at("fifo.wasm")).status().unwrap().success());
    assert!(fs::metadata(bench.at("fifo.wasm")).unwrap().file_type().is_fifo());
    let large = fs::File::create(bench.at("large.wasm")).unwrap();
    large.set_len(input::BYTES_MAX + 1).unwrap();
    for (name, said) in [
        ("./dir.wasm", "dir.wasm is a directory, expected a regular file"),
        ("./fifo.wasm", "fifo.wasm is a fifo, expected a regular file"),
        ("/dev/null", "/dev/null is a device, expected a regular file"),
        ("./none.wasm", "none.wasm: No such file or directory (os error 2)"),
        ("./large.wasm", "larger than 256 MiB"),
    ] {
        let error = text(&bench.fails(name).await);
        assert!(error.ends_with(said), "{error}");
    }
    assert_eq!(bench.runs(), 0);
}

#[tokio::test]
async fn a_bomb_ends_at_either_limit() {
    let memory = Bench::new(Limits { memory_bytes: 256 << 20, cpu_seconds: 60 });
    let time = Bench::new(Limits { memory_bytes: 3 << 29, cpu_seconds: 1 });
    for bench in [&memory, &time] {
        bench.write("bomb.wasm", &bomb::compile_bomb());
    }
    let (by_memory, by_time) = tokio::join!(memory.fails("./bomb.wasm"), time.fails("./bomb.wasm"));
    assert_eq!(text(&by_memory), "compiling ./bomb.wasm: needs more than 1.5 GiB of memory");
    assert_eq!(text(&by_time), "compiling ./bomb.wasm: took more than 60 s of CPU time");
}

#[tokio::test]
async fn a_job_that_lies_about_its_input_is_not_believed() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let report = r#"{"digest":"00","kind":"http"}"#;
    let program = bench.at("liar");
    executable(&program, &format!("#!/bin/sh\necho code\necho '{report}' >&2\n"));
    let images = Images::open(bench.at("cache"), program).unwrap();
    let error = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error:?}");
    assert_eq!(bench.cache_files(), 0);
}

#[tokio::test]
async fn a_flood_of_text_is_cut_and_a_missing_program_is_named() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let program = bench.at("flood");
    executable(&program, "#!/bin/sh\nexec >&2\nwhile echo 0123456789; do :; done\nexit 1\n");
    let images = Images::open(bench.at("cache"), program).unwrap();
    let error = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap_err();
    assert!(text(&error).len() < 4096, "{}", text(&error).len());
    let images = Images::open(bench.at("cache"), bench.at("nowhere")).unwrap();
    let error = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap_err();
    assert!(matches!(error, ImageError::Compile { source: JobError::Run("start", _), .. }));
}

#[tokio::test]
async fn progress_hears_the_end_of_a_failed_job_and_nothing_of_a_found_artefact() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Progress for Heard {
        fn begin(&self, stage: Stage, what: &str, bytes: u64) {
            self.0.lock().unwrap().push(format!("{stage:?} {what} {bytes}"));
        }
        fn at(&self, _bytes: u64) {}
        fn done(&self) {
            self.0.lock().unwrap().push("done".into());
        }
    }
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    bench.write("y.wasm", b"?");
    let (images, heard) = (bench.images(), Heard::default());
    for name in ["./x.wasm", "./x.wasm", "./y.wasm"] {
        let _ = images.prepare(request(name, bench.dir.path()), &heard).await;
    }
    let begun = format!("Compile ./x.wasm {}", COMMAND.len());
    assert_eq!(*heard.0.lock().unwrap(), [&begun, "done", "Compile ./y.wasm 1", "done"]);
}

#[tokio::test]
async fn an_abandoned_compile_leaves_nothing() {
    let bench = Bench::new(Limits::JOB);
    bench.write("bomb.wasm", &bomb::compile_bomb());
    let images = bench.images();
    let prepare = images.prepare(request("./bomb.wasm", bench.dir.path()), &Quiet);
    let began = async {
        while bench.runs() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = prepare => panic!("it ended: {result:?}"),
        () = began => {}
    }
    assert_eq!(bench.cache_files(), 0);
    // The turn is free again.
    bench.write("x.wasm", COMMAND);
    assert!(images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.is_ok());
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let images = bench.images();
    // Gone under its feet: that holds for root as well, as a read-only mode does not.
    fs::remove_dir(bench.at("cache")).unwrap();
    let error = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap_err();
    assert!(
        text(&error).starts_with("cache of compiled images: cannot make a file in "),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn what_runs_is_compiled_again_for_a_command_beside_it() {
    let bench = Bench::new(Limits::JOB);
    bench.write("x.wasm", COMMAND);
    let images = bench.images();
    let prepared = images.prepare(request("./x.wasm", bench.dir.path()), &Quiet).await.unwrap();
    // As another agent knows of it.
    let kept = serde_json::to_vec(&prepared.used()).unwrap();
    let used: UsedImage = serde_json::from_slice(&kept).unwrap();
    let programs = Programs::of(Some(&used), prepared.tree());
    let own = Some((prepared.artefact.clone(), prepared.kind));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let artefact = fs::File::options().write(true).open(&prepared.artefact).unwrap();
    artefact.set_modified(long_ago).unwrap();
    assert_eq!(images.program(&programs, "x").await.unwrap(), own);
    assert_ne!(fs::metadata(&prepared.artefact).unwrap().modified().unwrap(), long_ago);

    fs::remove_file(&prepared.artefact).unwrap();
    assert_eq!(images.program(&programs, "x").await.unwrap(), own);
    assert!(prepared.artefact.exists());
    assert_eq!(bench.runs(), 2);
    // Another file at its place is not what runs.
    fs::remove_file(&prepared.artefact).unwrap();
    bench.write("x.wasm", &[COMMAND, b"\0\x02\x01x"].concat());
    let error = images.program(&programs, "x").await.unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error:?}");
    // One that an older agent started is run as it is kept.
    assert_eq!(images.program(&Programs::of(None, None), "x").await.unwrap(), None);
}
