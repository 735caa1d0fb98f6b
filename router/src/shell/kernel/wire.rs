//! A blocking netlink socket: requests out, answers in, for rtnetlink and nftables alike. Knows framing, not meaning.
//!
//! The kernel works on a netlink request inside the sender's system call, and creating or deleting a device waits there for an RCU grace
//! period (tens of milliseconds). So these sockets live on worker threads, never on the thread of the event loop; and a socket opened by
//! a thread inside a container's namespace acts on that namespace for as long as it lives.

use std::{io, time::Duration};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{KernelError, Result};

/// How long the kernel may take for one answer. It answers from within the request, so this only guards against our own miscounting;
/// long enough for a machine that swaps, short enough that a caller's deadline still means something.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a dump is repeated that other changes kept interrupting. Each repeat sees a newer state; after this the last one is used.
const DUMP_ATTEMPTS: u32 = 4;

/// The kernel's message inside an extended acknowledgement (`NLMSGERR_ATTR_MSG`).
const EXTENDED_ACK_MESSAGE: u16 = 1;
/// Header flag: attributes follow the error (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
/// Header flag: the state changed during the dump (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;
/// Length of a netlink header, which precedes the attributes of an extended acknowledgement.
const HEADER_LEN: usize = 16;

/// One request of a batch.
pub(super) struct Request<M> {
    pub(super) message: M,
    /// Flags beside `NLM_F_REQUEST`.
    pub(super) flags: u16,
    pub(super) reply: Reply,
}

/// Whether the kernel confirms a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It acknowledges: the exchange waits for it.
    Acknowledged,
    /// It says nothing unless it refuses the whole batch (begin and end of an nftables transaction).
    Silent,
}

/// The kernel said no.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: io::Error,
    pub(super) note: String,
}

impl Refusal {
    pub(super) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno.raw_os_error() == Some(errno.raw_os_error())
    }

    pub(super) fn during(self, operation: &'static str, object: impl Into<String>) -> KernelError {
        KernelError::Refused { operation, object: object.into(), errno: self.errno, note: self.note }
    }
}

/// Answer to one request: the messages that came before the acknowledgement, or the refusal.
pub(super) type Answer<M> = std::result::Result<Vec<M>, Refusal>;

pub(super) struct Wire {
    socket: Socket,
    port: u32,
    sequence: u32,
}

impl Wire {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize) -> Result<Self> {
        let refused =
            |errno| KernelError::refused("open netlink socket of protocol", protocol.to_string(), errno);
        let mut socket = Socket::new(protocol).map_err(refused)?;
        let address = socket.bind_auto().map_err(refused)?;
        // Both are conveniences: shorter error messages, and the kernel's own words for them.
        for outcome in [socket.set_cap_ack(true), socket.set_ext_ack(true)] {
            outcome.map_err(refused)?;
        }
        Ok(Self { socket, port: address.port_number(), sequence: 0 })
    }

    /// Our address on the netlink bus: notifications about our own changes carry it.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) fn request<M>(&mut self, message: M, flags: u16) -> Answer<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut answers = self.exchange(vec![Request { message, flags, reply: Reply::Acknowledged }]);
        answers.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Sends all requests in one system call and returns their answers in the same order.
    pub(super) fn exchange<M>(&mut self, requests: Vec<Request<M>>) -> Vec<Answer<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let mut waiting = Vec::with_capacity(requests.len());
        let mut answers = Vec::with_capacity(requests.len());
        for Request { message, flags, reply } in requests {
            let flags = match reply {
                Reply::Acknowledged => flags | NLM_F_REQUEST | NLM_F_ACK,
                Reply::Silent => flags | NLM_F_REQUEST,
            };
            self.push(&mut datagram, message, flags);
            waiting.push(reply == Reply::Acknowledged);
            answers.push(Ok(Vec::new()));
        }
        let outcome = self.send(&datagram).and_then(|()| self.collect(first, &mut waiting, &mut answers));
        if let Err(errno) = outcome {
            fail_waiting(&waiting, &mut answers, &errno);
        }
        answers
    }

    /// Asks for a listing.
    pub(super) fn dump<M>(&mut self, message: M) -> Answer<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let mut listing = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let (found, interrupted) = self.dump_once(message.clone())?;
            listing = found;
            if !interrupted {
                break;
            }
        }
        Ok(listing)
    }

    fn dump_once<M>(&mut self, message: M) -> std::result::Result<(Vec<M>, bool), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut datagram = Vec::new();
        let sequence = self.push(&mut datagram, message, NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&datagram).map_err(io_refusal)?;
        let (mut listing, mut interrupted) = (Vec::new(), false);
        loop {
            let bytes = self.receive().map_err(io_refusal)?;
            for frame in frames(&bytes) {
                if frame.sequence_number() != sequence {
                    continue;
                }
                interrupted |= frame.flags() & DUMP_INTERRUPTED != 0;
                match parse::<M>(&frame) {
                    Some(NetlinkPayload::InnerMessage(inner)) => listing.push(inner),
                    Some(NetlinkPayload::Error(error)) => match refusal(&error, frame.flags()) {
                        Some(refusal) => return Err(refusal),
                        None => return Ok((listing, interrupted)),
                    },
                    Some(NetlinkPayload::Done(done)) if done.code < 0 => {
                        return Err(io_refusal(io::Error::from_raw_os_error(-done.code)));
                    }
                    Some(NetlinkPayload::Done(_)) => return Ok((listing, interrupted)),
                    Some(_) | None => {}
                }
            }
        }
    }

    fn push<M: NetlinkSerializable>(&mut self, datagram: &mut Vec<u8>, message: M, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        append(datagram, message, flags, self.sequence);
        self.sequence
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, &SocketAddr::new(0, 0), 0).map(|_| ())
    }

    /// Reads until nothing is awaited any more, or a silent request was refused: then the kernel read no further.
    fn collect<M>(&self, first: u32, waiting: &mut [bool], answers: &mut [Answer<M>]) -> io::Result<()>
    where
        M: NetlinkDeserializable,
    {
        while waiting.contains(&true) {
            let bytes = self.receive()?;
            for frame in frames(&bytes) {
                let index = frame.sequence_number().wrapping_sub(first) as usize;
                let (Some(awaited), Some(answer)) = (waiting.get_mut(index), answers.get_mut(index)) else {
                    continue; // a late answer to an earlier exchange
                };
                match parse::<M>(&frame) {
                    Some(NetlinkPayload::InnerMessage(inner)) => {
                        if let Ok(messages) = answer {
                            messages.push(inner);
                        }
                    }
                    Some(NetlinkPayload::Error(error)) => {
                        let silent = !std::mem::replace(awaited, false);
                        if let Some(refusal) = refusal(&error, frame.flags()) {
                            *answer = Err(refusal);
                            if silent {
                                return Err(error.to_io());
                            }
                        }
                    }
                    Some(_) | None => {}
                }
            }
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let timeout = Timespec { tv_sec: ANSWER_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
        loop {
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut ready, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let (bytes, from) = self.socket.recv_from_full()?;
            // Only the kernel is port 0; any process may send to our port.
            if from.port_number() == 0 {
                return Ok(bytes);
            }
        }
    }
}

/// Writes one framed message behind those that are in the datagram already.
pub(super) fn append<M: NetlinkSerializable>(datagram: &mut Vec<u8>, message: M, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

fn io_refusal(errno: io::Error) -> Refusal {
    Refusal { errno, note: String::new() }
}

fn fail_waiting<M>(waiting: &[bool], answers: &mut [Answer<M>], errno: &io::Error) {
    for (answer, waiting) in answers.iter_mut().zip(waiting) {
        if *waiting {
            let errno = match errno.raw_os_error() {
                Some(raw) => io::Error::from_raw_os_error(raw),
                None => io::Error::from(errno.kind()),
            };
            *answer = Err(io_refusal(errno));
        }
    }
}

/// Splits a datagram into netlink messages. What is malformed ends the walk: the kernel does not send such.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let frame = NetlinkBuffer::new_checked(rest).ok()?;
        let length = frame.length() as usize;
        let whole = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkBuffer::new(whole))
    })
}

