//! The Container Runtime Interface v1 as it was published with Kubernetes 1.36
//! (`k8s.io/cri-api` v0.36.2, `pkg/apis/runtime/v1/api.proto`, taken over unchanged): messages,
//! clients, and with the feature `server` the servers' side.
//!
//! Owns: nothing by hand but this file. How a runtime is reached and used is the agent's
//! `runtime/cri`.

#![expect(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the definition has the comments"
)]

tonic::include_proto!("runtime.v1");
