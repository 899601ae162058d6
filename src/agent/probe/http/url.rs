//! An address as Go writes it: a client's log and an event name it as upstream's do.

use std::fmt;

use reqwest::Url as Parsed;

use super::super::text::joined;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Url {
    /// `http` or `https`; a redirection may name another.
    pub(in super::super) scheme: String,
    /// A name or an address, without brackets.
    pub(super) host: String,
    /// None is the scheme's own.
    pub(super) port: Option<u16>,
    /// Escaped; begins with `/` or is empty.
    pub(super) path: String,
    /// Without its `?`.
    pub(super) query: Option<String>,
    /// Without its `#`; never sent.
    fragment: Option<String>,
}

impl Url {
    /// The address of a handler's `path`, which may have a query (upstream: `formatURL`).
    pub(super) fn new(scheme: String, host: String, port: u16, path: &str) -> Self {
        let (rest, fragment) = match path.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment.to_owned())),
            None => (path, None),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let port = Some(port);
        if !is_parsed(path) {
            // What Go cannot read as a path it takes as one, whatever is in it.
            let path = rooted(escaped(path.as_bytes()));
            return Self { scheme, host, port, path, query: None, fragment: None };
        }
        let rest = without_host(rest);
        let path = match rest.bytes().all(is_path) {
            true => rest.to_owned(),
            false => escaped(&unescaped(rest)),
        };
        Self { scheme, host, port, path: rooted(path), query, fragment }
    }

    /// Where a `Location` leads from here.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let to = Parsed::parse(&self.to_string()).ok()?.join(location).ok()?;
        let host = to.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // As long as nobody names another host this one is written as it was.
        let same = host.eq_ignore_ascii_case(&self.host);
        Some(Self {
            scheme: to.scheme().to_owned(),
            host: if same { self.host.clone() } else { host.to_owned() },
            // A scheme's own port is not told apart from none; what was written stays.
            port: to.port().or(self.port.filter(|port| {
                to.port_or_known_default() == Some(*port) && Parsed::parse(location).is_err()
            })),
            path: to.path().to_owned(),
            query: to.query().map(str::to_owned),
            fragment: to.fragment().map(str::to_owned),
        })
    }

    /// Whether it asks for TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The port that is connected to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// What the `Host` header says.
    pub(in super::super) fn authority(&self) -> String {
        match self.port {
            Some(port) => joined(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// What the request line asks for.
    pub(super) fn target(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        // A blank would end the request line.
        let query = self.query.as_ref().map(|query| {
            let parts: Vec<String> = query.chars().map(query_char).collect();
            format!("?{}", parts.concat())
        });
        format!("{path}{}", query.unwrap_or_default())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        self.fragment.as_ref().map_or(Ok(()), |fragment| write!(f, "#{fragment}"))
    }
}

/// A path without the scheme and the host that it may name, which give way to the pod's.
fn without_host(path: &str) -> &str {
    let after = after_scheme(path).filter(|rest| rest.starts_with('/'));
    let rest = after.unwrap_or(path);
    match rest.strip_prefix("//") {
        // As in Go, where three of them name a host after a scheme alone.
        Some(named) if after.is_some() || !named.starts_with('/') => {
            named.find('/').map_or("", |at| &named[at..])
        }
        Some(_) | None => rest,
    }
}

fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (is_scheme && scheme.bytes().all(is_inside)).then_some(rest)
}

fn query_char(c: char) -> String {
    match c {
        '!'..='~' => c.into(),
        _ => c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
    }
}

fn rooted(path: String) -> String {
    if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") }
}

/// Whether Go reads the text as an address: no control character, each `%` begins an escape.
fn is_parsed(path: &str) -> bool {
    let before_fragment = path.split('#').next().unwrap_or_default();
    let path_only = before_fragment.split('?').next().unwrap_or_default();
    let bytes = path_only.as_bytes();
    let mut escapes = (0..bytes.len()).filter(|at| bytes[*at] == b'%');
    let whole = escapes.all(|at| {
        bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    whole && !path.bytes().any(|byte| byte.is_ascii_control())
}

/// What may stand in a path as it is (Go: `validEncoded`).
fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte)
}

fn escaped(path: &[u8]) -> String {
    let kept = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(byte);
    let escape = |byte: &u8| match kept(byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.iter().map(escape).collect()
}

fn unescaped(path: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url::new("http".into(), "10.0.0.1".into(), 80, path)
    }

    #[test]
    fn a_path_becomes_an_address_as_go_has_it() {
        for (path, shown, target) in [
            ("/", "/", "/"),
            ("", "", "/"),
            ("healthz", "/healthz", "/healthz"),
            ("/a?b=c&d", "/a?b=c&d", "/a?b=c&d"),
            ("/a b", "/a%20b", "/a%20b"),
            ("/a%20b(c)", "/a%20b(c)", "/a%20b(c)"),
            ("/a%zz?x", "/a%25zz%3Fx", "/a%25zz%3Fx"),
            ("/a?b c", "/a?b c", "/a?b%20c"),
            ("/a#b", "/a#b", "/a"),
            ("//other/a", "/a", "/a"),
            ("/é", "/%C3%A9", "/%C3%A9"),
        ] {
            let url = url(path);
            assert_eq!(url.to_string(), format!("http://10.0.0.1:80{shown}"), "{path}");
            assert_eq!(url.target(), target, "{path}");
        }
        let six = Url::new("https".into(), "::1".into(), 443, "/");
        assert_eq!((six.to_string(), six.port()), ("https://[::1]:443/".into(), 443));
    }

    #[test]
    fn a_path_that_names_a_scheme_and_a_host_is_a_path_of_the_pod() {
        for (path, shown) in [
            ("http://other:81/a?b=c", "/a?b=c"),
            ("HTTPS://other/a%20b", "/a%20b"),
            ("http://other", ""),
            ("http:/a", "/a"),
            ("http:///a", "/a"),
            ("///a", "///a"),
            ("/a:b", "/a:b"),
            ("/a?u=http://b/c", "/a?u=http://b/c"),
            ("1a://b", "/1a://b"),
        ] {
            assert_eq!(url(path).to_string(), format!("http://10.0.0.1:80{shown}"), "{path}");
        }
    }

    #[test]
    fn a_location_leads_from_where_it_was_said() {
        for (location, shown) in [
            ("/b", "http://10.0.0.1:80/b"),
            ("b?c", "http://10.0.0.1:80/b?c"),
            ("http://10.0.0.1:81/", "http://10.0.0.1:81/"),
            ("https://10.0.0.1/x", "https://10.0.0.1/x"),
            ("http://other/", "http://other/"),
        ] {
            let to = url("/a").join(location).map(|url| url.to_string());
            assert_eq!(to.as_deref(), Some(shown), "{location}");
        }
        assert_eq!(url("/a").join("http://[::/"), None);
    }
}
