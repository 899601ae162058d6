//! The connection to the runtime, and one call of it: a deadline each, an error with the method's
//! name, in upstream's words.

use std::path::PathBuf;
use std::time::Duration;

use copepod_cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use super::images::go_text;

/// Largest message that is taken from a runtime, in bytes (upstream: `maxMsgSize`).
const MESSAGE_MAX: usize = 16 << 20;

/// What containerd says of a verb that it has in name only.
const UNIMPLEMENTED: &str = "not implemented";

/// Why a call failed.
#[derive(Debug, Error)]
pub(crate) enum CriError {
    /// The endpoint's address is none that can be reached.
    #[error("{endpoint:?} is no endpoint: expected unix:///PATH")]
    Endpoint {
        /// As it was configured.
        endpoint: String,
    },
    /// The runtime said no, or was not there. In the words of Go's gRPC, which is what people match.
    #[error("{}", go_text(status))]
    Call {
        /// The CRI verb.
        method: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    Deadline {
        /// The CRI verb.
        method: &'static str,
    },
    /// An answer that lacks what it has to have.
    #[error("{method}: the runtime's answer has no {field}")]
    Lacks {
        /// The CRI verb.
        method: &'static str,
        /// What is missing.
        field: &'static str,
    },
}

impl CriError {
    /// The runtime's code, as far as it gave one.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Call { status, .. } => status.code(),
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Endpoint { .. } | Self::Lacks { .. } => Code::Unknown,
        }
    }

    /// Whether the runtime has no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// Whether the runtime has no such verb.
    pub(crate) fn is_unimplemented(&self) -> bool {
        self.code() == Code::Unimplemented
    }

    /// The same of a verb of which containerd 2.2 says so in words alone (upstream
    /// `updatePodSandboxResources`).
    pub(super) fn is_unimplemented_in_words(&self) -> bool {
        match self {
            Self::Call { status, .. } => {
                status.code() == Code::Unknown && status.message().contains(UNIMPLEMENTED)
            }
            Self::Deadline { .. } | Self::Endpoint { .. } | Self::Lacks { .. } => false,
        }
    }
}

/// A runtime's services. A clone shares the connection, which is made when it is needed and made
/// again when it broke.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The verbs of sandboxes and containers.
    pub(super) runtime: RuntimeServiceClient<Channel>,
    /// The way to the verbs of images.
    images: Channel,
    /// How long a call may take that waits for nothing by itself (KubeletConfiguration
    /// `runtimeRequestTimeout`).
    pub(super) patience: Duration,
}

impl Client {
    /// The runtime at `endpoint`, its images at `images` if that is another one: `unix:///PATH`.
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`CriError::Endpoint`].
    pub(crate) fn new(
        endpoint: &str,
        images: Option<&str>,
        patience: Duration,
    ) -> Result<Self, CriError> {
        let channel = channel(endpoint)?;
        let of_images = images.map_or_else(|| Ok(channel.clone()), self::channel)?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
            images: of_images,
            patience,
        })
    }

    /// The way to the verbs of images.
    pub(crate) fn images(&self) -> Channel {
        self.images.clone()
    }

    /// How long a call may take that waits for nothing by itself.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The verbs of sandboxes and containers, to call one.
    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }
}

fn channel(endpoint: &str) -> Result<Channel, CriError> {
    let path = endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/'));
    let Some(path) = path.map(PathBuf::from) else {
        return Err(CriError::Endpoint { endpoint: endpoint.into() });
    };
    let connect = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The address is never looked at: the connector knows the socket.
    Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect))
}

/// Waits for a call's answer, `limit` at most.
///
/// # Errors
/// [`CriError::Call`], [`CriError::Deadline`].
pub(crate) async fn call<T>(
    method: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CriError> {
    match timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CriError::Call { method, status: Box::new(status) }),
        Err(_) => Err(CriError::Deadline { method }),
    }
}

/// A request that the runtime gives up on when nobody waits for it any more.
pub(crate) fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
