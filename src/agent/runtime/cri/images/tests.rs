//! Images of a runtime that is a list: what it is asked for, and what is made of its answers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};

use super::gc::{in_use, sandbox_image};
use super::*;
use crate::image::credentials::NodeFiles;
use crate::image::gate::PullLimits;
use crate::image::gc::GcStore;

type Answer = Result<Vec<u8>, (Code, String)>;
type Registry = dyn Fn(&cri::PullImageRequest) -> Result<(), (Code, String)> + Send + Sync;

/// An image service, and the registry behind it.
struct Fake {
    here: Mutex<Vec<cri::Image>>,
    calls: Mutex<Vec<String>>,
    pulls: Mutex<Vec<cri::PullImageRequest>>,
    /// What a pull gives.
    registry: Box<Registry>,
    /// Each pull takes one.
    leave: Semaphore,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

fn image(name: &str) -> cri::Image {
    cri::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        repo_digests: vec![format!("{name}@sha256:d")],
        size: 77,
        username: "web".into(),
        ..cri::Image::default()
    }
}

impl Fake {
    fn new(
        here: &[&str],
        registry: impl Fn(&cri::PullImageRequest) -> Result<(), (Code, String)> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            here: Mutex::new(here.iter().map(|name| image(name)).collect()),
            calls: Mutex::default(),
            pulls: Mutex::default(),
            registry: Box::new(registry),
            leave: Semaphore::new(1000),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    fn images(self: &Arc<Self>, limits: PullLimits) -> Images {
        let fake = Arc::clone(self);
        let wire = tower::service_fn(move |request: Request<Body>| {
            let fake = Arc::clone(&fake);
            async move { Ok::<_, WireError>(fake.serve(request).await) }
        });
        let keyring = Arc::new(Keyring::new(NodeFiles::Node(Vec::new()), Vec::new()));
        let gate = Arc::new(Gate::new(limits));
        Images::over(BoxCloneSyncService::new(wire), keyring, gate, Duration::from_secs(60))
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        // One byte that says whether it is compressed, four of the length.
        let answer = self.answer(&method, &body[5..]).await;
        self.calls.lock().unwrap().push(method);
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        match answer {
            Ok(message) => {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                let frame = [&[0][..], &length, &message].concat();
                let end = HeaderMap::from_iter([(
                    HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static("0"),
                )]);
                let end = std::future::ready(Some(Ok(end)));
                *response.body_mut() = Body::new(Full::new(frame.into()).with_trailers(end));
            }
            Err((code, text)) => {
                let code = HeaderValue::from(i32::from(code));
                response.headers_mut().insert("grpc-status", code);
                response.headers_mut().insert("grpc-message", text.parse().unwrap());
            }
        }
        response
    }

    async fn answer(&self, method: &str, body: &[u8]) -> Answer {
        match method {
            "ImageStatus" => {
                let asked = cri::ImageStatusRequest::decode(body).unwrap().image.unwrap().image;
                if asked.starts_with("broken") {
                    return Err((Code::Unavailable, "no socket".into()));
                }
                let here = self.here.lock().unwrap();
                let image = here.iter().find(|image| image.repo_tags.contains(&asked)).cloned();
                let answer = cri::ImageStatusResponse { image, ..Default::default() };
                Ok(answer.encode_to_vec())
            }
            "PullImage" => self.pull(cri::PullImageRequest::decode(body).unwrap()).await,
            "ListImages" => {
                let images = self.here.lock().unwrap().clone();
                Ok(cri::ListImagesResponse { images }.encode_to_vec())
            }
            "RemoveImage" => {
                let asked = cri::RemoveImageRequest::decode(body).unwrap().image.unwrap().image;
                self.here.lock().unwrap().retain(|image| image.id != asked);
                Ok(cri::RemoveImageResponse {}.encode_to_vec())
            }
            "ImageFsInfo" => {
                let fs_id = Some(cri::FilesystemIdentifier { mountpoint: "/".into() });
                let usage = cri::FilesystemUsage { fs_id, ..Default::default() };
                let answer = cri::ImageFsInfoResponse {
                    image_filesystems: vec![usage],
                    ..Default::default()
                };
                Ok(answer.encode_to_vec())
            }
            other => panic!("{other}"),
        }
    }

    async fn pull(&self, request: cri::PullImageRequest) -> Answer {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        self.pulls.lock().unwrap().push(request.clone());
        self.leave.acquire().await.unwrap().forget();
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        (self.registry)(&request)?;
        let name = request.image.unwrap().image;
        let image = image(&name);
        let image_ref = image.id.clone();
        self.here.lock().unwrap().push(image);
        Ok(cri::PullImageResponse { image_ref }.encode_to_vec())
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

fn wanted(image: &str, policy: PullPolicy) -> Wanted<'_> {
    Wanted { image, policy, secrets: None, sandbox: None, handler: "", annotations: None }
}

fn secrets(users: &[&str]) -> PullSecrets {
    let of = |user: &&str| {
        let auths = serde_json::json!({"auths": {"h.io": {"username": user, "password": "p"}}});
        let data = [(".dockerconfigjson".to_owned(), ByteString(auths.to_string().into()))];
        Arc::new(Secret {
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            data: Some(data.into()),
            ..Secret::default()
        })
    };
    PullSecrets::new(users.iter().map(of).collect()).unwrap()
}

async fn refused(images: &Images, wanted: Wanted<'_>) -> (&'static str, String) {
    let error = images.prepare(wanted, &|| ()).await.unwrap_err();
    (error.reason(), error.to_string())
}

#[tokio::test]
async fn the_policy_says_who_is_asked() {
    let fake = Fake::new(&["h.io/here:1"], |_| Ok(()));
    let images = fake.images(PullLimits::default());
    let told = AtomicUsize::new(0);
    let tell = || {
        told.fetch_add(1, Ordering::SeqCst);
    };
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let prepared = images.prepare(wanted("h.io/here:1", policy), &tell).await.unwrap();
        let expected = OrdinaryImage {
            image_ref: "sha256:h.io/here:1".into(),
            image: "h.io/here:1".into(),
            image_id: "h.io/here:1@sha256:d".into(),
            user: ImageUser::Name("web".into()),
            bytes: 77,
            pulled: None,
        };
        assert_eq!(prepared, expected);
        assert_eq!(fake.calls(), ["ImageStatus"]);
    }
    assert_eq!(told.load(Ordering::SeqCst), 0);
    for (name, policy, calls) in [
        ("h.io/new", PullPolicy::IfNotPresent, &["ImageStatus", "PullImage", "ImageStatus"][..]),
        ("h.io/here:1", PullPolicy::Always, &["PullImage", "ImageStatus"]),
    ] {
        let prepared = images.prepare(wanted(name, policy), &tell).await.unwrap();
        assert_eq!(prepared.pulled.unwrap().bytes, 77);
        assert!(prepared.image_ref.starts_with(&format!("sha256:{name}")));
        assert_eq!(fake.calls(), calls);
    }
    assert_eq!(told.load(Ordering::SeqCst), 2);
    assert_eq!(fake.pulls.lock().unwrap()[0].image.as_ref().unwrap().image, "h.io/new:latest");
    assert!(images.has("h.io/new").await && !images.has("h.io/other").await);
}

#[tokio::test]
async fn failures_have_upstreams_reasons_and_texts() {
    let fake = Fake::new(&[], |request| {
        let name = &request.image.as_ref().unwrap().image;
        let (code, text) = match name.as_str() {
            "h.io/gone:1" => (Code::NotFound, "not here"),
            "h.io/away:1" => (Code::Unknown, "RegistryUnavailable: dial tcp"),
            "h.io/signed:1" => (Code::Unknown, "SignatureValidationFailed: no key"),
            _ => (Code::Unknown, "no luck"),
        };
        Err((code, text.to_owned()))
    });
    let images = fake.images(PullLimits::default());
    let fails = async |image: &str, policy| refused(&images, wanted(image, policy)).await;
    let text = "Failed to apply default image tag \"a b\": couldn't parse image name \"a b\": \
                invalid reference format";
    assert_eq!(fails("a b", PullPolicy::Always).await, ("InvalidImageName", text.into()));
    let text = "Container image \"h.io/x\" is not present with pull policy of Never";
    assert_eq!(fails("h.io/x", PullPolicy::Never).await, ("ErrImageNeverPull", text.into()));
    let text = "Failed to inspect image \"\": rpc error: code = Unavailable desc = no socket";
    let failed = fails("broken", PullPolicy::IfNotPresent).await;
    assert_eq!(failed, ("ImageInspectError", text.into()));
    for (image, reason, text) in [
        ("h.io/gone:1", "ErrImagePull", "rpc error: code = NotFound desc = not here"),
        (
            "h.io/away:1",
            "RegistryUnavailable",
            "image pull failed for h.io/away:1 because the registry is unavailable: dial tcp",
        ),
        (
            "h.io/signed:1",
            "SignatureValidationFailed",
            "image pull failed for h.io/signed:1 because the signature validation failed: no key",
        ),
        ("h.io/other:1", "ErrImagePull", "no luck"),
    ] {
        assert_eq!(fails(image, PullPolicy::Always).await, (reason, text.to_owned()));
    }
}

#[tokio::test]
async fn each_credential_is_tried_and_then_none() {
    let user = |request: &cri::PullImageRequest| request.auth.clone().map(|auth| auth.username);
    let fake = Fake::new(&[], move |request| match user(request).as_deref() {
        Some("good") => Ok(()),
        Some(name) => Err((Code::Unknown, format!("not {name}"))),
        None if request.image.as_ref().unwrap().image.contains("open") => Ok(()),
        None => Err((Code::Unknown, "nobody".into())),
    });
    let images = fake.images(PullLimits::default());
    let with = async |image: &str, users: &[&str]| {
        let secrets = secrets(users);
        let wanted = Wanted { secrets: Some(&secrets), ..wanted(image, PullPolicy::Always) };
        let result = images.prepare(wanted, &|| ()).await;
        let users = fake.pulls.lock().unwrap().drain(..).map(|pull| user(&pull)).collect();
        (result.map(|image| image.image_ref).map_err(|e| e.to_string()), users)
    };
    let tried = |users: &[&str], none: bool| -> Vec<Option<String>> {
        let none = none.then_some(None);
        users.iter().map(|user| Some((*user).to_owned())).chain(none).collect()
    };
    let (result, users) = with("h.io/x", &["bad", "good", "other"]).await;
    assert_eq!((result.is_ok(), users), (true, tried(&["bad", "good"], false)));
    let (result, users) = with("h.io/open", &["bad"]).await;
    assert_eq!((result.is_ok(), users), (true, tried(&["bad"], true)));
    let (result, users) = with("h.io/x", &["a", "b"]).await;
    assert_eq!((result, users), (Err("[not a, not b]".into()), tried(&["a", "b"], true)));
    let (result, users) = with("other.io/x", &["a"]).await;
    assert_eq!((result, users), (Err("nobody".into()), tried(&[], true)), "not for that registry");
}

#[tokio::test]
async fn one_pull_serves_all_who_ask_for_the_same() {
    let fake = Fake::new(&[], |_| Ok(()));
    let images = fake.images(PullLimits::default());
    fake.leave.forget_permits(1000);
    let one = || images.prepare(wanted("h.io/x:1", PullPolicy::IfNotPresent), &|| ());
    let release = async {
        while fake.pulls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        fake.leave.add_permits(1);
    };
    let (all, ()) = tokio::join!(join_all((0..9).map(|_| one())), release);
    assert!(all.iter().all(|one| one.as_ref().is_ok_and(|image| image.pulled.is_some())));
    assert_eq!(fake.pulls.lock().unwrap().len(), 1);
    // Other secrets open for themselves.
    fake.leave.add_permits(9);
    fake.here.lock().unwrap().clear();
    let (a, b) = (secrets(&["a"]), secrets(&["b"]));
    let with =
        |secrets| Wanted { secrets: Some(secrets), ..wanted("h.io/x:1", PullPolicy::IfNotPresent) };
    let (first, second) =
        tokio::join!(images.prepare(with(&a), &|| ()), images.prepare(with(&b), &|| ()));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(fake.pulls.lock().unwrap().len(), 3);
    assert!(images.flights.lock().is_empty());
}

#[tokio::test]
async fn pulls_go_one_by_one_or_so_many_at_a_time() {
    for (at_once, most) in [(Some(1), 1), (Some(3), 3), (None, 7)] {
        let fake = Fake::new(&[], |_| Ok(()));
        let images = fake.images(PullLimits { at_once, ..PullLimits::default() });
        fake.leave.forget_permits(1000);
        let names: Vec<String> = (0..7).map(|n| format!("h.io/x:{n}")).collect();
        let all = names.iter().map(|name| images.prepare(wanted(name, PullPolicy::Always), &|| ()));
        let release = async {
            while fake.at_once.load(Ordering::SeqCst) < most {
                tokio::task::yield_now().await;
            }
            fake.leave.add_permits(7);
        };
        let (all, ()) = tokio::join!(join_all(all), release);
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(fake.most_at_once.load(Ordering::SeqCst), most, "{at_once:?}");
    }
}

#[tokio::test]
async fn more_pulls_than_may_be_are_refused() {
    let fake = Fake::new(&[], |_| Ok(()));
    let images = fake.images(PullLimits { at_once: None, per_second: 1, burst: 2 });
    let mut reasons = Vec::new();
    for n in 0..3 {
        let name = format!("h.io/x:{n}");
        let result = images.prepare(wanted(&name, PullPolicy::Always), &|| ()).await;
        reasons.push(result.err().map(|e| (e.reason(), e.to_string())));
    }
    assert_eq!(reasons, [None, None, Some(("ErrImagePull", "pull QPS exceeded".to_owned()))]);
}

#[tokio::test]
async fn a_pull_goes_on_when_its_asker_ends() {
    let fake = Fake::new(&[], |_| Ok(()));
    let images = fake.images(PullLimits::default());
    fake.leave.forget_permits(1000);
    {
        let asked = images.prepare(wanted("h.io/x:1", PullPolicy::IfNotPresent), &|| ());
        let mut asked = std::pin::pin!(asked);
        while fake.pulls.lock().unwrap().is_empty() {
            assert!(futures_util::poll!(asked.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    fake.leave.add_permits(1);
    while fake.here.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let again = images.prepare(wanted("h.io/x:1", PullPolicy::IfNotPresent), &|| ()).await;
    assert!(again.is_ok());
    assert_eq!(fake.pulls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_collector_and_the_status_see_its_images() {
    let fake = Fake::new(&["h.io/a:1", "h.io/b:1"], |_| Ok(()));
    let images = fake.images(PullLimits::default());
    let found = GcStore::found(&images).await.unwrap();
    assert_eq!(found[0].id, "sha256:h.io/a:1");
    assert_eq!(found[0].names, ["h.io/a:1", "h.io/a:1@sha256:d"]);
    assert!(GcStore::disk(&images).await.unwrap().capacity > 0);
    assert!(GcStore::remove(&images, "sha256:h.io/a:1").await.unwrap());
    let listed = images.container_images().await.unwrap();
    let names = listed[0].names.clone().unwrap();
    assert_eq!(
        (names, listed[0].size_bytes),
        (vec!["h.io/b:1@sha256:d".into(), "h.io/b:1".into()], Some(77))
    );
    assert_eq!(listed.len(), 1);
}

#[test]
fn what_is_in_use_is_told_by_containers_and_sandboxes() {
    let container = |image_ref: &str, image_id: &str, image: &str| cri::Container {
        image_ref: image_ref.into(),
        image_id: image_id.into(),
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        ..Default::default()
    };
    let all =
        [container("sha256:a", "", "h.io/a:1"), container("h.io/b@sha256:d", "sha256:b", "x")];
    let used = in_use(&all, Some("pause:3"));
    let expected =
        ["sha256:a", "h.io/a:1", "h.io/b@sha256:d", "sha256:b", "x", "pause:3"].map(str::to_owned);
    assert_eq!(used, expected.into());
    for (config, expected) in [
        (r#"{"sandboxImage":"pause:3"}"#, Some("pause:3")),
        (r#"{"pinnedImages":{"sandbox":"pause:4"}}"#, Some("pause:4")),
        ("{}", None),
        ("nonsense", None),
    ] {
        let info = [("config".to_owned(), config.to_owned())].into();
        assert_eq!(sandbox_image(&info).as_deref(), expected);
    }
    assert_eq!(sandbox_image(&BTreeMap::new()), None);
}
