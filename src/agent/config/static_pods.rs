//! Where static pods come from: files, and an address.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::duration::GoDuration;
use super::findings::{Findings, absolute};
use super::flags::NodeFlags;
use super::types::KubeletConfiguration;

/// Upstream's default of both frequencies (`SetDefaults_KubeletConfiguration`).
const CHECK_EVERY: Duration = Duration::from_secs(20);
/// The shortest of them: a typing error shall not have a node do nothing else.
const CHECK_MIN: Duration = Duration::from_millis(100);

/// Where static pods come from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StaticPodConfig {
    /// The file, or the directory of files: `staticPodPath`; `None`: there is none.
    pub(crate) path: Option<PathBuf>,
    /// How often it is read at least: `fileCheckFrequency`.
    pub(crate) path_every: Duration,
    /// The address: `staticPodURL`; `None`: there is none.
    pub(crate) url: Option<Url>,
    /// What is sent along; it may be secret: `staticPodURLHeader`.
    pub(crate) headers: HeaderMap,
    /// How often the address is asked: `httpCheckFrequency`.
    pub(crate) url_every: Duration,
}

impl StaticPodConfig {
    /// Whether they come from anywhere.
    pub(crate) fn is_any(&self) -> bool {
        self.path.is_some() || self.url.is_some()
    }
}

impl fmt::Debug for StaticPodConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().map(HeaderName::as_str).collect();
        let mut all = f.debug_struct("StaticPodConfig");
        all.field("path", &self.path).field("path_every", &self.path_every);
        all.field("url", &self.url.as_ref().map(Url::as_str)).field("headers", &names);
        all.field("url_every", &self.url_every).finish()
    }
}

/// Reads the part; what is wrong is found and stands as its default.
pub(super) fn static_pods(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    findings: &mut Findings,
) -> StaticPodConfig {
    let path_every = frequency(
        ("--file-check-frequency", &flags.file_check_frequency),
        ("fileCheckFrequency", file.file_check_frequency),
        findings,
    );
    let url_every = frequency(
        ("--http-check-frequency", &flags.http_check_frequency),
        ("httpCheckFrequency", file.http_check_frequency),
        findings,
    );
    let path = match flags.pod_manifest_path.as_deref() {
        // An empty flag takes the file's path away.
        Some(path) => {
            Some(path).filter(|path| !path.is_empty()).map(|path| absolute(path.as_ref()))
        }
        None => findings.path(file.static_pod_path.as_deref()),
    };
    let headers = headers(flags, file, findings);
    let url = url(flags, file, findings);
    StaticPodConfig { path, path_every, url, headers, url_every }
}

