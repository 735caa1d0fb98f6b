//! Rules, chains and tables of nftables: writing them in transactions, and finding what is there. Knows no policy.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, Nla as _};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily as Proto,
    nftables::{
        ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, GenAttribute, GenMessage, Hook,
        InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute,
        TableMessage,
    },
    none::ControlMessage,
};
use rustix::io::Errno;

use super::{
    error::Result,
    expressions::{ACCEPT, DROP, Expression},
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
/// `NFTA_MATCH_NAME` and `NFTA_MATCH_INFO`: a match of the old iptables kind inside an nftables rule.
const MATCH_NAME: u16 = 1;
/// See [`MATCH_NAME`].
const MATCH_INFO: u16 = 3;

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

/// A base chain of anybody that drops by policy what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropping {
    pub(super) family: Proto,
    pub(super) table: String,
    pub(super) chain: String,
}

/// All chains that drop forwarded packets by policy.
pub(super) fn dropping_forward_chains(wire: &mut Wire) -> Result<Vec<Dropping>> {
    let request = message(Proto::Unspec, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    let answers = absent_is_empty(wire.dump(request))
        .map_err(|refusal| refusal.during("list chains of", "nftables"))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer.inner {
            NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => {
                dropping(answer.header.family, chain.attributes)
            }
            _ => None,
        })
        .collect())
}

fn dropping(family: Proto, attributes: Vec<ChainAttribute>) -> Option<Dropping> {
    let (mut forward, mut drops) = (false, false);
    let mut found = Dropping { family, table: String::new(), chain: String::new() };
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(table) => found.table = table,
            ChainAttribute::Name(chain) => found.chain = chain,
            ChainAttribute::Policy(policy) => drops = policy == DROP,
            ChainAttribute::Hook(hook) => {
                forward = hook.contains(&Hook::Number(InetHookNumber::Forward.into()))
            }
            _ => {}
        }
    }
    (forward && drops).then_some(found)
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
            RuleAttribute::Expressions(expressions) => {
                let matched = expressions.iter().find_map(comment_match);
                rule.expressions = expressions.len() - usize::from(matched.is_some());
                rule.comment = rule.comment.or(matched);
            }
            RuleAttribute::UserData(data) => rule.comment = read_comment(&data).or(rule.comment),
            _ => {}
        }
    }
    rule
}

/// `iptables-restore` turns the comment of a rule that it saved into a match of its own, which always holds.
fn comment_match(expression: &Expression) -> Option<String> {
    let ListAttribute::Element(parts) = expression else { return None };
    let attributes = parts.iter().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes })
            if expression_type == "match" =>
        {
            Some(attributes)
        }
        _ => None,
    })?;
    let value = |kind| {
        attributes.iter().find(|attribute| attribute.kind() == kind).map(|attribute| {
            let mut bytes = vec![0; attribute.value_len()];
            attribute.emit_value(&mut bytes);
            bytes
        })
    };
    let text = |bytes: Vec<u8>| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    };
    (text(value(MATCH_NAME)?) == "comment").then_some(())?;
    value(MATCH_INFO).map(text)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shell::kernel::{
        expressions::{Is, Way, accept, counter, interface, other},
        wire::append,
    };

    /// As `nft --debug=mnl insert rule ip filter FORWARD iifname "br" counter accept comment "x"` sends it, but for the length of
    /// the name, which follows `iptables-nft`.
    #[rustfmt::skip]
    const RULE: &[u8] = &[
        0xcc, 0, 0, 0,  0x06, 0x0a,  0x01, 0x04,  5, 0, 0, 0,  0, 0, 0, 0, // header: NFT_MSG_NEWRULE, create, sequence 5
        2, 0, 0, 0,                                                         // ip
        0x0b, 0, 1, 0,  b'f', b'i', b'l', b't', b'e', b'r', 0, 0,
        0x0c, 0, 2, 0,  b'F', b'O', b'R', b'W', b'A', b'R', b'D', 0,
        0x98, 0, 4, 0x80,                                                   // expressions
        0x24, 0, 1, 0x80,  9, 0, 1, 0,  b'm', b'e', b't', b'a', 0, 0, 0, 0,
            0x14, 0, 2, 0x80,  8, 0, 2, 0, 0, 0, 0, 6,  8, 0, 1, 0, 0, 0, 0, 1,
        0x2c, 0, 1, 0x80,  8, 0, 1, 0,  b'c', b'm', b'p', 0,
            0x20, 0, 2, 0x80,  8, 0, 1, 0, 0, 0, 0, 1,  8, 0, 2, 0, 0, 0, 0, 0,
                0x0c, 0, 3, 0x80,  7, 0, 1, 0, b'b', b'r', 0, 0,
        0x14, 0, 1, 0x80,  0x0c, 0, 1, 0,  b'c', b'o', b'u', b'n', b't', b'e', b'r', 0,  4, 0, 2, 0x80,
        0x30, 0, 1, 0x80,  0x0e, 0, 1, 0,  b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0, 0,
            0x1c, 0, 2, 0x80,  8, 0, 1, 0, 0, 0, 0, 0,
                0x10, 0, 2, 0x80,  0x0c, 0, 2, 0x80,  8, 0, 1, 0, 0, 0, 0, 1,
        8, 0, 7, 0,  0, 2, b'x', 0,                                         // comment
    ];

    #[test]
    fn rule_is_emitted_byte_for_byte() {
        let expressions = [interface(Way::In, Is::Equal, "br"), vec![counter(), accept()]].concat();
        let rule = Rule { chain: "FORWARD", comment: "x".to_owned(), expressions };
        let Step(message, flags) = add_rule(Proto::IPv4, "filter", &rule, Place::First);
        let mut bytes = Vec::new();
        append(&mut bytes, message, flags | netlink_packet_core::NLM_F_REQUEST, 5);
        assert_eq!(bytes, RULE, "{bytes:02x?}");
    }

    #[test]
    fn comment_is_found_in_either_form() {
        let ours = RuleAttribute::UserData(comment_data("weave-fabric: within weave0"));
        let parts = RuleAttribute::Expressions(vec![counter(), accept()]);
        let rule = found(vec![parts, ours]);
        assert_eq!((rule.comment.as_deref(), rule.expressions), (Some("weave-fabric: within weave0"), 2));

        let mut info = b"weave-fabric: within weave0".to_vec();
        info.resize(256, 0);
        let restored = other("match", vec![(1, b"comment\0".to_vec()), (2, vec![0; 4]), (3, info)]);
        let rule = found(vec![RuleAttribute::Expressions(vec![restored, counter(), accept()])]);
        assert_eq!((rule.comment.as_deref(), rule.expressions), (Some("weave-fabric: within weave0"), 2));

        let conntrack = other("match", vec![(1, b"conntrack\0".to_vec()), (3, vec![0; 160])]);
        let rule = found(vec![RuleAttribute::Expressions(vec![conntrack, accept()])]);
        assert_eq!((rule.comment, rule.expressions), (None, 2));
    }

    proptest! {
        #[test]
        fn comments_come_back(comment in "[ -~]{0,127}") {
            prop_assert_eq!(read_comment(&comment_data(&comment)), Some(comment));
        }

        #[test]
        fn arbitrary_user_data_never_panic(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_comment(&data);
        }
    }
}
