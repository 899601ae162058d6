//! The texts that tell a container of its network: hostname, `/etc/hosts`, `/etc/resolv.conf`
//! (upstream `GeneratePodHostNameAndDomain`, `managedHostsFileContent`, `pkg/kubelet/network/dns`).

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};

use crate::object::Facts;

/// Longest host name (RFC 1123).
const MAX_HOSTNAME_BYTES: usize = 63;
/// Most name servers of a resolver, upstream's and the C library's.
pub(crate) const MAX_NAME_SERVERS: usize = 3;
/// Most search paths (upstream: `MaxDNSSearchPaths`).
pub(crate) const MAX_SEARCH_PATHS: usize = 32;
/// Most characters of the search paths with a blank between each (`MaxDNSSearchListChars`).
pub(crate) const MAX_SEARCH_CHARS: usize = 2048;
/// Longest search path: some resolvers abort at a longer one.
const MAX_SEARCH_PATH_BYTES: usize = 253;

/// The DNS service of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its addresses.
    pub servers: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
}

/// The pod's host name.
#[must_use]
pub fn hostname(pod: &Pod, facts: &Facts) -> String {
    let spec = pod.spec.as_ref();
    let given = |field: fn(&PodSpec) -> &Option<String>| {
        spec.and_then(|spec| field(spec).clone()).filter(|name| !name.is_empty())
    };
    if let Some(name) = given(|spec| &spec.hostname_override) {
        return name;
    }
    if is_on_host_network(pod) {
        return facts.node_name.clone();
    }
    let short = short_name(pod);
    match domain(pod) {
        Some(domain) if spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true)) => {
            format!("{short}.{domain}")
        }
        Some(_) | None => short,
    }
}

fn short_name(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref());
    if let Some(name) = given.filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match name.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_HOSTNAME_BYTES).last() {
        Some(end) if name.len() > MAX_HOSTNAME_BYTES => {
            name[..end].trim_end_matches(['-', '.']).to_owned()
        }
        Some(_) | None => name.to_owned(),
    }
}

/// The domain that `subdomain` puts the pod in. The cluster's own domain comes with a cluster.
fn domain(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    if spec.hostname_override.as_ref().is_some_and(|name| !name.is_empty()) {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc"))
}

fn is_on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// The text of the pod's `/etc/hosts`. `of_host` is the node's own, for a pod on its network.
#[must_use]
pub fn hosts_file(pod: &Pod, facts: &Facts, of_host: &str) -> String {
    let mut text = if is_on_host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{of_host}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n"
            .to_owned();
        let spec = pod.spec.as_ref();
        let named = spec.and_then(|spec| spec.hostname_override.clone());
        let short = named.filter(|name| !name.is_empty()).unwrap_or_else(|| short_name(pod));
        for ip in &facts.addresses.pod_ips {
            // Writing into a text cannot fail.
            let _ = match domain(pod) {
                Some(domain) => writeln!(text, "{ip}\t{short}.{domain}\t{short}"),
                None => writeln!(text, "{ip}\t{short}"),
            };
        }
        text
    };
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref());
    let aliases = aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

/// What a `resolv.conf` says.
#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The text of the pod's `/etc/resolv.conf`, and what had to be left out of it (messages of the
/// event `DNSConfigForming`, or `MissingClusterDNS`). `of_host` is the node's own.
#[must_use]
pub fn resolv_conf(
    pod: &Pod,
    cluster: Option<&ClusterDns>,
    of_host: &str,
) -> (String, Vec<String>) {
    let spec = pod.spec.as_ref();
    let mut warnings = Vec::new();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut resolver = match (policy, is_on_host_network(pod)) {
        ("None", _) => Resolver::default(),
        ("Default", _) | ("ClusterFirst", true) => Resolver::parse(of_host),
        (_, _) => match cluster.filter(|cluster| !cluster.servers.is_empty()) {
            Some(cluster) => Resolver::parse(of_host).of_cluster(pod, cluster),
            None => {
                warnings.push(missing_cluster(pod));
                Resolver::parse(of_host)
            }
        },
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        resolver.append(config);
    }
    resolver.fit(&mut warnings);
    (resolver.text(), warnings)
}

fn missing_cluster(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let [name, namespace, uid] =
        [&meta.name, &meta.namespace, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    format!(
        "pod: \"{name}_{namespace}({uid})\". kubelet does not have ClusterDNS IP configured and \
         cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy."
    )
}

impl Resolver {
    /// Name servers add up, of search paths and options the last line holds.
    fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let bare = |word: &str| match word {
                        "." => word.to_owned(),
                        _ => word.strip_suffix('.').unwrap_or(word).to_owned(),
                    };
                    resolver.searches = words.map(bare).collect();
                }
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                Some(_) | None => {}
            }
        }
        resolver
    }

    fn of_cluster(self, pod: &Pod, cluster: &ClusterDns) -> Resolver {
        let mut searches = Vec::new();
        if !cluster.domain.is_empty() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &cluster.domain;
            searches.push(format!("{namespace}.svc.{domain}"));
            searches.extend([format!("svc.{domain}"), domain.clone()]);
        }
        searches.extend(self.searches);
        Resolver {
            servers: cluster.servers.clone(),
            searches: without_repeats(searches),
            options: vec!["ndots:5".to_owned()],
        }
    }

    fn append(&mut self, config: &PodDNSConfig) {
        self.servers.extend(config.nameservers.iter().flatten().cloned());
        self.servers = without_repeats(std::mem::take(&mut self.servers));
        self.searches.extend(config.searches.iter().flatten().cloned());
        self.searches = without_repeats(std::mem::take(&mut self.searches));
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let value = option.value.as_deref().filter(|value| !value.is_empty());
            let text = value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}"));
            let is_same = |old: &&mut String| old.split(':').next() == Some(name);
            match self.options.iter_mut().find(is_same) {
                Some(old) => *old = text,
                None => self.options.push(text),
            }
        }
    }

    /// Leaves out what is too much, and says so in upstream's words.
    fn fit(&mut self, warnings: &mut Vec<String>) {
        if self.servers.len() > MAX_NAME_SERVERS {
            self.servers.truncate(MAX_NAME_SERVERS);
            warnings.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: {}",
                self.servers.join(" ")
            ));
        }
        let given = self.searches.len();
        self.searches.truncate(MAX_SEARCH_PATHS);
        self.searches.retain(|path| path.len() <= MAX_SEARCH_PATH_BYTES);
        let mut chars: usize = self.searches.iter().map(|path| path.len() + 1).sum();
        while chars > MAX_SEARCH_CHARS + 1 {
            chars -= self.searches.pop().map_or(chars, |path| path.len() + 1);
        }
        if self.searches.len() < given {
            warnings.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the \
                 applied search line is: {}",
                self.searches.join(" ")
            ));
        }
    }

    /// In the order in which containerd writes it.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |word: &str, values: &[String]| {
            if !values.is_empty() {
                let _ = writeln!(text, "{word} {}", values.join(" "));
            }
        };
        line("search", &self.searches);
        for server in &self.servers {
            line("nameserver", std::slice::from_ref(server));
        }
        line("options", &self.options);
        text
    }
}

fn without_repeats(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    list.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

#[cfg(test)]
#[path = "network_test.rs"]
mod tests;
