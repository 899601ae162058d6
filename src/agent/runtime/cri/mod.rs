//! The home of ordinary containers: a container runtime over CRI.

pub(crate) mod images;
