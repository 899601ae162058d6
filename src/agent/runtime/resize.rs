//! What a running container is given when it is resized: the words of the verb
//! [`Runtime::resize`](super::Runtime::resize).

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
