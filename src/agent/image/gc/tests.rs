//! Rounds over stores that are lists.

use std::sync::Mutex;

use futures_util::FutureExt;

use super::*;

#[derive(Default)]
struct Listed {
    images: Mutex<Vec<Found>>,
    disk: Mutex<Option<Disk>>,
    broken: bool,
}

impl Listed {
    fn new(disk: u64, available: u64, images: &[(&str, u64)]) -> Arc<Self> {
        let images = images.iter().map(|(id, bytes)| Found {
            id: (*id).to_owned(),
            bytes: *bytes,
            ..Found::default()
        });
        let disk = Disk { id: disk, capacity: 1000, available };
        Arc::new(Self {
            images: Mutex::new(images.collect()),
            disk: Mutex::new(Some(disk)),
            broken: false,
        })
    }

    fn ids(&self) -> Vec<String> {
        self.images.lock().unwrap().iter().map(|image| image.id.clone()).collect()
    }
}

impl GcStore for Listed {
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, StoreFailure>> {
        async { Ok(self.images.lock().unwrap().clone()) }.boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreFailure>> {
        async move {
            if self.broken {
                return Err("read-only".into());
            }
            self.images.lock().unwrap().retain(|image| image.id != id);
            Ok(true)
        }
        .boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Result<Disk, StoreFailure>> {
        async { self.disk.lock().unwrap().ok_or_else(|| "no disk".into()) }.boxed()
    }
}

const POLICY: Policy =
    Policy { high: 85, low: 80, min_age: Duration::ZERO, max_age: Duration::ZERO };

async fn round(
    stores: &[&Arc<Listed>],
    policy: Policy,
    in_use: &[&str],
) -> (Result<(), String>, Vec<Told>) {
    let stores = stores.iter().map(|one| Arc::clone(one) as Arc<dyn GcStore>).collect();
    let mut collector = Collector::new(stores, policy);
    let told = Mutex::new(Vec::new());
    let in_use = in_use.iter().map(|name| (*name).to_owned()).collect();
    let result = collector.collect(&in_use, &|one| told.lock().unwrap().push(one)).await;
    (result.map_err(|e| chain(&e)), told.into_inner().unwrap())
}

#[tokio::test]
async fn a_full_disk_is_freed_of_what_is_not_used() {
    let store = Listed::new(1, 100, &[("a", 60), ("b", 60), ("c", 60)]);
    assert_eq!(round(&[&store], POLICY, &["a"]).await, (Ok(()), vec![]));
    assert_eq!(store.ids(), ["a"], "a hundred bytes are two images");
    let roomy = Listed::new(1, 200, &[("a", 60)]);
    assert_eq!(round(&[&roomy], POLICY, &[]).await, (Ok(()), vec![]));
    assert_eq!(roomy.ids(), ["a"]);
}

#[tokio::test]
async fn stores_of_one_disk_free_it_together() {
    let (ours, theirs) = (Listed::new(1, 150, &[("w", 30)]), Listed::new(1, 150, &[("o", 20)]));
    assert_eq!(round(&[&ours, &theirs], POLICY, &[]).await, (Ok(()), vec![]));
    assert_eq!(ours.ids().len() + theirs.ids().len(), 0);
    let (ours, theirs) = (Listed::new(1, 150, &[("w", 50)]), Listed::new(2, 500, &[("o", 20)]));
    assert_eq!(round(&[&ours, &theirs], POLICY, &[]).await, (Ok(()), vec![]));
    assert_eq!((ours.ids().len(), theirs.ids().len()), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_freed_is_told() {
    let store = Listed::new(1, 100, &[("a", 60), ("b", 60)]);
    let (result, told) = round(&[&store], POLICY, &["a"]).await;
    let text = "Insufficient free disk space on the node's image filesystem (90% of 1000 B used). \
                Failed to free sufficient space by deleting unused images (freed 60 bytes). \
                Investigate disk usage, as it could be used by active images, logs, volumes, or \
                other data.";
    assert_eq!(result.unwrap_err(), text);
    assert_eq!(told, [Told { reason: "FreeDiskSpaceFailed", message: text.into() }]);
    let empty = Listed::new(1, 0, &[]);
    empty.disk.lock().unwrap().as_mut().unwrap().capacity = 0;
    let (result, told) = round(&[&empty], POLICY, &[]).await;
    assert_eq!(result.unwrap_err(), "invalid capacity 0 on image filesystem");
    assert_eq!(told[0].reason, "InvalidDiskCapacity");
    let broken = Listed { broken: true, ..Arc::into_inner(store).unwrap() };
    let (result, told) = round(&[&Arc::new(broken)], POLICY, &[]).await;
    let text = "wanted to free 100 bytes, but freed 0 bytes space with errors in image deletion: \
                read-only";
    assert_eq!((result.unwrap_err().as_str(), told), (text, vec![]));
}

#[tokio::test]
async fn what_was_pulled_just_now_stays() {
    let store = Listed::new(1, 0, &[("a", 600)]);
    let policy = Policy { min_age: Duration::from_secs(120), ..POLICY };
    let (result, _) = round(&[&store], policy, &[]).await;
    assert!(result.is_err());
    assert_eq!(store.ids(), ["a"]);
}

#[tokio::test]
async fn the_second_failure_in_a_row_is_an_event() {
    let store = Arc::new(Listed::default());
    let told = Mutex::new(Vec::new());
    let mut collector = Collector::new(vec![store.clone()], POLICY);
    let message = "cannot read the image filesystem: no disk".to_owned();
    let failed = Told { reason: "ImageGCFailed", message };
    for expected in [vec![], vec![failed]] {
        collector.round(Ok(BTreeSet::new()), &|one| told.lock().unwrap().push(one)).await;
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), expected);
    }
    *store.disk.lock().unwrap() = Some(Disk { id: 1, capacity: 10, available: 9 });
    for in_use in [Ok(BTreeSet::new()), Err("no list".into())] {
        collector.round(in_use, &|one| told.lock().unwrap().push(one)).await;
        assert_eq!(*told.lock().unwrap(), [], "a first failure again");
    }
    let off = Collector::new(Vec::new(), Policy { high: 100, ..POLICY });
    run(off, async || Ok(BTreeSet::new()), |_| {}).await;
}
