//! A network's plugins one after another: ADD in order, each given the result of the one before;
//! DEL in reverse order (libcni `AddNetworkList`, `DelNetworkList`).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use super::cni::{CallError, find, run};
use super::record::Record;
use crate::linux;

/// The variable that tells plugins whom they are called for.
const CONTAINER_ID: &str = "CNI_CONTAINERID";
/// The time for one call of a plugin: half of what a kubelet gives a whole pod sandbox.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Which plugin of a chain failed; texts as libcni words them.
#[derive(Debug, Error)]
pub(crate) enum ChainError {
    /// Its call failed.
    #[error("plugin {plugin} failed ({verb})")]
    Call {
        /// Its type, and its name where it has one.
        plugin: String,
        /// `add` or `delete`.
        verb: &'static str,
        /// Why.
        #[source]
        source: CallError,
    },
    /// It ended well, and its result is no JSON object.
    #[error("plugin {plugin} failed (add): failed to unmarshal raw result")]
    Result {
        /// Its type, and its name where it has one.
        plugin: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// What a chain of plugins is called with.
pub(super) struct Chain<'a> {
    /// The network and the pod.
    pub(super) record: &'a Record,
    /// Where plugins are.
    pub(super) bin_dirs: &'a [PathBuf],
    /// The pod's network namespace; empty if it is gone.
    pub(super) netns: &'a Path,
    /// The time for one call.
    pub(super) limit: Duration,
}

impl Chain<'_> {
    /// Attaches: the last plugin's result.
    ///
    /// # Errors
    /// The first plugin that fails; what was done before it is undone by [`Chain::delete`].
    pub(super) async fn add(&self) -> Result<Value, ChainError> {
        let mut result = None;
        for plugin in &self.record.network.plugins {
            let failed =
                |source| ChainError::Call { plugin: describe(plugin), verb: "add", source };
            let conf = self.conf(plugin, result.as_ref());
            let printed = self.call("ADD", plugin, &conf).await.map_err(failed)?;
            let parsed = serde_json::from_slice::<Option<Map<_, _>>>(&printed)
                .map_err(|source| ChainError::Result { plugin: describe(plugin), source })?;
            result = Some(self.versioned(parsed.unwrap_or_default()));
        }
        Ok(result.unwrap_or_default())
    }

    /// Undoes [`Chain::add`], also a partial one, any number of times.
    ///
    /// # Errors
    /// The first plugin that fails.
    pub(super) async fn delete(&self) -> Result<(), ChainError> {
        let network = &self.record.network;
        let result = self.record.result.as_ref().filter(|_| network.keeps_result());
        for plugin in network.plugins.iter().rev() {
            let conf = self.conf(plugin, result);
            match self.call("DEL", plugin, &conf).await {
                Ok(_) => {}
                Err(error) if is_gone(&error, self.netns) => {
                    tracing::debug!(plugin = describe(plugin), %error, "nothing to delete");
                }
                Err(source) => {
                    let plugin = describe(plugin);
                    return Err(ChainError::Call { plugin, verb: "delete", source });
                }
            }
        }
        Ok(())
    }

    async fn call(
        &self,
        verb: &str,
        plugin: &Map<String, Value>,
        conf: &Value,
    ) -> Result<Vec<u8>, CallError> {
        let program = find(text(plugin, "type"), self.bin_dirs)?;
        let record = self.record;
        let path = self.bin_dirs.iter().map(|dir| dir.as_os_str()).collect::<Vec<_>>();
        let environment: [(&str, OsString); 6] = [
            ("CNI_COMMAND", verb.into()),
            (CONTAINER_ID, record.container_id.clone().into()),
            ("CNI_NETNS", self.netns.into()),
            ("CNI_IFNAME", record.interface.clone().into()),
            ("CNI_ARGS", record.args.clone().into()),
            ("CNI_PATH", path.join(":".as_ref())),
        ];
        run(&program, conf.to_string().as_bytes(), &environment, self.limit).await
    }

    /// A plugin's own configuration, with what it is given at run time.
    fn conf(&self, plugin: &Map<String, Value>, result: Option<&Value>) -> Value {
        let network = &self.record.network;
        let mut conf = plugin.clone();
        conf.insert("name".to_owned(), network.name.clone().into());
        conf.insert("cniVersion".to_owned(), network.version.clone().into());
        if let Some(result) = result {
            conf.insert("prevResult".to_owned(), result.clone());
        }
        let mut given = self.record.capabilities.clone();
        given.retain(|name, _| supports(plugin, name));
        if !given.is_empty() {
            conf.insert("runtimeConfig".to_owned(), given.into());
        }
        conf.into()
    }

    /// A result names its version; that of one which does not is the configuration's.
    fn versioned(&self, mut result: Map<String, Value>) -> Value {
        if text(&result, "cniVersion").is_empty() {
            let version = &self.record.network.version;
            result.insert("cniVersion".to_owned(), version.clone().into());
        }
        result.into()
    }
}

/// Kills what an agent before this one has started for a container and was still at it when that agent
/// died: nobody waits for it, and what it did after a DEL would stay for ever. Gives whether there was
/// any: each look may find what one of the last has still started. Blocks.
///
/// # Errors
/// The kernel's.
pub(super) fn kill_left(container_id: &str) -> io::Result<bool> {
    let left = linux::who_was_given(&format!("{CONTAINER_ID}={container_id}"))?;
    left.iter().try_for_each(linux::kill_process)?;
    Ok(!left.is_empty())
}

/// Whether a plugin's configuration asks for a capability's arguments.
pub(super) fn supports(plugin: &Map<String, Value>, capability: &str) -> bool {
    let wanted = plugin.get("capabilities").and_then(|all| all.get(capability));
    wanted.and_then(Value::as_bool) == Some(true)
}

/// Plugins of older versions complain at DEL of what is not there any more; containerd lets them.
fn is_gone(error: &CallError, netns: &Path) -> bool {
    let CallError::Said { .. } = error else { return false };
    let text = error.to_string();
    text.contains("not found")
        || (netns.as_os_str().is_empty() && text.contains("no such file or directory"))
}

fn describe(plugin: &Map<String, Value>) -> String {
    match (text(plugin, "type"), text(plugin, "name")) {
        (kind, "") => format!("type={kind:?}"),
        (kind, name) => format!("type={kind:?} name={name:?}"),
    }
}

fn text<'a>(of: &'a Map<String, Value>, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}
