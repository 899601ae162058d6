//! The node in a real cluster. One control plane and one registry are started for all tests here;
//! each test that needs one has a node and a namespace of its own. `make test` builds what is run.

mod place;
mod smoke;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use copepod_tests::cluster::{ControlPlane, Options};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest};
use libtest_mimic::{Arguments, Trial};

/// Far longer than anything here takes, on a machine with other work too.
const SOON: Duration = Duration::from_secs(60);

/// Tests mostly wait for one another's programs, so more of them run at once than there are
/// processors; but not so many that a node's time is measured in others' work.
const THREADS: usize = 4;

/// What the tests share.
struct World {
    plane: ControlPlane,
    registry: Registry,
    home: Home,
    /// Pushed already, by name.
    images: Mutex<BTreeMap<String, String>>,
}

impl World {
    fn new() -> Self {
        Self {
            plane: ControlPlane::start(&Options::default()),
            registry: Registry::start(),
            home: Home::with_empty_cache(),
            images: Mutex::default(),
        }
    }

    /// The reference of an image with this guest (of `wasm-examples`), pushed when it is first
    /// asked for.
    #[track_caller]
    fn image(&self, name: &str) -> String {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get(name) {
            return image.clone();
        }
        let image = format!("{}/{name}:1", self.registry.host());
        let file = guest(name);
        let file = file.to_str().expect("a path in UTF-8");
        let output = self.home.copepod(["image", "push", file, &image]).output(SOON);
        assert!(output.status.success(), "{output:?}");
        images.insert(name.to_owned(), image.clone());
        image
    }
}

type Test = (&'static str, fn(&World));

/// Names each test as libtest would. One that is not listed is dead code, which the lint finds.
macro_rules! tests {
    ($($room:ident::$name:ident),* $(,)?) => {
        [$((concat!(stringify!($room), "::", stringify!($name)), $room::$name)),*]
    };
}

fn main() -> ExitCode {
    let tests: [Test; _] = tests![
        smoke::a_control_plane_serves_stops_comes_back_and_leaves_nothing,
        smoke::a_pod_without_a_node_stays_pending,
        smoke::a_node_has_rights_of_its_own_alone,
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let world: Arc<OnceLock<World>> = Arc::default();
    let trials = tests.map(|(name, test)| {
        let world = Arc::clone(&world);
        Trial::test(name, move || {
            test(world.get_or_init(World::new));
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    // Whatever failed, the control plane is ended and looked at.
    if let Some(world) = Arc::into_inner(world).and_then(OnceLock::into_inner) {
        world.plane.finish();
    }
    conclusion.exit_code()
}
