//! The pure core: from a pod's spec and what is observed of it to what shall be done.
//!
//! Owns: the state machine of one pod ([`step`]), its status, the defaults and the validation of a
//! pod, variable expansion, quantities. Takes and gives values only: no I/O, no clock, no
//! randomness, no logging; the time comes in with each event.

pub mod admission;
pub mod qos;
pub mod quantity;
pub mod resources;

#[macro_use]
mod fault;

mod backoff;
mod condition;
mod container;
mod default;
mod definition;
mod downward;
mod env;
mod env_file;
mod ephemeral;
mod event;
mod expand;
mod forgotten;
mod go;
mod known;
mod life;
mod message;
mod mirror;
mod mount;
mod network;
mod object;
mod payload;
mod phase;
mod plan;
mod probe;
mod record;
mod reference;
mod resize;
mod sandbox;
mod service_env;
mod source;
mod state;
mod static_pod;
mod status;
mod step;
mod validate;

pub use default::apply_defaults;
pub use definition::definition;
pub use downward::DownwardError;
pub use env::{EnvError, env_files, environment};
pub use env_file::EnvFileError;
pub use ephemeral::container_named;
pub use event::{
    Action, Attempt, AttemptState, Event, Exit, Failure, HookKind, ImageNames, ImageRef, Now,
    PodAddresses, ProbeKind, ProbeOutcome, Pulled, Record, ResizeNews, Resized, SetUpDone, User,
};
pub use expand::{argv, expand, expanded_bytes};
pub use go::{go_duration, go_quoted};
pub use message::termination_message;
pub use mirror::{
    Life, MirrorStep, is_mirror, is_mirror_of, mirror_of, mirror_step, mirrored, with_status_of,
};
pub use mount::{SubPathError, sub_path};
pub use network::{
    ClusterDns, HostnameError, Resolver, check_hostname, hostname, hosts_file, resolv_conf,
    resolv_conf_limits, resolver,
};
pub use object::{
    Facts, NotFound, Objects, ServiceFacts, ServicePortFacts, Token, TokenKey, normalise_secret,
};
pub use payload::{Payload, PayloadError, PayloadFile, payload};
pub use phase::is_terminal;
pub use reference::{
    Keys, ObjectKind, ObjectReference, References, is_object_name, missing_pull_secrets,
    object_references, pull_secrets, references,
};
pub use resize::{Actuated, Allocation, Decision, Request, decide, first};
pub use source::{Change, FullName, StaticPods, full_name, next_to_start};
pub use state::{Host, State, removal_grace, spec_grace};
pub use static_pod::{
    FILE_ANNOTATION, HASH_ANNOTATION, MIRROR_ANNOTATION, Origin, SEEN_ANNOTATION,
    SOURCE_ANNOTATION, Source, StaticPodError, api_reference, static_pod,
};
pub use step::step;
pub use validate::{
    FieldError, dns_subdomain, label_value, qualified_name, validate, validate_config_map,
    validate_secret, volume_sources,
};

#[cfg(test)]
mod mutated_test;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod sim;
