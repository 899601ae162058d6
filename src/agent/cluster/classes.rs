//! RuntimeClasses: which handler one means. Asked for by name when a pod is set up: most pods have
//! none, and a class's handler never changes.

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use thiserror::Error;

/// Why a class has no handler.
#[derive(Debug, Error)]
pub(crate) enum ClassError {
    /// It is not there; upstream's words (`LookupRuntimeHandler`).
    #[error("runtimeclass.node.k8s.io {0:?} not found")]
    Missing(String),
    /// It cannot be asked for; upstream's words.
    #[error("failed to lookup RuntimeClass {name}")]
    Read {
        /// The class.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The handler of the class of this name.
///
/// # Errors
/// [`ClassError`].
pub(crate) async fn handler(client: Client, name: &str) -> Result<String, ClassError> {
    match Api::<RuntimeClass>::all(client).get_opt(name).await {
        Ok(Some(class)) => Ok(class.handler),
        Ok(None) => Err(ClassError::Missing(name.into())),
        Err(source) => Err(ClassError::Read { name: name.into(), source: source.into() }),
    }
}
