//! Expressions of nftables rules: matches on interfaces, addresses and connection tracking, counters, verdicts. Knows no rule or table.
//!
//! `netlink-packet-netfilter` has the messages; the expressions that it has no type for (`ct`, `counter`, `masq`) are spelt out here with
//! the attribute numbers of `linux/netfilter/nf_tables.h`.

use std::fmt;

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::{
    NetfilterProtoFamily as Proto,
    nftables::{
        Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta,
        MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
    },
};

/// `NF_ACCEPT`.
pub(super) const ACCEPT: u32 = 1;
/// `NF_DROP`.
pub(super) const DROP: u32 = 0;
/// Offset base of a payload match: the network header.
const NETWORK_HEADER: u32 = 1;
/// Offset base of a payload match: the transport header.
const TRANSPORT_HEADER: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 1 << 4;

/// An expression of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// Which interface of a packet.
#[derive(Clone, Copy)]
pub(super) enum Way {
    In,
    Out,
}

/// Whether something has to be so, or must not.
#[derive(Clone, Copy)]
pub(super) enum Is {
    Equal,
    Different,
}

/// Which address of a packet.
#[derive(Clone, Copy)]
pub(super) enum End {
    Source,
    Destination,
}

/// `iifname NAME`, `oifname != NAME`. By name, not by index: the rule survives a bridge that is deleted and made again. The length with
/// the NUL, as `iptables-nft` writes it, so that it can read the rule too.
pub(super) fn interface(way: Way, is: Is, name: &str) -> Vec<Expression> {
    let key = match way {
        Way::In => MetaKey::Iifname,
        Way::Out => MetaKey::Oifname,
    };
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    vec![load_meta(key), compare(is, value)]
}

/// `ip saddr NET`, `ip6 daddr != NET`, with the check of the family that a table of the `inet` family needs.
pub(super) fn address(end: End, is: Is, net: IpNet) -> Vec<Expression> {
    let (family, offset, network, mask) = match net {
        IpNet::V4(net) => {
            let offset = match end {
                End::Source => 12,
                End::Destination => 16,
            };
            (Proto::IPv4, offset, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
        IpNet::V6(net) => {
            let offset = match end {
                End::Source => 8,
                End::Destination => 24,
            };
            (Proto::IPv6, offset, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
    };
    let length = u32::try_from(network.len()).unwrap_or_default();
    let payload = Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(offset),
        Payload::Len(length),
    ]);
    vec![
        load_meta(MetaKey::Nfproto),
        compare(Is::Equal, vec![u8::from(family)]),
        payload.into(),
        mask_with(length, mask),
        compare(is, network),
    ]
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        })
    }
}

/// `udp dport PORT`, `tcp dport PORT`.
pub(super) fn port(protocol: Protocol, port: u16) -> Vec<Expression> {
    let number: u8 = match protocol {
        Protocol::Udp => 17,
        Protocol::Tcp => 6,
    };
    let payload = Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(TRANSPORT_HEADER),
        Payload::Offset(2),
        Payload::Len(2),
    ]);
    vec![
        load_meta(MetaKey::L4Proto),
        compare(Is::Equal, vec![number]),
        payload.into(),
        compare(Is::Equal, port.to_be_bytes().to_vec()),
    ]
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy)]
pub(super) enum Tracked {
    /// `ct state established,related`.
    Answer,
    /// `ct status dnat`: somebody published a port of a container.
    Published,
}

/// A match on connection tracking. The register holds the word in the byte order of the host.
pub(super) fn tracked(what: Tracked) -> Vec<Expression> {
    let (key, bits): (u32, u32) = match what {
        Tracked::Answer => (0, 0b110),
        Tracked::Published => (2, 1 << 5),
    };
    let load = other(
        "ct",
        vec![(1, u32::from(Register::Reg1).to_be_bytes().to_vec()), (2, key.to_be_bytes().to_vec())],
    );
    vec![load, mask_with(4, bits.to_ne_bytes().to_vec()), compare(Is::Different, vec![0; 4])]
}

/// Counts what reaches it.
pub(super) fn counter() -> Expression {
    other("counter", Vec::new())
}

pub(super) fn accept() -> Expression {
    verdict(ACCEPT)
}

pub(super) fn drop() -> Expression {
    verdict(DROP)
}

/// `masquerade fully-random`. Random ports, since two containers that choose the same one race in connection tracking and the loser's
/// packet is dropped: the 5 s delay of DNS in many a cluster.
pub(super) fn masquerade() -> Expression {
    other("masq", vec![(1, RANDOM_FULLY.to_be_bytes().to_vec())])
}

fn verdict(code: u32) -> Expression {
    let code = VerdictAttribute::Code(Verdict::Other(code));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![code])),
    ])
    .into()
}

fn load_meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

fn compare(is: Is, value: Vec<u8>) -> Expression {
    let operator = match is {
        Is::Equal => Operator::Equal,
        Is::Different => Operator::NotEqual,
    };
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

fn mask_with(length: u32, mask: Vec<u8>) -> Expression {
    let nothing = vec![0; mask.len()];
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(length),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(nothing)),
    ])
    .into()
}

pub(super) fn other(name: &str, attributes: Vec<(u16, Vec<u8>)>) -> Expression {
    let attributes = attributes.into_iter().map(|(kind, value)| DefaultNla::new(kind, value)).collect();
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Nla as _;

    use super::*;

    #[test]
    fn connection_tracking_is_compared_in_host_order() {
        let [load, mask, compare] = tracked(Tracked::Answer).try_into().expect("three expressions");
        let bytes = |expression: Expression| {
            let mut bytes = vec![0; expression.value_len()];
            expression.emit_value(&mut bytes);
            bytes
        };
        assert!(bytes(load).ends_with(&[8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0]));
        assert!(bytes(mask).windows(4).any(|word| word == 6u32.to_ne_bytes()));
        assert!(bytes(compare).ends_with(&[8, 0, 1, 0, 0, 0, 0, 0]));
    }
}
