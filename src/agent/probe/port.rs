//! The port that a handler means (upstream: `probe.ResolveContainerPort`).

use std::num::ParseIntError;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use thiserror::Error;

/// Why there is no such port, in upstream's words.
#[derive(Debug, Error)]
pub(super) enum PortError {
    /// It is no name of a port of the container, and no number either.
    #[error("strconv.Atoi: parsing {name:?}: invalid syntax")]
    Name {
        /// As it was given.
        name: String,
        /// Why it is no number.
        #[source]
        why: ParseIntError,
    },
    /// No port has this number.
    #[error("invalid port number: {0}")]
    Number(i32),
}

/// The number of a port, by itself or by the name that the container gives it.
///
/// # Errors
/// [`PortError`].
pub(super) fn resolve(port: &IntOrString, container: &Container) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                // A number that was written as a text.
                None => name.parse().map_err(|why| PortError::Name { name: name.clone(), why })?,
            }
        }
    };
    let known = u16::try_from(number).ok().filter(|port| *port > 0);
    known.ok_or(PortError::Number(number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_named_or_numbered() {
        let container = serde_json::from_value(json!({"name": "c", "ports": [
            {"name": "a", "containerPort": 80}, {"name": "web", "containerPort": 8080},
        ]}));
        let container = container.unwrap();
        let text = |text: &str| IntOrString::String(text.into());
        for (port, number) in [
            (IntOrString::Int(1), Ok(1)),
            (text("web"), Ok(8080)),
            (text("443"), Ok(443)),
            (text("other"), Err("strconv.Atoi: parsing \"other\": invalid syntax")),
            (IntOrString::Int(0), Err("invalid port number: 0")),
            (IntOrString::Int(65536), Err("invalid port number: 65536")),
            (text("-1"), Err("invalid port number: -1")),
        ] {
            let resolved = resolve(&port, &container).map_err(|e| e.to_string());
            assert_eq!(resolved, number.map_err(str::to_owned), "{port:?}");
        }
    }
}
