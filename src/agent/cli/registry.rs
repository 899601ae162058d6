//! What every command that pulls takes of registries.

use std::path::PathBuf;

use crate::image::RegistryOptions;

/// How registries are reached; a part of the arguments of commands.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryArgs {
    /// A registry that is spoken to over plain HTTP, as those on loopback are (repeatable)
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<String>,
    /// Certificates (PEM) to trust beside this host's own
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Credentials, in docker's format [default: docker's and podman's own files]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    auth_file: Option<PathBuf>,
}

impl RegistryArgs {
    /// The same for the room that asks registries.
    pub(super) fn options(self) -> RegistryOptions {
        let Self { plain_http, ca_file, auth_file } = self;
        RegistryOptions { plain_http, ca_file, auth_file, keyring: None }
    }
}
