//! From a pod to what the container runtime is told of it and of its ordinary containers.

use copepod_pod::{Facts, Failure};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::Host;
use super::container::{Common, Context, DescribeError};
use super::set_up::no_sandbox;
use crate::ledger::Ledger;
use crate::linux;
use crate::runtime::cri::config::{
    ContainerInput, IdRange, ImageFacts, PodInput, SandboxInput, container, sandbox,
};
use crate::runtime::cri::images::OrdinaryImage;
use crate::runtime::cri::{Ordinary, SandboxSpec};
use crate::telemetry::chain;
use crate::volume::{self, BindInput};

/// The sandbox of the pod, which has these ids of its own. Blocks for some file operations.
///
/// # Errors
/// A [`Failure`] with the reason of upstream's event.
pub(super) fn sandbox_spec(
    (pod, user_namespace): (&Pod, Option<IdRange>),
    handler: String,
    facts: &Facts,
    ledger: &Ledger,
    host: &Host,
) -> Result<SandboxSpec, Failure> {
    let (resolver, _) = volume::resolver(pod, facts);
    let parent = host.cgroups.as_ref().map(|cgroups| cgroups.parent(pod)).transpose();
    let parent = parent.map_err(|error| no_sandbox(chain(&error)))?;
    let of = PodInput { pod, handler: &handler, user_namespace, node: &host.ordinary };
    let config = sandbox(&SandboxInput {
        of,
        // The runtime says which one it is to be.
        attempt: 0,
        facts,
        resolver: &resolver,
        log_dir: &ledger.log_dir_of(pod, ""),
        cgroup_parent: parent.as_deref().unwrap_or_default(),
    });
    let config = config.map_err(|error| no_sandbox(chain(&error)))?;
    Ok(SandboxSpec { config, handler })
}

/// One attempt of an ordinary container, with what it sees of the host's files. Blocks for some file
/// operations.
///
/// # Errors
/// [`DescribeError`]; nothing is left behind then.
pub(super) fn describe(
    context: &Context,
    spec: &ContainerSpec,
    common: Common,
    image: &OrdinaryImage,
    ledger: &Ledger,
    host: &Host,
) -> Result<Ordinary, DescribeError> {
    let Context { pod, name, attempt, ready, target, .. } = context;
    let sandbox = ready.sandbox.clone().ok_or_else(|| DescribeError::NoSandbox(name.clone()))?;
    let Common { uid, log_dir, log_link, env, argv: (command, args), .. } = common;
    let dir = ledger.attempt_dir(&uid, name, *attempt);
    let binds = volume::binds(
        &BindInput {
            container: spec,
            volumes: &ready.files.volumes,
            env: &env,
            pod_dir: &ledger.pod_dir(&uid),
            hosts: hosts(ready.files.single.iter().map(|(path, text)| (*path, &**text))),
            recursive_read_only: ready.recursive_read_only,
            selinux: linux::has_selinux(),
        },
        &dir,
    )?;
    let target = target.as_deref().and_then(|id| Some(id.split_once("://")?.1));
    let facts = ImageFacts {
        reference: image.image_ref.clone(),
        runtime_handler: ready.kinds.handler.clone(),
        user: image.user.clone(),
    };
    let config = container(&ContainerInput {
        of: PodInput {
            pod,
            handler: &ready.kinds.handler,
            user_namespace: ready.user_namespace,
            node: &host.ordinary,
        },
        container: spec,
        attempt: *attempt,
        image: &facts,
        command: &command,
        args: &args,
        env: &env,
        binds: &binds,
        target,
    });
    if config.is_err() {
        // What cannot be removed now goes with the pod's directory.
        let _ = volume::release(&dir);
    }
    Ok(Ordinary {
        pod_uid: uid,
        name: name.clone(),
        attempt: *attempt,
        config: config?,
        sandbox,
        log_dir,
        log_link,
    })
}

/// The text of the pod's `/etc/hosts`.
fn hosts<'a>(mut single: impl Iterator<Item = (&'a str, &'a str)>) -> Option<&'a str> {
    single.find(|(path, _)| *path == "etc/hosts").map(|(_, text)| text)
}
