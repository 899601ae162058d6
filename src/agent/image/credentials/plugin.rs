//! Credential provider plugins: programs of this node that know the credentials of images (upstream
//! `pkg/credentialprovider/plugin`). One is asked over its standard input and answers in JSON
//! (`credentialprovider.kubelet.k8s.io`); what it answers is kept as long as it says.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::place::Place;
use super::{Candidate, Credentials};
use crate::image::reference::Repository;
use crate::image::registry::shown;
use crate::telemetry::chain;

/// Longest run of a plugin (upstream's: it may ask a cloud, and try again).
const RUN_MAX: Duration = Duration::from_secs(60);
/// Largest answer: credentials of some thousand places.
const ANSWER_MAX: u64 = 1 << 20;
/// Most of a plugin's own words on its failure that are read.
const WORDS_MAX: u64 = 4 << 10;
/// Most answers of a plugin that are kept: one for each image of a node that has many.
const KEPT_MAX: usize = 1024;
/// The key of an answer that is good for every image (upstream `globalCacheKey`).
const GLOBAL: &str = "<global>";

/// A plugin, as the node's configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginOptions {
    /// Its name.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// `credentialprovider.kubelet.k8s.io/v1` or an older version: both sides speak it.
    pub(crate) api_version: String,
    /// For which images it is asked: `HOST[:PORT][/PATH]` with `*` in the host's labels.
    pub(crate) match_images: Vec<String>,
    /// How long its answers are kept that do not say; zero: not at all.
    pub(crate) default_cache: Duration,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Variables beside the agent's own.
    pub(crate) env: Vec<(String, String)>,
}

/// Why a plugin gave nothing.
#[derive(Debug, Error)]
enum PluginError {
    #[error("error execing credential provider plugin {0}")]
    Run(String, #[source] io::Error),
    #[error("credential provider plugin {0} took longer than {seconds} s", seconds = RUN_MAX.as_secs())]
    Slow(String),
    #[error("credential provider plugin {plugin}: {status}: {words}")]
    Failed { plugin: String, status: String, words: String },
    #[error("credential provider plugin {0}: an answer of more than {ANSWER_MAX} bytes")]
    TooLarge(String),
    #[error("error decoding credential provider plugin response from stdout of {0}: {1}")]
    Answer(String, String),
}

/// What a plugin is asked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'a str,
    api_version: &'a str,
    image: &'a str,
}

/// What it answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: CacheKey,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Auth>>,
}

/// For what an answer is good.
#[derive(Clone, Copy, Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Clone, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Auth {
    username: String,
    password: String,
}

/// An answer that is kept.
struct Kept {
    places: Vec<(Place, Candidate)>,
    until: Instant,
}

/// A plugin and what it answered. One run at a time: who waits finds the answer there.
pub(super) struct Plugin {
    options: PluginOptions,
    matches: Vec<Place>,
    kept: Mutex<HashMap<String, Kept>>,
}

impl Plugin {
    /// Not asked yet.
    pub(super) fn new(options: PluginOptions) -> Self {
        let matches = options.match_images.iter().map(|place| Place::parse(place)).collect();
        Self { options, matches, kept: Mutex::default() }
    }

    /// For people.
    pub(super) fn label(&self) -> String {
        format!("credential provider {}", self.options.name)
    }

