//! What a running container is given when it is resized, and what is told of its pod: the words of the
//! verbs [`Runtime::resize`](super::Runtime::resize) and
//! [`Runtime::resize_sandbox`](super::Runtime::resize_sandbox).

use copepod_cri::LinuxContainerResources;

use crate::linux::cgroup::LeafSpec;

/// The resources of a container, for whichever home runs it.
#[derive(Clone, Debug)]
pub(crate) struct Resources {
    /// The group of a Wasm container; `None`: it has none.
    pub(crate) cgroup: Option<LeafSpec>,
    /// Bytes that the memories of a Wasm guest may hold; `None` is no limit.
    pub(crate) memory_limit_bytes: Option<u64>,
    /// The same for the runtime of ordinary images.
    pub(crate) ordinary: LinuxContainerResources,
}

/// What the group of a pod is about to have, in the words of the runtime of ordinary images.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SandboxResources {
    /// The pod's overhead.
    pub(crate) overhead: LinuxContainerResources,
    /// All the rest of it.
    pub(crate) containers: LinuxContainerResources,
}
