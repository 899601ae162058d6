//! The part of the configuration that the node's servers go by.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::findings::Findings;
use super::types::KubeletConfiguration;

/// Upstream's defaults (`SetDefaults_KubeletConfiguration`).
const PORT: i32 = 10250;
const HEALTHZ_PORT: i32 = 10248;
const TOKEN_TTL: Duration = Duration::from_secs(2 * 60);
const AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
const STREAM_IDLE: Duration = Duration::from_secs(4 * 60 * 60);

/// What the servers go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerConfig {
    /// The kubelet's server; `None`: not served (`enableServer: false`).
    pub(crate) listen: Option<SocketAddr>,
    /// The port that the node object names, whether or not it is served.
    pub(crate) port: u16,
    /// Certificate chain and private key (PEM); `None`: self-signed, in the certificates' directory.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// The oldest TLS that is spoken.
    pub(crate) min_tls: TlsVersion,
    /// The authorities of client certificates (PEM); `None`: no client certificate counts.
    pub(crate) client_ca: Option<PathBuf>,
    /// How long an answer about a bearer token is kept; `None`: no token counts.
    pub(crate) tokens: Option<Duration>,
    /// A request without any name is `system:anonymous`, and not refused at once.
    pub(crate) anonymous: bool,
    /// Who may do what.
    pub(crate) authorization: Authorization,
    /// Logs, exec, attach and the like are served.
    pub(crate) debugging_handlers: bool,
    /// How long a stream may be silent; without effect upstream since 1.35.
    pub(crate) stream_idle: Duration,
    /// Where `/healthz` is served in the clear; `None`: nowhere.
    pub(crate) healthz: Option<SocketAddr>,
}

/// The oldest TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// `VersionTLS12`, the default.
    V12,
    /// `VersionTLS13`.
    V13,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// Whoever has a name, and the anonymous too if they are let in.
    AlwaysAllow,
    /// As the API server says (`SubjectAccessReview`).
    Webhook {
        /// How long a yes is kept.
        authorized: Duration,
        /// How long a no is kept.
        unauthorized: Duration,
    },
}

/// Reads the part; what is wrong is found, and stands as its default.
pub(super) fn server(file: &KubeletConfiguration, findings: &mut Findings) -> ServerConfig {
    let port = port("port", file.port.filter(|port| *port != 0), PORT, findings);
    let address = address("address", file.address.as_deref(), Ipv4Addr::UNSPECIFIED, findings);
    let enabled = file.enable_server != Some(false);
    let authentication = file.authentication.clone().unwrap_or_default();
    let webhook = authentication.webhook.unwrap_or_default();
    let ttl = "authentication.webhook.cacheTTL";
    let ttl = findings.duration(ttl, webhook.cache_ttl, TOKEN_TTL);
    let anonymous = authentication.anonymous.unwrap_or_default().enabled == Some(true);
    let authorization = authorization(file, findings);
    if anonymous && authorization == Authorization::AlwaysAllow {
        let text = "anonymous requests are allowed everything: insecure";
        findings.warn("authentication.anonymous.enabled", text);
    }
    let x509 = authentication.x509.unwrap_or_default();
    ServerConfig {
        listen: enabled.then_some(SocketAddr::new(address, port)),
        port,
        certificate: certificate(file, findings),
        min_tls: tls_version(file, findings),
        client_ca: findings.path(x509.client_ca_file.as_deref()),
        tokens: (webhook.enabled != Some(false)).then_some(ttl),
        anonymous,
        authorization,
        debugging_handlers: file.enable_debugging_handlers != Some(false),
        stream_idle: findings.duration(
            "streamingConnectionIdleTimeout",
            file.streaming_connection_idle_timeout,
            STREAM_IDLE,
        ),
        healthz: healthz(file, findings),
    }
}

fn healthz(file: &KubeletConfiguration, findings: &mut Findings) -> Option<SocketAddr> {
    let given = file.healthz_bind_address.as_deref();
    let address = address("healthzBindAddress", given, Ipv4Addr::LOCALHOST, findings);
    if file.healthz_port == Some(0) {
        return None;
    }
    let port = port("healthzPort", file.healthz_port, HEALTHZ_PORT, findings);
    Some(SocketAddr::new(address, port))
}

fn port(field: &str, given: Option<i32>, default: i32, findings: &mut Findings) -> u16 {
    let port = given.unwrap_or(default);
    u16::try_from(port).ok().filter(|port| *port != 0).unwrap_or_else(|| {
        findings.field(field, format!("{port} must be between 1 and 65535, inclusive"));
        0
    })
}

fn address(field: &str, given: Option<&str>, default: Ipv4Addr, findings: &mut Findings) -> IpAddr {
    let Some(text) = given.filter(|text| !text.is_empty()) else { return default.into() };
    text.parse().unwrap_or_else(|_| {
        findings.field(field, format!("{text:?} is not a valid IP address"));
        default.into()
    })
}

fn certificate(file: &KubeletConfiguration, findings: &mut Findings) -> Option<(PathBuf, PathBuf)> {
    let chain = findings.path(file.tls_cert_file.as_deref());
    let key = findings.path(file.tls_private_key_file.as_deref());
    match (chain, key) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        (Some(_), None) => {
            findings.field("tlsPrivateKeyFile", "missing: expected the key of tlsCertFile");
            None
        }
        (None, Some(_)) => {
            findings.field("tlsCertFile", "missing: expected the chain of tlsPrivateKeyFile");
            None
        }
    }
}

fn tls_version(file: &KubeletConfiguration, findings: &mut Findings) -> TlsVersion {
    match file.tls_min_version.as_deref() {
        None | Some("" | "VersionTLS12") => TlsVersion::V12,
        Some("VersionTLS13") => TlsVersion::V13,
        Some(old @ ("VersionTLS10" | "VersionTLS11")) => {
            findings.warn("tlsMinVersion", format!("{old} is not spoken: TLS 1.2 is the oldest"));
            TlsVersion::V12
        }
        Some(other) => {
            let all = "VersionTLS10, VersionTLS11, VersionTLS12 or VersionTLS13";
            findings
                .field("tlsMinVersion", format!("unknown tls version {other:?}: expected {all}"));
            TlsVersion::V12
        }
    }
}

fn authorization(file: &KubeletConfiguration, findings: &mut Findings) -> Authorization {
    let given = file.authorization.clone().unwrap_or_default();
    let webhook = given.webhook.unwrap_or_default();
    let authorized = findings.duration(
        "authorization.webhook.cacheAuthorizedTTL",
        webhook.cache_authorized_ttl,
        AUTHORIZED_TTL,
    );
    let unauthorized = findings.duration(
        "authorization.webhook.cacheUnauthorizedTTL",
        webhook.cache_unauthorized_ttl,
        UNAUTHORIZED_TTL,
    );
    match given.mode.as_deref() {
        None | Some("" | "Webhook") => {}
        Some("AlwaysAllow") => return Authorization::AlwaysAllow,
        Some(other) => findings.field(
            "authorization.mode",
            format!("unknown authorization mode {other}: expected Webhook or AlwaysAllow"),
        ),
    }
    Authorization::Webhook { authorized, unauthorized }
}
