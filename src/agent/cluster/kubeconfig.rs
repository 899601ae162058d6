//! Who we are to the API server and where it is: the kubeconfig file, as the kubelet reads it.
//!
//! What would fail at the first request anyway is an error here that names file and field: a
//! certificate of another node, one out of its time, a key that is not its own, a CA that is none.

mod bearer;
mod credential;
mod error;
mod file;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::http::uri::Authority;
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

pub(crate) use self::bearer::Bearer;
pub(crate) use self::error::{KubeconfigError, Place};
use self::file::{Cluster, Parsed, User};

/// Largest kubeconfig, and largest file that it names: some clusters, some certificates.
const FILE_MAX: u64 = 1 << 20;
/// TLS sessions that are kept for a faster next connection: there is one server.
const SESSIONS: usize = 4;

/// A kubeconfig that was read and found good.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    /// The server's name or address, without brackets.
    pub(crate) host: String,
    /// The server's port.
    pub(crate) port: u16,
    /// What requests say: host and port as in the file.
    pub(crate) authority: Authority,
    /// What stands before each path, without a slash at its end; empty in nearly all clusters.
    pub(crate) prefix: String,
    /// The name that the server's certificate must have.
    pub(crate) server_name: ServerName<'static>,
    /// CA, client certificate and key, ALPN.
    pub(crate) tls: Arc<ClientConfig>,
    /// What goes with each request.
    pub(crate) bearer: Arc<Bearer>,
    /// When the client certificate ends; none if there is none.
    pub(crate) expires: Option<Timestamp>,
}

impl Kubeconfig {
    /// Reads the file at `path` for the node `node`, which it must be of. `now` is what this
    /// host's clock says.
    ///
    /// # Errors
    /// [`KubeconfigError`], the first that is found.
    pub(crate) fn read(path: &Path, node: &str, now: Timestamp) -> Result<Self, KubeconfigError> {
        let text = read_file(path).map_err(|error| error.of_kubeconfig(path))?;
        let reader = Reader { path, node, now };
        let parsed = std::str::from_utf8(&text).map_err(|e| reader.unreadable(e.to_string()))?;
        let parsed = file::parse(parsed).map_err(|text| reader.unreadable(text))?;
        reader.whole(&parsed)
    }
}

/// One kubeconfig while it is read.
struct Reader<'a> {
    path: &'a Path,
    node: &'a str,
    now: Timestamp,
}

