//! DNS messages: questions as they are read from strangers, answers as they are written within the size that the asker takes.
//!
//! hickory parses and writes records; what may be asked, how long answers get and when they are cut is decided here.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

/// Bytes of a header.
const HEADER: usize = 12;
/// UDP answer that everybody takes (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;
/// Longest UDP answer, whatever the asker says it takes: no path fragments it (DNS flag day 2020), and it fits the containers' MTU.
pub(super) const MAX_UDP: u16 = 1232;
/// Longest question that is read. A name has 255 bytes; the rest is for options.
pub(super) const MAX_QUESTION: usize = 1232;
/// An OPT record without options.
const OPT: usize = 11;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A question that can be answered.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    /// Name, type and class as asked.
    pub(super) query: Query,
    recursion_desired: bool,
    /// "Checking disabled" and "DNSSEC OK" change what an upstream answers.
    pub(super) checking_disabled: bool,
    pub(super) dnssec_ok: bool,
    /// Largest UDP answer that the asker takes, if it speaks EDNS.
    payload: Option<u16>,
}

/// Why there is no question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoQuestion {
    /// Nothing to answer to: too short, or itself an answer.
    Silence,
    /// This answer says what was wrong.
    Answer(Vec<u8>, Wrong),
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It does not parse.
    Malformed,
    /// An operation that we do not have.
    Operation,
}

/// What is answered, whoever asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authority: Authority,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

/// On whose authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// Our own.
    Ours,
    /// An upstream's, which said that it had checked signatures.
    Verified,
    /// An upstream's.
    Theirs,
}

impl Reply {
    /// An answer without content.
    pub(super) fn bare(code: ResponseCode) -> Reply {
        Reply { code, authority: Authority::Theirs, answers: Vec::new(), authorities: Vec::new() }
    }
}

impl Question {
    /// Reads a stranger's message.
    pub(super) fn parse(bytes: &[u8]) -> Result<Question, NoQuestion> {
        let Some(header) = bytes.get(..HEADER) else { return Err(NoQuestion::Silence) };
        let Ok(header) = Header::read(&mut BinDecoder::new(header)) else { return Err(NoQuestion::Silence) };
        let (metadata, counts) = (header.metadata, header.counts);
        if metadata.message_type == MessageType::Response {
            return Err(NoQuestion::Silence);
        }
        let refuse = |code, wrong| Err(NoQuestion::Answer(error(&header, code), wrong));
        if metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp, Wrong::Operation);
        }
        // Before anything is allocated by what these say. RFC 9619: a query has one question.
        if counts.queries != 1 || counts.answers != 0 || counts.authorities != 0 || counts.additionals > 2 {
            return refuse(ResponseCode::FormErr, Wrong::Malformed);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return refuse(ResponseCode::FormErr, Wrong::Malformed);
        };
        let Some(query) = message.queries.into_iter().next() else {
            return refuse(ResponseCode::FormErr, Wrong::Malformed);
        };
        let question = Question {
            id: metadata.id,
            query,
            recursion_desired: metadata.recursion_desired,
            checking_disabled: metadata.checking_disabled,
            dnssec_ok: message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            payload: message.edns.as_ref().map(Edns::max_payload),
        };
        match message.edns {
            // RFC 6891 section 6.1.3
            Some(edns) if edns.version() != 0 => {
                let answer = question.write(&Reply::bare(ResponseCode::BADVERS), Transport::Udp);
                Err(NoQuestion::Answer(answer, Wrong::Operation))
            }
            Some(_) | None => Ok(question),
        }
    }

    /// Writes an answer, cut to what the asker takes; it then asks again by TCP.
    pub(super) fn write(&self, reply: &Reply, transport: Transport) -> Vec<u8> {
        let limit = match transport {
            Transport::Udp => self.payload.unwrap_or(PLAIN_UDP).clamp(PLAIN_UDP, MAX_UDP),
            Transport::Tcp => u16::MAX,
        };
        let mut message = Message::response(self.id, OpCode::Query);
        let metadata = &mut message.metadata;
        metadata.recursion_desired = self.recursion_desired;
        metadata.recursion_available = true;
        metadata.checking_disabled = self.checking_disabled;
        metadata.authoritative = reply.authority == Authority::Ours;
        metadata.authentic_data = reply.authority == Authority::Verified;
        // What does not fit four bits goes into the OPT record below.
        metadata.response_code = ResponseCode::from(0, reply.code.low());
        message.add_query(self.query.clone());
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authorities);
        let opt = self.payload.map(|_| self.opt(reply.code)).unwrap_or_default();
        let mut bytes = emit(&message, limit - opt.len() as u16).unwrap_or_else(|| {
            // Records that cannot be written came from an upstream.
            message.answers.clear();
            message.authorities.clear();
            message.metadata.response_code = ResponseCode::ServFail;
            emit(&message, limit).unwrap_or_default()
        });
        if let (false, [_, _, _, _, _, _, _, _, _, _, high, low, ..]) = (opt.is_empty(), &mut bytes[..]) {
            let count = u16::from_be_bytes([*high, *low]) + 1;
            [*high, *low] = count.to_be_bytes();
            bytes.extend(opt);
        }
        bytes
    }

    /// RFC 6891 section 6.1.2: name, type, the size that we take, the code's upper bits, version, flags, no options. Written here since an
    /// answer that is cut must have it too.
    fn opt(&self, code: ResponseCode) -> Vec<u8> {
        let [size_high, size_low] = MAX_UDP.to_be_bytes();
        let dnssec_ok = if self.dnssec_ok { 0x80 } else { 0 };
        let opt: [u8; OPT] = [0, 0, 41, size_high, size_low, code.high(), 0, dnssec_ok, 0, 0, 0];
        opt.to_vec()
    }
}