/// Parses one message. `None` for one that our libraries cannot read: one odd device must not hide all others.
pub(super) fn parse<M: NetlinkDeserializable>(frame: &NetlinkBuffer<&[u8]>) -> Option<NetlinkPayload<M>> {
    match NetlinkMessage::<M>::deserialize(frame.clone().into_inner()) {
        Ok(message) => Some(message.payload),
        Err(error) => {
            tracing::debug!(%error, "skipped a netlink message that could not be parsed");
            None
        }
    }
}

fn refusal(error: &ErrorMessage, flags: u16) -> Option<Refusal> {
    error.code?;
    let note = if flags & ACK_TLVS == 0 { String::new() } else { extended_message(&error.header) };
    Some(Refusal { errno: error.to_io(), note })
}

/// With capped acknowledgements the request's header is followed by the attributes at once.
fn extended_message(payload: &[u8]) -> String {
    let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
    NlasIterator::new(attributes)
        .map_while(std::result::Result::ok)
        .find(|attribute| attribute.kind() == EXTENDED_ACK_MESSAGE)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::RouteNetlinkMessage;
    use proptest::prelude::*;

    use super::*;
    use crate::shell::kernel::links;

    #[test]
    fn messages_of_a_datagram_are_told_apart() {
        let mut datagram = Vec::new();
        for (sequence, name) in [(7, "weave0"), (8, "a"), (9, "interface-15-ch")] {
            append(&mut datagram, RouteNetlinkMessage::GetLink(links::named(name)), NLM_F_REQUEST, sequence);
        }
        let sequences: Vec<_> = frames(&datagram).map(|frame| frame.sequence_number()).collect();
        assert_eq!(sequences, [7, 8, 9]);
    }

    #[test]
    fn the_kernels_words_are_kept() {
        let mut payload = vec![0; HEADER_LEN];
        payload.extend([8, 0, 2, 0, 1, 2, 3, 4]); // an attribute that we do not know
        payload.extend([11, 0, 1, 0]);
        payload.extend(b"no gate\0");
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZeroI32::new(-22);
        error.header = payload;
        let refused = refusal(&error, ACK_TLVS).expect("a refusal");
        assert_eq!((refused.errno.raw_os_error(), refused.note.as_str()), (Some(22), "no gate"));
        assert_eq!(refusal(&error, 0).expect("a refusal").note, "");
        error.code = None;
        assert!(refusal(&error, 0).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for frame in frames(&bytes) {
                let _ = parse::<RouteNetlinkMessage>(&frame);
                let _ = parse::<netlink_packet_netfilter::NetfilterMessage>(&frame);
            }
            let _ = extended_message(&bytes);
        }
    }
}
