//! An ordinary user, with no right at all.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;

use copepod_tests::{Home, Run, copepod, wait_until};
use rustix::process::Signal;

use crate::guard::Guard;
use crate::survive::sandboxes;
use crate::{SOON, Scene, one};

/// Nobody in particular.
const UID: u32 = 54321;

#[test]
fn an_ordinary_user_runs_pods_in_the_same_jail() {
    // A cache of its own: the shared one belongs to whoever runs the tests.
    let home = Home::with_empty_cache();
    let scene = Scene { guard: Guard::new(&home), home };
    let file = scene.pod(&one(
        "files",
        "Never",
        "args: [write, /data/f, mine, --, read, /data/f]\nvolumeMounts: [{name: data, mountPath: /data}]",
    ));
    let with_volume = std::fs::read_to_string(&file).expect("reads")
        + "  volumes: [{name: data, emptyDir: {}}]\n";
    std::fs::write(&file, with_volume).expect("writes");
    give(&scene.home, UID);
    let output = as_user(&scene, file.to_str().expect("UTF-8")).output(SOON);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("mine"), "{text}");

    let file = scene.pod(&one("hello", "Always", "args: [--every, '50']"));
    let mut run = as_user(&scene, file.to_str().expect("UTF-8"));
    run.wait_line("count 2", SOON);
    let [pid] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };
    crate::jail::assert_jailed(pid);
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    wait_until(SOON, "nothing runs", || sandboxes(&scene.home).is_empty());
    scene.guard.finish();
}

fn give(home: &Home, uid: u32) {
    let mut dirs = vec![home.path().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        chown(&dir, Some(uid), Some(uid)).expect("the tests run as root");
        let below = std::fs::read_dir(&dir).expect("reads").flatten().map(|entry| entry.path());
        let (more, files): (Vec<_>, Vec<_>) = below.partition(|path| path.is_dir());
        for file in files {
            chown(&file, Some(uid), Some(uid)).expect("gives");
        }
        dirs.extend(more);
    }
}

fn as_user(scene: &Scene, file: &str) -> Run {
    // The programs lie where only their builder may look: copies of them lie in the open.
    let bin = scene.home.path().join("bin");
    std::fs::create_dir_all(&bin).expect("makes");
    for (from, name) in [(copepod(), "copepod"), (copepod_tests::sandbox(), "copepod-sandbox")] {
        std::fs::copy(from, bin.join(name)).expect("copies");
    }
    let mut command = scene.home.command(bin.join("copepod"));
    command.args(["run", file]).uid(UID).gid(UID);
    Run::spawn(command)
}
