//! Static pods of an address: `staticPodURL`, asked now and then.
//!
//! As upstream's `pkg/kubelet/config/http.go`, but that no failure ends a pod, an empty answer
//! included; that a wrong pod of a list harms no other; and that what an earlier agent had of the
//! address runs until it answers.

use std::sync::OnceLock;
use std::time::Duration;

use copepod_pod::{Origin, Source, full_name};
use k8s_openapi::api::core::v1::Pod;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode, Url};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Update;
use super::file::MAX_BYTES;
use super::manifest::{self, ManifestError};
use crate::telemetry::chain;

/// How long one answer may take (upstream).
const LIMIT: Duration = Duration::from_secs(10);
/// Failures in a row that are told; upstream is quiet after as many.
const TOLD: u32 = 3;

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct UrlOptions {
    /// The address.
    pub(crate) url: Url,
    /// What is sent along.
    pub(crate) headers: HeaderMap,
    /// How often it is asked.
    pub(crate) every: Duration,
    /// The node's name.
    pub(crate) node: String,
    /// The pods that an earlier agent had of it.
    pub(crate) kept: Vec<Pod>,
}

/// Why an answer is not used: what there is stays. Each names the address.
#[derive(Debug, Error)]
enum AskError {
    #[error("cannot make a client for {name}")]
    Client { name: String, source: reqwest::Error },
    #[error("no answer from {name}")]
    Send { name: String, source: reqwest::Error },
    #[error("{name}: {status}")]
    Status { name: String, status: StatusCode },
    #[error("the answer of {name} broke off")]
    Cut { name: String, source: reqwest::Error },
    #[error("the answer of {0} is longer than {MAX_BYTES} bytes")]
    TooLong(String),
    #[error("zero-length data received from {0}")]
    Empty(String),
    #[error("the answer of {0} is not UTF-8 text")]
    NotText(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Asks for pods and says what there is, whenever that changes. Starts one task, which ends with the
/// receiver.
pub(crate) fn follow(options: UrlOptions, updates: mpsc::Sender<Update>) {
    tokio::spawn(async move {
        let closed = updates.clone();
        let name = shown(&options.url);
        let client = OnceLock::new();
        let asker = Asker { options, name, client, answer: Vec::new(), pods: None, updates };
        tokio::select! {
            () = closed.closed() => {}
            _ = asker.run() => {}
        }
    });
}

struct Asker {
    options: UrlOptions,
    /// The address as it may be shown.
    name: String,
    client: OnceLock<Client>,
    /// The last answer that was looked at.
    answer: Vec<u8>,
    /// What was said last.
    pods: Option<Vec<Pod>>,
    updates: mpsc::Sender<Update>,
}

/// Nobody wants to know more.
struct Unwanted;

impl Asker {
    async fn run(mut self) -> Result<(), Unwanted> {
        let mut failures: u32 = 0;
        let mut round = interval(self.options.every);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            match self.ask().await {
                Ok(pods) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(url = self.name, "static pods are read again");
                    }
                    if let Some(pods) = pods {
                        self.say(pods, true).await?;
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    match failures {
                        ..=TOLD => {
                            tracing::warn!("static pods stay as they are: {}", chain(&error))
                        }
                        _ => tracing::debug!("static pods stay as they are: {}", chain(&error)),
                    }
                    if self.pods.is_none() {
                        let kept = std::mem::take(&mut self.options.kept);
                        self.say(kept, false).await?;
                    }
                }
            }
        }
    }

    async fn say(&mut self, pods: Vec<Pod>, is_seen: bool) -> Result<(), Unwanted> {
        self.pods = Some(pods.clone());
        let update = Update { source: Source::Http, pods, is_seen };
        self.updates.send(update).await.map_err(|_| Unwanted)
    }

    /// The pods that there are now; none if the answer is that of before.
    async fn ask(&mut self) -> Result<Option<Vec<Pod>>, AskError> {
        let answer = self.fetch().await?;
        if answer == self.answer {
            return Ok(None);
        }
        let name = self.name.clone();
        let text = std::str::from_utf8(&answer).map_err(|_| AskError::NotText(name.clone()))?;
        let UrlOptions { url, node, kept, .. } = &self.options;
        let manifest = manifest::any(&name, text, Origin::Url(url.as_str()), node)?;
        manifest.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let mut pods = manifest.pods;
        for bad in manifest.bad {
            let mut before = self.pods.iter().flatten().chain(kept);
            let before = before.find(|pod| Some(full_name(pod)) == bad.name);
            let error = chain(&bad.error);
            match before {
                Some(_) => tracing::error!(error, "this static pod stays as it was"),
                None => tracing::error!(error, "this is no static pod"),
            }
            pods.extend(before.cloned());
        }
        self.answer = answer;
        Ok(Some(pods))
    }

    async fn fetch(&mut self) -> Result<Vec<u8>, AskError> {
        let name = self.name.clone();
        let UrlOptions { url, headers, .. } = &self.options;
        let request = self.client()?.get(url.clone()).headers(headers.clone());
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        let mut response = sent.map_err(|source| AskError::Send { name: name.clone(), source })?;
        if response.status() != StatusCode::OK {
            return Err(AskError::Status { name, status: response.status() });
        }
        let mut answer = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if (answer.len() + chunk.len()) as u64 > MAX_BYTES => {
                    return Err(AskError::TooLong(name));
                }
                Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
                Ok(None) if answer.is_empty() => return Err(AskError::Empty(name)),
                Ok(None) => return Ok(answer),
                Err(error) => return Err(AskError::Cut { name, source: error.without_url() }),
            }
        }
    }

    /// Made when first used: reading this host's certificates takes milliseconds.
    fn client(&self) -> Result<&Client, AskError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // The one provider of TLS in this program; a second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent(concat!("copepod/", env!("CARGO_PKG_VERSION")))
            .referer(false)
            .timeout(LIMIT);
        let built = builder.build();
        let built = built.map_err(|source| AskError::Client { name: self.name.clone(), source })?;
        Ok(self.client.get_or_init(|| built))
    }
}

/// The address without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Of an address that cannot have them they are not there.
    let _ = (url.set_password(None), url.set_username(""));
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
#[path = "static_url_test.rs"]
mod tests;