/// Writes a message within a limit; it says itself when it was cut.
pub(super) fn emit(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    // Behind it may stand what was begun and did not fit.
    let length = encoder.offset();
    bytes.truncate(length);
    Some(bytes)
}

/// An answer to what has no readable question.
fn error(header: &Header, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::response(header.metadata.id, header.metadata.op_code);
    message.metadata.recursion_desired = header.metadata.recursion_desired;
    message.metadata.response_code = code;
    emit(&message, PLAIN_UDP).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, RecordType};
    use proptest::prelude::*;

    use super::*;

    /// A question as a client writes it.
    pub(in crate::shell::dns) fn asked(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().expect("writes")
    }

    /// The same, read.
    pub(in crate::shell::dns) fn question(name: &str, kind: RecordType) -> Question {
        Question::parse(&asked(name, kind, None)).expect("question")
    }

    fn addresses(count: u8) -> Reply {
        let name = Name::from_ascii("web.weave.local.").expect("name");
        let record = |last| Record::from_rdata(name.clone(), 1, RData::A(A(Ipv4Addr::new(10, 32, 0, last))));
        Reply {
            authority: Authority::Ours,
            answers: (0..count).map(record).collect(),
            ..Reply::bare(ResponseCode::NoError)
        }
    }

    #[test]
    fn answers_are_cut_to_what_the_asker_takes() {
        for (payload, transport, limit, all) in [
            (None, Transport::Udp, 512, false),
            (Some(100), Transport::Udp, 512, false),
            (Some(700), Transport::Udp, 700, false),
            (Some(4096), Transport::Udp, 1232, false),
            (None, Transport::Tcp, 65_535, true),
            (Some(512), Transport::Tcp, 65_535, true),
        ] {
            let question =
                Question::parse(&asked("web.weave.local.", RecordType::A, payload)).expect("question");
            let bytes = question.write(&addresses(200), transport);
            assert!(bytes.len() <= limit && (all || bytes.len() + 30 > limit), "{} of {limit}", bytes.len());
            let answer = Message::from_vec(&bytes).expect("parses");
            assert_eq!((answer.metadata.truncation, answer.answers.len() == 200), (!all, all), "{payload:?}");
            assert_eq!(answer.edns.is_some(), payload.is_some(), "OPT is answered by OPT");
            assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
            assert_eq!((answer.metadata.id, answer.queries.len()), (77, 1));
        }
    }

    #[test]
    fn case_of_the_question_comes_back() {
        let question = question("WeB.Weave.LOCAL.", RecordType::A);
        let answer = Message::from_vec(&question.write(&addresses(1), Transport::Udp)).expect("parses");
        assert_eq!(answer.queries[0].name.to_ascii(), "WeB.Weave.LOCAL.");
    }

    #[test]
    fn what_is_no_question_gets_an_error_or_silence() {
        let good = asked("web.weave.local.", RecordType::A, Some(1232));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(Question::parse(&good[..11]).unwrap_err(), NoQuestion::Silence);
        assert_eq!(Question::parse(&changed(2, 0x81)).unwrap_err(), NoQuestion::Silence, "an answer");
        let code = |bytes: &[u8]| match Question::parse(bytes) {
            Err(NoQuestion::Answer(answer, _)) => {
                Message::from_vec(&answer).expect("parses").metadata.response_code
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&changed(2, 0x29)), ResponseCode::NotImp, "an update");
        assert_eq!(code(&changed(5, 2)), ResponseCode::FormErr, "two questions");
        assert_eq!(code(&changed(5, 0)), ResponseCode::FormErr, "none");
        assert_eq!(code(&changed(7, 200)), ResponseCode::FormErr, "answers in a question");
        assert_eq!(code(&good[..20]), ResponseCode::FormErr, "cut short");
        let version = good.len() - 5;
        // 16 has another name in signed messages.
        assert_eq!(u16::from(code(&changed(version, 1))), 16, "a later EDNS");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(question) = Question::parse(&bytes) {
                prop_assert!(!question.write(&addresses(3), Transport::Udp).is_empty());
            }
        }

        #[test]
        fn damaged_questions_are_answered_or_dropped(at in 0..60usize, byte in any::<u8>(), cut in 0..60usize) {
            let mut bytes = asked("a.web.weave.local.", RecordType::AAAA, Some(1232));
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            match Question::parse(&bytes) {
                Ok(question) => {
                    let answer = question.write(&addresses(100), Transport::Udp);
                    prop_assert!(answer.len() <= usize::from(MAX_UDP));
                    Message::from_vec(&answer).expect("what we write parses");
                }
                // Never longer than what came: nobody is flooded by way of us with what costs nothing to ask.
                Err(NoQuestion::Answer(answer, Wrong::Malformed)) => prop_assert!(answer.len() <= bytes.len()),
                Err(NoQuestion::Answer(_, Wrong::Operation) | NoQuestion::Silence) => {}
            }
        }
    }
}
