//! The addresses of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Bytes of one answer of the kernel: it fills at most 32 KiB for whoever offers that much.
const ANSWER_MAX: usize = 32 << 10;
/// Answers to one question: a host with thousands of interfaces needs some tens.
const ANSWERS_MAX: usize = 4096;

/// Ports are not looked at: nothing is sent.
const ANY_PORT: u16 = 9;
/// Addresses that no network has (RFC 5737, RFC 3849): only the default route leads there.
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The address of this host from which the default route of a family is used; `None` without a
/// route, or with one from an address that others cannot reach.
pub(crate) fn default_address(v6: bool) -> Option<IpAddr> {
    let (from, to): (IpAddr, IpAddr) = if v6 {
        (Ipv6Addr::UNSPECIFIED.into(), ELSEWHERE_V6.into())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), ELSEWHERE_V4.into())
    };
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, ANY_PORT)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    is_node_address(address).then_some(address)
}

/// Whether an address is of a kind that a node may have: no loopback, multicast, link-local or
/// unspecified one.
pub(crate) fn is_node_address(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// All addresses of all interfaces of this host.
///
/// # Errors
/// The kernel's, on its routing socket.
pub(crate) fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request =
        NetlinkMessage::from(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut addresses = Vec::new();
    for _ in 0..ANSWERS_MAX {
        let mut answer = Vec::with_capacity(ANSWER_MAX);
        socket.recv(&mut answer, 0)?;
        if read_answer(&answer, &mut addresses)? {
            return Ok(addresses);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Takes the addresses out of one datagram; whether it was the last one.
fn read_answer(mut answer: &[u8], addresses: &mut Vec<IpAddr>) -> io::Result<bool> {
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidData);
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while !answer.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map_err(wrong)?;
        // Messages stand at multiples of four bytes.
        let length =
            usize::try_from(message.header.length).map_err(|_| io::ErrorKind::InvalidData)?;
        answer = answer.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
        if let NetlinkPayload::Done(_) = message.payload {
            return Ok(true);
        }
        if let NetlinkPayload::Error(error) = message.payload {
            return Err(error.to_io());
        }
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) =
            message.payload
        {
            addresses.extend(own_address(&message));
        }
    }
    Ok(false)
}

/// The host's side of an address: on point-to-point links `Address` is the peer's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(local) = attribute {
            return Some(*local);
        }
        if let AddressAttribute::Address(other) = attribute {
            address = Some(*other);
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_its_loopback_and_the_address_of_its_default_route() {
        let all = host_addresses().expect("the kernel answers");
        assert!(all.contains(&Ipv4Addr::LOCALHOST.into()), "{all:?}");
        if let Some(address) = default_address(false) {
            assert!(all.contains(&address), "{address} is not among {all:?}");
        }
    }

    #[test]
    fn which_addresses_a_node_may_have() {
        for (address, may) in [
            ("10.0.0.1", true),
            ("8.8.8.8", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("224.0.0.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::", false),
        ] {
            assert_eq!(is_node_address(address.parse().expect("an address")), may, "{address}");
        }
    }
}
