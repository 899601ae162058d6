//! Why a container has no ordinary image, in upstream's words (`pkg/kubelet/images`).

use thiserror::Error;
use tonic::{Code, Status};

use super::pull::PullFailure;
use crate::image::NameError;

/// A runtime's word that the registry is not there (`cri-api/pkg/errors`).
const UNAVAILABLE: &str = "RegistryUnavailable";
/// A runtime's word that the image is not signed as it should be.
const SIGNATURE: &str = "SignatureValidationFailed";

/// Why a container has no ordinary image.
#[derive(Debug, Error)]
pub(crate) enum OrdinaryImageError {
    /// It is no name of an image.
    #[error(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}"
    )]
    Name {
        /// What is meant to be one.
        image: String,
        /// Why it is none.
        why: NameError,
    },
    /// The runtime does not say whether it has it; upstream's text has no name in its quotes.
    #[error("Failed to inspect image \"\": {}", go_text(.0))]
    Inspect(Status),
    /// It is not here, and its registry may not be asked.
    #[error("Container image {0:?} is not present with pull policy of Never")]
    Never(String),
    /// Its registry is not there.
    #[error("image pull failed for {image} because the registry is unavailable{text}")]
    Unavailable {
        /// The image.
        image: String,
        /// The runtime's words, from the colon on.
        text: String,
    },
    /// It is not signed as it should be.
    #[error("image pull failed for {image} because the signature validation failed{text}")]
    Signature {
        /// The image.
        image: String,
        /// The runtime's words, from the colon on.
        text: String,
    },
    /// It was not pulled for any other reason.
    #[error("{0}")]
    Pull(String),
}

impl OrdinaryImageError {
    /// Of a pull (upstream `evalCRIPullErr`).
    pub(super) fn of_pull(image: &str, failure: &PullFailure) -> Self {
        let (text, image) = (failure.to_string(), image.to_owned());
        if let Some(text) = text.strip_prefix(UNAVAILABLE) {
            return Self::Unavailable { image, text: text.to_owned() };
        }
        if let Some(text) = text.strip_prefix(SIGNATURE) {
            return Self::Signature { image, text: text.to_owned() };
        }
        Self::Pull(text)
    }

    /// The container's waiting reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "InvalidImageName",
            Self::Inspect(_) => "ImageInspectError",
            Self::Never(_) => "ErrImageNeverPull",
            Self::Unavailable { .. } => UNAVAILABLE,
            Self::Signature { .. } => SIGNATURE,
            Self::Pull(_) => "ErrImagePull",
        }
    }
}

/// A runtime's refusal as Go shows it, which is what people know.
pub(crate) fn go_text(status: &Status) -> String {
    let code = match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// A refusal of a pull: without its code where that says nothing (upstream `pullImageV1`).
pub(super) fn pull_text(status: &Status) -> String {
    if status.code() == Code::Unknown {
        return status.message().to_owned();
    }
    go_text(status)
}
