//! Words of nftables: matches and verdicts as netlink expressions, rules with a comment, transactions. Knows no policy.
//!
//! `netlink-packet-netfilter` has the messages; the expressions that it has no type for (`ct`, `counter`, `masq`) are spelt out here with
//! the attribute numbers of `linux/netfilter/nf_tables.h`.

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily as Proto,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
        GenAttribute, GenMessage, Hook, Immediate, InetHookNumber, ListAttribute, Meta, MetaKey,
        NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute,
        TableMessage, Verdict, VerdictAttribute,
    },
    none::ControlMessage,
};
use rustix::io::Errno;

use super::{
    error::Result,
    wire::{Answer, Refusal, Reply, Request, Wire},
};

/// `NFNL_SUBSYS_NFTABLES`: whom a transaction is for.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u8 = 16;
/// `NFNL_BATCH_GENID`: the transaction holds only for this generation of the ruleset.
const BATCH_GENERATION: u16 = 1;
/// Type of a comment in a rule's user data (`NFTNL_UDATA_RULE_COMMENT`).
const UDATA_COMMENT: u8 = 0;
/// Longest comment that `nft` shows (`NFTNL_UDATA_COMMENT_MAXLEN`), its NUL included.
const MAX_COMMENT: usize = 128;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NF_DROP`.
const DROP: u32 = 0;
/// Offset base of a payload match: the network header.
const NETWORK_HEADER: u32 = 1;
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
    other("counter", vec![(1, vec![0; 8]), (2, vec![0; 8])])
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

fn other(name: &str, attributes: Vec<(u16, Vec<u8>)>) -> Expression {
    let attributes = attributes.into_iter().map(|(kind, value)| DefaultNla::new(kind, value)).collect();
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}

/// A rule of ours. The comment says what it is for, and two rules with one comment are the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) comment: String,
    pub(super) expressions: Vec<Expression>,
}

/// A base chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
}

/// A rule as it is found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundRule {
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) comment: Option<String>,
    pub(super) expressions: usize,
}

/// One step of a transaction.
pub(super) struct Step(NetfilterMessage, u16);

pub(super) fn add_table(family: Proto, table: &str) -> Step {
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    Step(message(family, NfTablesMessage::NewTable(TableMessage { attributes })), NLM_F_CREATE)
}

pub(super) fn delete_table(family: Proto, table: &str) -> Step {
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    Step(message(family, NfTablesMessage::DeleteTable(TableMessage { attributes })), 0)
}

/// Adds a base chain with policy accept: what we refuse is refused by a rule with a comment.
pub(super) fn add_chain(family: Proto, table: &str, chain: &Chain) -> Step {
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.name.to_owned()),
        ChainAttribute::Hook(vec![
            Hook::Number(chain.hook.into()),
            Hook::Priority(chain.priority.cast_unsigned()),
        ]),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type(chain.kind.to_owned()),
    ];
    Step(message(family, NfTablesMessage::NewChain(ChainMessage { attributes })), NLM_F_CREATE)
}

/// Where in its chain a rule goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    First,
    Last,
}

pub(super) fn add_rule(family: Proto, table: &str, rule: &Rule, place: Place) -> Step {
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(rule.chain.to_owned()),
        RuleAttribute::Expressions(rule.expressions.clone()),
        RuleAttribute::UserData(comment_data(&rule.comment)),
    ];
    let flags = match place {
        Place::First => NLM_F_CREATE,
        Place::Last => NLM_F_CREATE | NLM_F_APPEND,
    };
    Step(message(family, NfTablesMessage::NewRule(RuleMessage { attributes })), flags)
}

pub(super) fn delete_rule(family: Proto, table: &str, chain: &str, handle: u64) -> Step {
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    Step(message(family, NfTablesMessage::DeleteRule(RuleMessage { attributes })), 0)
}

/// Applies all steps or none. With a generation, only if nobody changed the ruleset since it was read.
pub(super) fn commit(
    wire: &mut Wire,
    steps: Vec<Step>,
    generation: Option<u32>,
) -> std::result::Result<(), Refusal> {
    let header = NetfilterHeader::new(Proto::Unspec, 0, SUBSYSTEM);
    let begin = match generation {
        None => ControlMessage::BatchBegin,
        Some(generation) => ControlMessage::Other {
            message_type: BATCH_BEGIN,
            attributes: vec![DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().to_vec())],
        },
    };
    let silent = |control| Request {
        message: NetfilterMessage::new(header.clone(), control),
        flags: 0,
        reply: Reply::Silent,
    };
    let mut requests = vec![silent(begin)];
    requests.extend(steps.into_iter().map(|Step(message, flags)| Request {
        message,
        flags,
        reply: Reply::Acknowledged,
    }));
    requests.push(silent(ControlMessage::BatchEnd));
    wire.exchange(requests).into_iter().try_for_each(|answer| answer.map(|_| ()))
}

/// The number of the ruleset's current generation.
pub(super) fn generation(wire: &mut Wire) -> Result<u32> {
    let request = message(Proto::Unspec, NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() }));
    let answers =
        wire.request(request, 0).map_err(|refusal| refusal.during("read generation of", "nftables"))?;
    let ids = answers.into_iter().filter_map(|answer| match answer.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(generation)) => Some(generation.attributes),
        _ => None,
    });
    let id = ids.flatten().find_map(|attribute| match attribute {
        GenAttribute::Id(id) => Some(id),
        _ => None,
    });
    id.ok_or(super::error::KernelError::UnexpectedAnswer {
        operation: "read generation of nftables",
        got: "no id".to_owned(),
        want: "an id",
    })
}

/// Names of the chains of a table; `None` when there is no such table.
pub(super) fn chains(wire: &mut Wire, family: Proto, table: &str) -> Result<Option<Vec<String>>> {
    // The kernel cannot filter chains by table, but by family; without the table's own record an empty table looks like none.
    let request = message(
        family,
        NfTablesMessage::GetTable(TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] }),
    );
    match wire.request(request, 0) {
        Ok(_) => {}
        Err(refusal) if refusal.is(Errno::NOENT) => return Ok(None),
        Err(refusal) => return Err(refusal.during("look up table", table)),
    }
    let request = message(family, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    let answers =
        absent_is_empty(wire.dump(request)).map_err(|refusal| refusal.during("list chains of", table))?;
    let names = answers.into_iter().filter_map(|answer| match answer.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => {
            chain_name(&chain.attributes, table)
        }
        _ => None,
    });
    Ok(Some(names.collect()))
}

fn chain_name(attributes: &[ChainAttribute], table: &str) -> Option<String> {
    let (mut name, mut ours) = (None, false);
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(of) => ours = of == table,
            ChainAttribute::Name(is) => name = Some(is.clone()),
            _ => {}
        }
    }
    name.filter(|_| ours)
}

/// Rules of a table, or of one of its chains, in their order.
pub(super) fn rules(
    wire: &mut Wire,
    family: Proto,
    table: &str,
    chain: Option<&str>,
) -> Result<Vec<FoundRule>> {
    let mut attributes = vec![RuleAttribute::Table(table.to_owned())];
    attributes.extend(chain.map(|chain| RuleAttribute::Chain(chain.to_owned())));
    let request = message(family, NfTablesMessage::GetRule(RuleMessage { attributes }));
    let answers =
        absent_is_empty(wire.dump(request)).map_err(|refusal| refusal.during("list rules of", table))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer.inner {
            NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) => Some(found(rule.attributes)),
            _ => None,
        })
        .collect())
}

fn absent_is_empty<M>(answer: Answer<M>) -> Answer<M> {
    match answer {
        Err(refusal) if refusal.is(Errno::NOENT) => Ok(Vec::new()),
        other => other,
    }
}

fn found(attributes: Vec<RuleAttribute>) -> FoundRule {
    let mut rule = FoundRule { chain: String::new(), handle: 0, comment: None, expressions: 0 };
    for attribute in attributes {
        match attribute {
            RuleAttribute::Chain(chain) => rule.chain = chain,
            RuleAttribute::Handle(handle) => rule.handle = handle,
            RuleAttribute::Expressions(expressions) => rule.expressions = expressions.len(),
            RuleAttribute::UserData(data) => rule.comment = read_comment(&data),
            _ => {}
        }
    }
    rule
}

fn message(family: Proto, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// User data are records of type, length, value; a comment ends with a NUL.
fn comment_data(comment: &str) -> Vec<u8> {
    let text: Vec<u8> = comment.bytes().take(MAX_COMMENT - 1).chain([0]).collect();
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [vec![UDATA_COMMENT, length], text].concat()
}

fn read_comment(data: &[u8]) -> Option<String> {
    let mut rest = data;
    while let [kind, length, after @ ..] = rest {
        let value = after.get(..usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = after.get(usize::from(*length)..)?;
    }
    None
}