impl Reader<'_> {
    fn whole(&self, parsed: &Parsed) -> Result<Kubeconfig, KubeconfigError> {
        let (cluster, cluster_at, user, user_at) = self.current(parsed)?;
        let server_at = self.place(&cluster_at, "server");
        let expected = "an address like https://10.0.0.1:6443";
        let server = cluster.server.as_deref().filter(|server| !server.is_empty());
        let server = server.ok_or_else(|| server_at.missing(expected))?;
        let wrong = || server_at.wrong(&format!("{server:?}"), expected);
        let uri: Uri = server.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let (Some("https"), Some(authority), None) = (uri.scheme_str(), authority, uri.query())
        else {
            return Err(wrong());
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
        let server_name = match &name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
                let at = self.place(&cluster_at, "tls-server-name");
                at.wrong(&format!("{name:?}"), "a DNS name or an IP address")
            })?,
            None => ServerName::try_from(host.clone()).map_err(|_| wrong())?,
        };
        self.refuse(&cluster_at, &[("proxy-url", cluster.proxy_url.is_some())])?;
        self.refuse_user(&user_at, user)?;
        let (mut tls, expires) = self.tls(cluster, &cluster_at, user, &user_at)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        let bearer = self.bearer(user, &user_at)?;
        if expires.is_none() && matches!(bearer, Bearer::None) {
            let expected = "client-certificate and client-key, or token, or tokenFile";
            return Err(self.at(&user_at).missing(expected));
        }
        Ok(Kubeconfig {
            port: authority.port_u16().unwrap_or(443),
            authority: authority.clone(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host,
            server_name,
            tls: Arc::new(tls),
            bearer: Arc::new(bearer),
            expires,
        })
    }

    /// Cluster and user of the current context, and how their fields begin.
    fn current<'p>(
        &self,
        parsed: &'p Parsed,
    ) -> Result<(&'p Cluster, String, &'p User, String), KubeconfigError> {
        let at = self.at("current-context");
        let name = parsed.current_context.as_deref().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| at.missing("the name of a context"))?;
        let context = parsed.contexts.iter().find(|context| context.name == name);
        let context = context.and_then(|named| named.context.as_ref());
        let context = context.ok_or_else(|| {
            at.wrong(&format!("{name:?}"), "a context that `contexts` has by that name")
        })?;
        let cluster = parsed.clusters.iter().find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.and_then(|named| named.cluster.as_ref()).ok_or_else(|| {
            let at = self.at(&format!("contexts[{name}].context.cluster"));
            at.wrong(&format!("{:?}", context.cluster), "a cluster that `clusters` has")
        })?;
        let user_name = context.user.as_deref().unwrap_or_default();
        let user = parsed.users.iter().find(|user| user.name == user_name);
        let user = user.and_then(|named| named.user.as_ref()).ok_or_else(|| {
            let at = self.at(&format!("contexts[{name}].context.user"));
            at.wrong(&format!("{user_name:?}"), "a user that `users` has")
        })?;
        let cluster_at = format!("clusters[{}].cluster", context.cluster);
        Ok((cluster, cluster_at, user, format!("users[{user_name}].user")))
    }

    /// Refuses what would make us somebody else, or needs another program.
    fn refuse_user(&self, at: &str, user: &User) -> Result<(), KubeconfigError> {
        self.refuse(
            at,
            &[
                ("exec", user.exec.is_some()),
                ("auth-provider", user.auth_provider.is_some()),
                ("username", user.username.is_some()),
                ("password", user.password.is_some()),
                ("as", user.impersonate.is_some()),
                ("as-uid", user.as_uid.is_some()),
                ("as-groups", user.as_groups.is_some()),
                ("as-user-extra", user.as_user_extra.is_some()),
            ],
        )
    }

    fn refuse(&self, at: &str, fields: &[(&str, bool)]) -> Result<(), KubeconfigError> {
        match fields.iter().find(|(_, is_there)| *is_there) {
            Some((field, _)) => Err(KubeconfigError::Refused(self.place(at, field))),
            None => Ok(()),
        }
    }

    /// What a field holds: its data, or else the file that it names.
    fn content(
        &self,
        at: &str,
        field: &str,
        data: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<(Place, Vec<u8>)>, KubeconfigError> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let place = self.place(at, &format!("{field}-data"));
            let bytes = STANDARD.decode(data.split_whitespace().collect::<String>());
            let bytes = bytes.map_err(|e| place.wrong(&e.to_string(), "base64 of PEM"))?;
            return Ok(Some((place, bytes)));
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
        let place = self.place(at, field);
        let file = self.beside(file);
        let bytes = read_file(&file).map_err(|error| error.of_field(&place, &file))?;
        Ok(Some((place.with_file(&file), bytes)))
    }

    /// A file that the kubeconfig names: relative to where the kubeconfig lies.
    fn beside(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    fn at(&self, field: &str) -> Place {
        Place::new(self.path, field)
    }

    fn place(&self, at: &str, field: &str) -> Place {
        Place::new(self.path, &format!("{at}.{field}"))
    }

    fn unreadable(&self, text: String) -> KubeconfigError {
        KubeconfigError::Parse { path: self.path.to_owned(), text }
    }
}

/// Why a file was not read.
enum ReadError {
    Io(std::io::Error),
    TooLarge,
}

/// A file of at most [`FILE_MAX`] bytes.
fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ReadError::Io)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(ReadError::TooLarge);
    }
    Ok(bytes)
}

impl ReadError {
    fn of_kubeconfig(self, path: &Path) -> KubeconfigError {
        match self {
            ReadError::Io(source) => KubeconfigError::Read { path: path.to_owned(), source },
            ReadError::TooLarge => {
                KubeconfigError::TooLarge { path: path.to_owned(), max: FILE_MAX }
            }
        }
    }

    fn of_field(self, place: &Place, file: &Path) -> KubeconfigError {
        match self {
            ReadError::Io(source) => {
                KubeconfigError::File { place: place.clone(), file: file.to_owned(), source }
            }
            ReadError::TooLarge => {
                KubeconfigError::TooLarge { path: file.to_owned(), max: FILE_MAX }
            }
        }
    }
}

#[cfg(test)]
#[path = "kubeconfig_test.rs"]
mod tests;