fn frequency(
    (flag, given): (&'static str, &Option<String>),
    (field, value): (&str, Option<GoDuration>),
    findings: &mut Findings,
) -> Duration {
    let Some(text) = given else {
        let every = findings.duration(field, value, CHECK_EVERY);
        if every < CHECK_MIN {
            findings.field(field, format!("must be at least {CHECK_MIN:?}"));
        }
        return every;
    };
    match GoDuration::parse(text).map(|value| (value.is_zero(), value.to_std())) {
        Ok((true, _)) => CHECK_EVERY,
        Ok((false, Some(every))) if every >= CHECK_MIN => every,
        Ok((false, Some(_))) => {
            findings.flag(flag, format!("{text:?}: must be at least {CHECK_MIN:?}"));
            CHECK_EVERY
        }
        Ok((false, None)) => {
            findings.flag(flag, format!("{text:?}: must not be negative"));
            CHECK_EVERY
        }
        Err(error) => {
            findings.flag(flag, error);
            CHECK_EVERY
        }
    }
}

fn url(flags: &NodeFlags, file: &KubeletConfiguration, findings: &mut Findings) -> Option<Url> {
    let given = flags.manifest_url.as_ref().or(file.static_pod_url.as_ref());
    let text = given.filter(|text| !text.is_empty())?;
    let parsed = Url::parse(text).map_err(|error| error.to_string());
    let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let wrong = match parsed {
        Ok(url) if is_web(&url) => return Some(url),
        Ok(_) => "expected http://HOST/... or https://HOST/...".into(),
        Err(error) => error,
    };
    match flags.manifest_url {
        Some(_) => findings.flag("--manifest-url", format!("{text:?}: {wrong}")),
        None => findings.field("staticPodURL", format!("{text:?}: {wrong}")),
    }
    None
}

/// The headers: those of flags in the place of the file's, as upstream.
fn headers(flags: &NodeFlags, file: &KubeletConfiguration, findings: &mut Findings) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| -> Result<(), String> {
        // Their values may be secret, and are not shown.
        let failed = || format!("{name:?} is no header with a value of visible characters");
        let known = HeaderName::try_from(name).map_err(|_| failed())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| failed())?;
        value.set_sensitive(true);
        headers.append(known, value);
        Ok(())
    };
    if flags.manifest_url_header.is_empty() {
        for (name, values) in file.static_pod_url_header.iter().flatten() {
            for value in values {
                if let Err(error) = add(name, value) {
                    findings.field("staticPodURLHeader", error);
                }
            }
        }
        return headers;
    }
    // Go's `ColonSeparatedMultimapStringString`.
    let pairs = flags.manifest_url_header.iter().flat_map(|flag| flag.split(','));
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let added = match pair.split_once(':') {
            Some((name, value)) => add(name.trim(), value.trim()),
            None => Err("malformed pair, expect string:string".into()),
        };
        if let Err(error) = added {
            findings.flag("--manifest-url-header", error);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str], file: &str) -> (StaticPodConfig, String) {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: NodeFlags,
        }
        let line = std::iter::once("node").chain(flags.iter().copied());
        let flags = <Line as clap::Parser>::parse_from(line).flags;
        let file: KubeletConfiguration = serde_json::from_str(file).expect("a configuration");
        let mut findings = Findings::new(Some("/etc/k/config.yaml".as_ref()));
        let config = static_pods(&flags, &file, &mut findings);
        let errors = findings.into_result(()).err().map(|e| e.to_string()).unwrap_or_default();
        (config, errors)
    }

    fn header(config: &StaticPodConfig, name: &str) -> Vec<String> {
        let all = config.headers.get_all(name).into_iter();
        all.map(|value| value.to_str().expect("text").into()).collect()
    }

    fn places(config: &StaticPodConfig) -> (Option<&str>, Option<&str>) {
        (config.path.as_ref().and_then(|path| path.to_str()), config.url.as_ref().map(Url::as_str))
    }

    #[test]
    fn nothing_is_read_where_nothing_is_configured() {
        for file in ["{}", r#"{"staticPodPath": "", "staticPodURL": ""}"#] {
            let (config, errors) = read(&[], file);
            assert_eq!((places(&config), config.is_any(), &*errors), ((None, None), false, ""));
            assert_eq!([config.path_every, config.url_every], [CHECK_EVERY; 2]);
        }
    }

    #[test]
    fn the_file_says_where_and_how_often() {
        let file = r#"{"staticPodPath": "manifests", "fileCheckFrequency": "3s",
            "staticPodURL": "https://h/pods", "staticPodURLHeader": {"A": ["b", "c"]}}"#;
        let (config, errors) = read(&[], file);
        assert_eq!(errors, "");
        assert_eq!(places(&config), (Some("/etc/k/manifests"), Some("https://h/pods")));
        assert_eq!([config.path_every, config.url_every], [Duration::from_secs(3), CHECK_EVERY]);
        assert_eq!(header(&config, "a"), ["b", "c"]);
        assert!(!format!("{config:?}").contains("\"b\""), "values are not shown");
    }

    #[test]
    fn flags_win() {
        let file = r#"{"staticPodPath": "/m", "staticPodURL": "http://h/", "httpCheckFrequency": "9s",
            "staticPodURLHeader": {"x": ["y"]}}"#;
        let flags = [
            "--pod-manifest-path=/n/one.yaml",
            "--manifest-url=http://i/",
            "--manifest-url-header=a:hello,b:again,c:wor:ld",
            "--manifest-url-header=b:beautiful",
            "--http-check-frequency=500ms",
        ];
        let (config, errors) = read(&flags, file);
        assert_eq!(errors, "");
        assert_eq!(places(&config), (Some("/n/one.yaml"), Some("http://i/")));
        assert_eq!(config.url_every, Duration::from_millis(500));
        assert_eq!(header(&config, "b"), ["again", "beautiful"]);
        assert_eq!(header(&config, "c"), ["wor:ld"]);
        assert_eq!(header(&config, "x"), [""; 0]);
        assert_eq!(read(&["--pod-manifest-path="], file).0.path, None);
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        let file = r#"{"staticPodURL": "ftp://h/", "fileCheckFrequency": "-1s",
            "httpCheckFrequency": "1ns", "staticPodURLHeader": {"a b": ["c"]}}"#;
        let (_, errors) = read(&[], file);
        for text in [
            "staticPodURL: \"ftp://h/\": expected http://HOST/... or https://HOST/...",
            "fileCheckFrequency: must not be negative",
            "httpCheckFrequency: must be at least 100ms",
            "staticPodURLHeader: \"a b\" is no header",
        ] {
            assert!(errors.contains(text), "{text}\n{errors}");
        }
        let flags = [
            "--manifest-url=nonsense",
            "--manifest-url-header=secret",
            "--file-check-frequency=soon",
        ];
        let (_, errors) = read(&flags, "{}");
        for text in [
            "--manifest-url: \"nonsense\": relative URL without a base",
            "--manifest-url-header: malformed pair, expect string:string",
            "--file-check-frequency: time: invalid duration \"soon\"",
        ] {
            assert!(errors.contains(text), "{text}\n{errors}");
        }
    }
}
