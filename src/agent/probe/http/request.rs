//! What a handler asks for: its address and its headers (upstream: `NewRequestForHTTPGetAction`).

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, RANGE,
    REFERER, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{HeaderMap, Request as HttpRequest, Uri};
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::Url as Parsed;

use super::super::{Target, VERSION, host, port};
use super::{GetError, Url};

/// What a handler cannot say by a header: it is this client's own affair (Go: `reqWriteExcludeHeader`).
const OURS: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];

/// A GET.
#[derive(Clone, Debug)]
pub(in super::super) struct Request {
    /// Where to.
    pub(in super::super) url: Url,
    /// As the handler has them, but for the host; names in any case.
    headers: Vec<(String, String)>,
    /// What the handler says as `Host`.
    host: Option<String>,
    /// Whether it is a probe's. Upstream's client for probes lets a server choose HTTP/2 and wants
    /// neither compression nor a second request over a connection; that for hooks is Go's as it is.
    pub(super) is_probe: bool,
}

impl Request {
    /// The request of a handler, made for a `probe` or a `lifecycle` hook.
    ///
    /// # Errors
    /// Why it cannot be made, in upstream's words.
    pub(in super::super) fn new(
        action: &HTTPGetAction,
        target: Target<'_>,
        made_for: &str,
    ) -> Result<Self, String> {
        let scheme = action.scheme.as_deref().unwrap_or_default().to_lowercase();
        let scheme = if scheme.is_empty() { "http".to_owned() } else { scheme };
        let host = host(action.host.as_ref(), target.ip)?;
        let port = port::resolve(&action.port, target.container).map_err(|e| e.to_string())?;
        let url = Url::new(scheme, host, port, action.path.as_deref().unwrap_or_default());
        let given = action.http_headers.iter().flatten();
        let mut headers: Vec<_> = given.map(|h| (h.name.clone(), h.value.clone())).collect();
        let first = |headers: &[(String, String)], name: &HeaderName| {
            let mut found =
                headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name.as_str()));
            found.next().map(|(_, value)| value.clone())
        };
        if first(&headers, &USER_AGENT).is_none() {
            headers.push((USER_AGENT.to_string(), format!("kube-{made_for}/{VERSION}")));
        }
        match first(&headers, &ACCEPT).as_deref() {
            None => headers.push((ACCEPT.to_string(), "*/*".into())),
            // What is given as nothing is not sent.
            Some("") => headers.retain(|(name, _)| !name.eq_ignore_ascii_case(ACCEPT.as_str())),
            Some(_) => {}
        }
        let host = first(&headers, &HOST).filter(|host| !host.is_empty());
        Ok(Self { url, headers, host, is_probe: made_for == "probe" })
    }

    /// Becomes the request that a redirection leads to.
    pub(super) fn follow(&mut self, to: Url, location: &str) {
        let is_relative = Parsed::parse(location).is_err();
        if !is_relative {
            self.host = None;
        }
        let from = std::mem::replace(&mut self.url, to);
        let has_one = |(name, _): &(String, String)| name.eq_ignore_ascii_case(REFERER.as_str());
        let downgrade = from.is_tls() && !self.url.is_tls();
        if !downgrade && !self.headers.iter().any(has_one) {
            self.headers.push((REFERER.to_string(), from.to_string()));
        }
    }

    /// The same without TLS and without what it shows of a secret.
    pub(in super::super) fn in_the_open(mut self) -> Self {
        self.url.scheme = "http".into();
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        self
    }

    /// As it goes out.
    ///
    /// # Errors
    /// [`GetError`]: what cannot be written.
    pub(super) fn written(&self) -> Result<HttpRequest<String>, GetError> {
        let mut headers = HeaderMap::new();
        let host = self.host.clone().unwrap_or_else(|| self.url.authority());
        let host = HeaderValue::try_from(host);
        headers.insert(HOST, host.map_err(|_| GetError::HeaderValue { name: "Host".into() })?);
        // As Go does: the agent first, then by name.
        let mut given: Vec<_> = self.headers.iter().collect();
        let is_agent = |name: &str| name.eq_ignore_ascii_case(USER_AGENT.as_str());
        given.sort_by_key(|(name, _)| (!is_agent(name), name.to_ascii_lowercase()));
        for (name, value) in given {
            let (key, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
            let key = key.map_err(|_| GetError::HeaderName { name: name.clone() })?;
            let value = value.map_err(|_| GetError::HeaderValue { name: name.clone() })?;
            if key == USER_AGENT && (value.is_empty() || headers.contains_key(USER_AGENT)) {
                // One alone, and none that is empty.
                continue;
            }
            if !OURS.contains(&key) {
                headers.append(key, value);
            }
        }
        // What clients say for themselves comes last.
        let is_said = |name| headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
        if !self.is_probe && !is_said(ACCEPT_ENCODING) && !is_said(RANGE) {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.is_probe && !headers.contains_key(CONNECTION) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let request = HttpRequest::get(self.url.target()).body(String::new());
        let mut request = request.map_err(|why| GetError::Target { why })?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// What was written, for HTTP/2: the host stands in its address, and nothing is said of the
    /// connection.
    ///
    /// # Errors
    /// [`GetError`]: a host that cannot stand there.
    pub(super) fn over_h2(
        &self,
        mut written: HttpRequest<String>,
    ) -> Result<HttpRequest<String>, GetError> {
        let host = written.headers_mut().remove(HOST);
        written.headers_mut().remove(CONNECTION);
        let host = host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()));
        let at = format!("https://{}{}", host.unwrap_or_default(), self.url.target());
        let at = at.parse::<Uri>().map_err(|why| GetError::Target { why: why.into() })?;
        *written.uri_mut() = at;
        Ok(written)
    }
}
