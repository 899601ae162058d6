//! The pull of an image: one at a time for all who ask for the same with the same credentials.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_cri as cri;
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, TryFutureExt};
use thiserror::Error;
use tonic::{IntoRequest, Status};

use super::error::pull_text;
use super::{Images, Wanted};
use crate::image::Repository;
use crate::image::credentials::{Candidate, Credentials, CredentialsError, PullSecrets};
use crate::image::gate::TooOften;
use crate::telemetry::chain;

/// Longest pull: upstream has no bound, and a runtime gives up one without progress by itself. Tens
/// of gigabytes over a thin line come within it; one that hangs does not hold up the others forever.
const PULL_MAX: Duration = Duration::from_secs(24 * 3600);

/// An image that was pulled just now.
#[derive(Clone, Debug)]
pub(super) struct Landed {
    /// What the runtime calls it.
    pub(super) image_ref: String,
    /// What the runtime says of it, if it does.
    pub(super) image: Option<cri::Image>,
    /// How long the pull took, once its turn had come.
    pub(super) took: Duration,
}

/// Why an image was not pulled.
#[derive(Debug, Error)]
pub(super) enum PullFailure {
    /// A secret is not one.
    #[error("{}", chain(.0))]
    Credentials(CredentialsError),
    /// More pulls were begun than may be.
    #[error(transparent)]
    TooOften(#[from] TooOften),
    /// What the runtime says, of each candidate, each text once (upstream `utilerrors.Aggregate`).
    #[error("{}", aggregate(.0))]
    Refused(Vec<Status>),
    /// The runtime says that it has it, but not as what.
    #[error("imageRef of image {0:?} is not set")]
    NoReference(String),
}

fn aggregate(all: &[Status]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in all.iter().map(pull_text) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// The same image by the same handler with the same secrets.
type Key = (String, String, Option<String>);
type Flight = Shared<BoxFuture<'static, Result<Landed, Arc<PullFailure>>>>;

/// The pulls under way; each leaves when it has ended.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Flight>>);

impl Flights {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        // A panic elsewhere leaves it whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that a pull needs once its asker is gone.
struct Order {
    spec: cri::ImageSpec,
    repository: Repository,
    secrets: Option<PullSecrets>,
    sandbox: Option<cri::PodSandboxConfig>,
}

impl Images {
    /// Pulls an image, or joins the pull of it that is under way.
    ///
    /// # Errors
    /// [`PullFailure`].
    pub(super) async fn pull(
        &self,
        spec: &cri::ImageSpec,
        repository: Repository,
        wanted: Wanted<'_>,
    ) -> Result<Landed, Arc<PullFailure>> {
        let secrets = wanted.secrets.map(|secrets| secrets.id().to_string());
        let key = (spec.image.clone(), spec.runtime_handler.clone(), secrets);
        let flight = {
            let mut flights = self.flights.lock();
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let order = Order {
                        spec: spec.clone(),
                        repository,
                        secrets: wanted.secrets.cloned(),
                        sandbox: wanted.sandbox.cloned(),
                    };
                    let flight = self.start(key.clone(), order);
                    flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    /// A pull as a task of its own.
    fn start(&self, key: Key, order: Order) -> Flight {
        let images = self.clone();
        let task = tokio::spawn(async move {
            let landed = images.fly(order).await;
            images.flights.lock().remove(&key);
            landed.map_err(Arc::new)
        });
        // It is not aborted, but for an end of the whole event loop.
        task.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic())).boxed().shared()
    }

    async fn fly(&self, order: Order) -> Result<Landed, PullFailure> {
        let found = self.keyring.candidates(&order.repository, order.secrets.as_ref()).await;
        let candidates = found.map_err(PullFailure::Credentials)?.all;
        let _turn = self.gate.turn(&order.spec.image).await;
        self.gate.begin()?;
        let began = Instant::now();
        let image_ref = self.try_all(&order, &candidates).await?;
        // Its size and user; who has neither still runs.
        let image = match self.status(&order.spec).await {
            Ok(image) => image,
            Err(status) => {
                let error = pull_text(&status);
                tracing::warn!(image = order.spec.image, error, "cannot look at a pulled image");
                None
            }
        };
        Ok(Landed { image_ref, image, took: began.elapsed() })
    }

    /// Pulls with each candidate, then without any. What is refused without is told only where
    /// nobody had any.
    async fn try_all(
        &self,
        order: &Order,
        candidates: &[Candidate],
    ) -> Result<String, PullFailure> {
        let mut refused = Vec::new();
        for candidate in candidates.iter().map(Some).chain([None]) {
            match self.once(order, candidate).await {
                Ok(image_ref) if image_ref.is_empty() => {
                    return Err(PullFailure::NoReference(order.spec.image.clone()));
                }
                Ok(image_ref) => return Ok(image_ref),
                Err(_) if candidate.is_none() && !refused.is_empty() => {}
                Err(status) => refused.push(status),
            }
        }
        Err(PullFailure::Refused(refused))
    }

    async fn once(&self, order: &Order, candidate: Option<&Candidate>) -> Result<String, Status> {
        let auth = candidate.map(|candidate| match candidate.credentials.clone() {
            Credentials::Basic { username, password } => {
                cri::AuthConfig { username, password, ..cri::AuthConfig::default() }
            }
            Credentials::Identity(identity_token) => {
                cri::AuthConfig { identity_token, ..cri::AuthConfig::default() }
            }
        });
        let request = cri::PullImageRequest {
            image: Some(order.spec.clone()),
            auth,
            sandbox_config: order.sandbox.clone(),
        };
        let mut client = self.client.clone();
        let call = client.pull_image(request.into_request());
        match tokio::time::timeout(PULL_MAX, call).await {
            Ok(answer) => Ok(answer?.into_inner().image_ref),
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        }
    }
}
