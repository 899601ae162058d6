//! The texts that tell a container of its network: hostname, `/etc/hosts`, `/etc/resolv.conf`
//! (upstream `GeneratePodHostNameAndDomain`, `managedHostsFileContent`, `pkg/kubelet/network/dns`).

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};
use thiserror::Error;

use crate::event::Failure;
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

/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const MAX_NODE_NAME_BYTES: usize = 64;
/// The search paths that a cluster puts before the node's own.
const CLUSTER_SEARCH_PATHS: usize = 3;

/// The DNS service of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its addresses (`clusterDNS`).
    pub servers: Vec<String>,
    /// The cluster's domain (`clusterDomain`); may be empty.
    pub domain: String,
}

/// The pod's host name with its domain is more than the kernel takes; upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
     ({MAX_NODE_NAME_BYTES} characters is the max, {} characters requested)", .fqdn.len()
)]
pub struct HostnameError {
    fqdn: String,
}

/// Whether the pod's host name is one that the kernel takes (upstream `GetNodenameForKernel`): a
/// pod sandbox is not made otherwise.
///
/// # Errors
/// [`HostnameError`], for `setHostnameAsFQDN` alone.
pub fn check_hostname(pod: &Pod, facts: &Facts) -> Result<(), HostnameError> {
    let fqdn = hostname(pod, facts);
    let is_long = !is_on_host_network(pod) && fqdn.len() > MAX_NODE_NAME_BYTES;
    if is_long { Err(HostnameError { fqdn }) } else { Ok(()) }
}

/// The pod's host name.
#[must_use]
pub fn hostname(pod: &Pod, facts: &Facts) -> String {
    let spec = pod.spec.as_ref();
    if is_on_host_network(pod) && own_name(pod).is_none() {
        return facts.node_name.clone();
    }
    let short = short_name(pod);
    match domain(pod, facts) {
        Some(domain) if spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true)) => {
            format!("{short}.{domain}")
        }
        Some(_) | None => short,
    }
}

/// The name that the pod gives itself whatever else it says.
fn own_name(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.hostname_override.as_deref();
    name.filter(|name| !name.is_empty())
}

/// The first of the names that it has, cut to the longest there is.
fn short_name(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref());
    let name = own_name(pod).or(given.filter(|name| !name.is_empty()));
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    match name.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_HOSTNAME_BYTES).last() {
        Some(end) if name.len() > MAX_HOSTNAME_BYTES => {
            name[..end].trim_end_matches(['-', '.']).to_owned()
        }
        Some(_) | None => name.to_owned(),
    }
}

