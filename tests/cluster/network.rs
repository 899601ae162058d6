//! A node's pod network: a bridge with an address of the node's own, and CNI's configuration for it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cluster::{leaks, rules};

/// Where Debian has the plug-ins.
pub const PLUGINS: &str = "/usr/lib/cni";
/// The address range 10.128.0.0/9 is cut into so many networks of 256 addresses.
const NETWORKS: u32 = 1 << 15;

/// A bridge and its configuration, removed with this value.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: [u8; 3],
    conf: PathBuf,
    leases: PathBuf,
}

impl Network {
    /// Makes a bridge by this name, in a network that this machine has no route into, and its
    /// configuration file in the folder `cni` of `dir`.
    #[track_caller]
    pub fn new(name: &str, number: u32, dir: &Path) -> Self {
        let subnet = free_subnet(number);
        let network =
            Self { name: name.into(), subnet, conf: dir.join("cni"), leases: dir.join("leases") };
        fs::create_dir_all(&network.conf).expect("made");
        assert!(leaks::ip(&["link", "add", name, "type", "bridge"]), "cannot make bridge {name}");
        let address = format!("{}/24", network.gateway());
        assert!(leaks::ip(&["addr", "add", &address, "dev", name]));
        assert!(leaks::ip(&["link", "set", name, "up"]));
        network
    }

    /// Writes the configuration that a node waits for: bridge and portmap, addresses by host-local.
    pub fn configure(&self) {
        let [a, b, c] = self.subnet;
        let list = json!({
            "cniVersion": "0.4.0",
            "name": self.name,
            "plugins": [
                {
                    "type": "bridge", "bridge": self.name, "isGateway": true, "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.leases,
                        "ranges": [[{"subnet": format!("{a}.{b}.{c}.0/24")}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        // In one step, as whoever installs a network should.
        let file = self.conf.join("10-test.conflist");
        fs::write(file.with_extension("new"), list.to_string()).expect("written");
        fs::rename(file.with_extension("new"), file).expect("renamed");
    }

    /// Takes the configuration away again.
    pub fn unconfigure(&self) {
        fs::remove_file(self.conf.join("10-test.conflist")).expect("removed");
    }

    /// The bridge's name, and the network's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bridge's own address, which is the node's.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// Whether an address is of this network.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.subnet
    }

    /// The folder with the configuration.
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    /// The interfaces that are on the bridge: one for each pod.
    pub fn ports(&self) -> Vec<String> {
        names(&Path::new("/sys/class/net").join(&self.name).join("brif"))
    }

    /// The addresses that are given to pods.
    pub fn leased(&self) -> Vec<String> {
        let mut all = names(&self.leases.join(&self.name));
        all.retain(|name| name.parse::<Ipv4Addr>().is_ok());
        all
    }

    /// What pods have left, a line each.
    pub fn leaks(&self) -> Vec<String> {
        let ports = self.ports().into_iter().map(|name| format!("interface: {name}"));
        let leases = self.leased().into_iter().map(|address| format!("IP lease: {address}"));
        let mut left: Vec<String> = ports.chain(leases).collect();
        left.extend(rules::of(&self.name).iter().map(|rule| format!("iptables: {rule}")));
        left
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for port in self.ports() {
            leaks::ip(&["link", "del", &port]);
        }
        leaks::ip(&["link", "del", &self.name]);
        rules::remove(&self.name);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A network that no interface of this machine is in.
fn free_subnet(number: u32) -> [u8; 3] {
    let output = Command::new("ip").args(["-o", "-4", "addr"]).output().expect("ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let taken: Vec<[u8; 3]> = text
        .split_whitespace()
        .filter_map(|word| word.split('/').next()?.parse::<Ipv4Addr>().ok())
        .map(|address| [address.octets()[0], address.octets()[1], address.octets()[2]])
        .collect();
    let first = std::process::id().wrapping_mul(37).wrapping_add(number);
    (0..NETWORKS)
        .map(|step| {
            let [.., b, c] = (first.wrapping_add(step) % NETWORKS).to_be_bytes();
            [10, 128 + b, c]
        })
        .find(|subnet| !taken.contains(subnet))
        .expect("not all networks are taken")
}
