//! What a pod reads besides its own object, wherever that comes from.

use std::sync::Arc;

use copepod_pod::{Failure, Objects};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use k8s_openapi::api::core::v1::Pod;

use crate::image::ImageKind;

/// Gives what a pod names: config maps, secrets, tokens, services.
pub(crate) trait Supplier: Send + Sync {
    /// All of it, as it is now. What is not there is absent: whoever needs it says so.
    ///
    /// # Errors
    /// Why that cannot be known now.
    fn supply(&self, pod: Arc<Pod>) -> BoxFuture<'static, Result<Arc<Objects>, Failure>>;

    /// The handler of the pod's RuntimeClass; empty for a pod without one.
    ///
    /// # Errors
    /// Why that cannot be known now.
    fn handler(&self, pod: Arc<Pod>) -> BoxFuture<'static, Result<String, Failure>>;

    /// What of the pod is not served here, each by its field; `kind` says which containers are
    /// Wasm.
    fn refusals(&self, pod: &Pod, kind: &dyn Fn(&str) -> Option<ImageKind>) -> Vec<String>;
}

/// Objects that are known from the start and never change: those of files.
#[derive(Clone, Debug)]
pub(crate) struct Given(pub(crate) Arc<Objects>);

impl Supplier for Given {
    fn supply(&self, _pod: Arc<Pod>) -> BoxFuture<'static, Result<Arc<Objects>, Failure>> {
        ready(Ok(Arc::clone(&self.0))).boxed()
    }

    /// Every container of a `copepod run` is Wasm.
    fn handler(&self, _pod: Arc<Pod>) -> BoxFuture<'static, Result<String, Failure>> {
        ready(Ok(String::new())).boxed()
    }

    /// They were looked at when they were read.
    fn refusals(&self, _pod: &Pod, _kind: &dyn Fn(&str) -> Option<ImageKind>) -> Vec<String> {
        Vec::new()
    }
}