    /// What it knows for a repository; nothing, with a word in the log, where it fails.
    pub(super) async fn provide(&self, repository: &Repository) -> Vec<(Place, Candidate)> {
        if !self.matches.iter().any(|place| place.holds(repository)) {
            return Vec::new();
        }
        let Repository { host, name } = repository;
        let image = format!("{host}/{name}");
        let mut kept = self.kept.lock().await;
        let now = Instant::now();
        kept.retain(|_, answer| answer.until > now);
        for key in [&image, host, GLOBAL] {
            if let Some(answer) = kept.get(key) {
                return answer.places.clone();
            }
        }
        match self.ask(&image).await {
            Ok(response) => {
                let key = match response.cache_key_type {
                    CacheKey::Image => image,
                    CacheKey::Registry => host.clone(),
                    CacheKey::Global => GLOBAL.to_owned(),
                };
                let (places, holds) = self.read(response);
                let until = Instant::now().checked_add(holds);
                if let Some(until) = until.filter(|_| !holds.is_zero() && kept.len() < KEPT_MAX) {
                    kept.insert(key, Kept { places: places.clone(), until });
                }
                places
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(image, error, "cannot get credentials from a plugin");
                Vec::new()
            }
        }
    }

    /// An answer's credentials, and how long they are kept.
    fn read(&self, response: Response) -> (Vec<(Place, Candidate)>, Duration) {
        let said = response.cache_duration.as_deref().map(|text| match text {
            "0" => Duration::ZERO,
            // Go's form; one that cannot be read or is over asks for nothing to be kept.
            text => text
                .parse::<SignedDuration>()
                .ok()
                .and_then(|duration| Duration::try_from(duration).ok())
                .unwrap_or_default(),
        });
        let from = self.label();
        let each =
            response.auth.into_iter().flatten().map(|(place, Auth { username, password })| {
                let credentials = Credentials::Basic { username, password };
                (Place::parse(&place), Candidate { credentials, from: from.clone() })
            });
        (each.collect(), said.unwrap_or(self.options.default_cache))
    }

    async fn ask(&self, image: &str) -> Result<Response, PluginError> {
        let PluginOptions { name, api_version, .. } = &self.options;
        let request = Request { kind: "CredentialProviderRequest", api_version, image };
        let mut request = serde_json::to_vec(&request).unwrap_or_default();
        request.push(b'\n');
        let run = timeout(RUN_MAX, self.run(&request)).await;
        let answer = run.map_err(|_| PluginError::Slow(name.clone()))??;
        let wrong = |text: String| PluginError::Answer(name.clone(), text);
        // Never serde's words: they may hold a part of the answer.
        let response: Response = serde_json::from_slice(&answer)
            .map_err(|e| wrong(format!("line {}: not a response", e.line())))?;
        if response.kind != "CredentialProviderResponse" {
            return Err(wrong(format!("unexpected Kind: {:?}", shown(&response.kind))));
        }
        if response.api_version != *api_version {
            return Err(wrong(format!(
                "apiVersion from credential plugin response did not match expected \
                 apiVersion:{api_version}, actual apiVersion:{}",
                shown(&response.api_version)
            )));
        }
        Ok(response)
    }

    /// Runs it to its end; killed where the caller waits no more.
    async fn run(&self, request: &[u8]) -> Result<Vec<u8>, PluginError> {
        let PluginOptions { name, program, args, env, .. } = &self.options;
        let failed = |source| PluginError::Run(name.clone(), source);
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let ask = async {
            if let Some(mut stdin) = stdin.take() {
                // One that does not read its question may still know the answer.
                let _ = stdin.write_all(request).await;
            }
        };
        let (answer, words) = (child.stdout.take(), child.stderr.take());
        let ((), answer, words, status) =
            tokio::join!(ask, all(answer, ANSWER_MAX + 1), all(words, WORDS_MAX), child.wait());
        let status = status.map_err(failed)?;
        if !status.success() {
            let words = shown(&String::from_utf8_lossy(&words.unwrap_or_default()));
            let status = status.to_string();
            return Err(PluginError::Failed { plugin: name.clone(), status, words });
        }
        let answer = answer.map_err(failed)?;
        if answer.len() as u64 > ANSWER_MAX {
            return Err(PluginError::TooLarge(name.clone()));
        }
        Ok(answer)
    }
}

/// The first `max` bytes of a stream; the rest is read and let go, so that who writes it is not
/// held up.
async fn all(stream: Option<impl AsyncRead + Unpin>, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(max).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}