/// The domain that `subdomain` puts the pod in: below the cluster's own, where there is one.
fn domain(pod: &Pod, facts: &Facts) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|name| !name.is_empty())?;
    if own_name(pod).is_some() {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match facts.cluster_dns.as_ref().map(|cluster| cluster.domain.as_str()) {
        None | Some("") => Some(format!("{subdomain}.{namespace}.svc")),
        Some(cluster) => Some(format!("{subdomain}.{namespace}.svc.{cluster}")),
    }
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
        let short = short_name(pod);
        for ip in &facts.addresses.pod_ips {
            // Writing into a text cannot fail.
            let _ = match domain(pod, facts) {
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search paths.
    pub searches: Vec<String>,
    /// Options, each `NAME` or `NAME:VALUE`.
    pub options: Vec<String>,
}

/// The text of the pod's `/etc/resolv.conf`, and what had to be left out of it, as [`resolver`] has
/// both.
#[must_use]
pub fn resolv_conf(pod: &Pod, facts: &Facts, of_host: &str) -> (String, Vec<Failure>) {
    let (resolver, warnings) = resolver(pod, facts, of_host);
    (resolver.text(), warnings)
}

/// What the pod's `/etc/resolv.conf` says (upstream `GetPodDNS`), and what had to be left out of it:
/// warnings as events of the pod have them. `of_host` is the text of the node's own, of no account
/// where it has none.
#[must_use]
pub fn resolver(pod: &Pod, facts: &Facts, of_host: &str) -> (Resolver, Vec<Failure>) {
    let spec = pod.spec.as_ref();
    let mut warnings = Vec::new();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let of_node = || {
        if facts.resolv_conf.as_deref() == Some("") {
            Resolver::of_nobody(facts)
        } else {
            Resolver::parse(of_host)
        }
    };
    let mut resolver = match (policy, is_on_host_network(pod)) {
        ("None", _) => Resolver::default(),
        ("Default", _) | ("ClusterFirst", true) => of_node(),
        (_, _) => match &facts.cluster_dns {
            None => of_node(),
            Some(cluster) if cluster.servers.is_empty() => {
                warnings.push(Failure {
                    reason: "MissingClusterDNS".to_owned(),
                    message: missing_cluster(pod),
                });
                of_node()
            }
            Some(cluster) if facts.resolv_conf.as_deref() == Some("") => {
                Resolver::default().of_cluster(pod, cluster)
            }
            Some(cluster) => Resolver::parse(of_host).of_cluster(pod, cluster),
        },
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        resolver.append(config);
    }
    let left_out = |message| Failure { reason: "DNSConfigForming".to_owned(), message };
    warnings.extend(resolver.fit().into_iter().map(left_out));
    (resolver, warnings)
}

/// What is wrong with the node's own resolver configuration, the message of the node's event
/// `CheckLimitsForResolvConf`. `path` is where it lies, `domain` the cluster's.
#[must_use]
pub fn resolv_conf_limits(path: &str, of_host: &str, domain: &str) -> Option<String> {
    let searches = Resolver::parse(of_host).searches;
    let most = MAX_SEARCH_PATHS - if domain.is_empty() { 0 } else { CLUSTER_SEARCH_PATHS };
    if searches.len() > most {
        return Some(format!(
            "Resolv.conf file '{path}' contains search line consisting of more than {most} domains!"
        ));
    }
    if searches.iter().any(|path| path.len() > MAX_SEARCH_PATH_BYTES) {
        return Some(format!(
            "Resolv.conf file {path:?} contains a search path which length is more than allowed \
             {MAX_SEARCH_PATH_BYTES} chars!"
        ));
    }
    (searches.join(" ").len() > MAX_SEARCH_CHARS).then(|| {
        format!(
            "Resolv.conf file '{path}' contains search line which length is more than allowed \
             {MAX_SEARCH_CHARS} chars!"
        )
    })
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
    /// Name servers add up, so do options, each once; of search paths the last line holds.
    fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let bare = |word: &str| word.strip_suffix('.').unwrap_or(word).to_owned();
                    resolver.searches = words.filter(|word| *word != ".").map(bare).collect();
                }
                Some("options") => {
                    words.for_each(|option| resolver.set_option(option.to_owned()));
                }
                Some(_) | None => {}
            }
        }
        resolver
    }

    /// Of a node without such a configuration: a server of its own, if any, as the C library has it.
    fn of_nobody(facts: &Facts) -> Resolver {
        let loopback = |ip: &IpAddr| if ip.is_ipv6() { "::1" } else { "127.0.0.1" };
        let mut servers: Vec<_> =
            facts.addresses.host_ips.iter().map(|ip| loopback(ip).to_owned()).collect();
        if servers.is_empty() {
            servers.push("127.0.0.1".to_owned());
        }
        Resolver { servers, searches: vec![".".to_owned()], options: Vec::new() }
    }

    /// Of two options with one name the later one holds.
    fn set_option(&mut self, option: String) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        match self.options.iter_mut().find(|old| name(old) == name(&option)) {
            Some(old) => *old = option,
            None => self.options.push(option),
        }
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
            self.set_option(text);
        }
    }

    /// Leaves out what is too much, and says so in upstream's words.
    fn fit(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
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
        warnings
    }

    /// The text of the file, in the order in which containerd writes it.
    #[must_use]
    pub fn text(&self) -> String {
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
