//! What stands for WireGuard and ML-KEM in a simulation (`core::simulated`): datagrams of the same form and length, refused for the same
//! damage, replays and wrong keys, made and opened by a hash. Keeps nothing secret.
//!
//! Follows boringtun where that can be seen from outside: which response finishes which initiation, on which session of a link is sealed,
//! what is opened when. Nothing of it draws randomness.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::chunks::MAX_DATAGRAM;
use super::drops::DropReason;
use super::link::{Received, WireKind};
use crate::core::sealed::SealedDatagram;
use crate::core::simulated::{hash, tick};

/// Lengths of WireGuard's messages, and of their parts.
const INITIATION: usize = 148;
const RESPONSE: usize = 92;
const COOKIE: usize = 64;
const MAC: usize = 16;
const MACS: usize = 2 * MAC;
const DATA_HEAD: usize = 16;
const TAG: usize = 16;
/// Where an initiation has its ephemeral key, its sender's static key and its time.
const EPHEMERAL: usize = 8;
const STATIC: usize = 40;
const TIME: usize = 88;
/// Sessions of one link, as in boringtun.
const SESSIONS: usize = 8;
/// Counters behind the highest that may still come, as in boringtun.
const WINDOW: u64 = 1024;

/// One side of a handshake and of the sessions that it gave.
pub(super) struct Tunnel {
    me: [u8; 32],
    peer: [u8; 32],
    psk: [u8; 32],
    next: u32,
    /// Initiations without a response, the newest first: their index and ephemeral key.
    sent: [Option<(u32, [u8; 32])>; 2],
    /// The MAC that a cookie has to answer.
    last_mac: Option<[u8; MAC]>,
    cookie: Option<[u8; MAC]>,
    last_time: u64,
    sessions: [Option<Box<Session>>; SESSIONS],
    current: u32,
}

struct Session {
    ours: u32,
    theirs: u32,
    sending: [u8; 16],
    receiving: [u8; 16],
    counter: u64,
    window: Window,
}

impl Tunnel {
    pub(super) fn new(me: [u8; 32], peer: [u8; 32], psk: [u8; 32], index: u32) -> Self {
        Self {
            me,
            peer,
            psk,
            next: index << 8,
            sent: [None; 2],
            last_mac: None,
            cookie: None,
            last_time: 0,
            sessions: Default::default(),
            current: 0,
        }
    }

    pub(super) fn initiate(&mut self) -> SealedDatagram {
        let (index, time) = (self.next_index(), tick());
        let ephemeral = wide(&[b"ephemeral", &self.me, &time.to_le_bytes()]);
        let mut bytes = Vec::with_capacity(INITIATION);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&ephemeral);
        bytes.extend_from_slice(&self.me);
        bytes.extend_from_slice(&static_tag(&self.peer, &bytes));
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&time.to_le_bytes());
        bytes.extend_from_slice(&short(&[b"time", &bytes]));
        self.sent = [Some((index, ephemeral)), self.sent[0]];
        self.add_macs(&mut bytes);
        debug_assert_eq!(bytes.len(), INITIATION);
        SealedDatagram::new(bytes)
    }

    /// Seals on the session that was last heard.
    pub(super) fn seal(&mut self, payload: &[u8]) -> Option<SealedDatagram> {
        if payload.len() > MAX_DATAGRAM {
            return None;
        }
        let session = self.sessions[slot(self.current)].as_mut()?;
        let mut bytes = Vec::with_capacity(DATA_HEAD + payload.len() + TAG);
        bytes.extend_from_slice(&4u32.to_le_bytes());
        bytes.extend_from_slice(&session.theirs.to_le_bytes());
        bytes.extend_from_slice(&session.counter.to_le_bytes());
        bytes.extend_from_slice(payload);
        let tag = short(&[&session.sending, &bytes]);
        bytes.extend_from_slice(&tag);
        session.counter += 1;
        Some(SealedDatagram::new(bytes))
    }

    pub(super) fn receive(&mut self, kind: WireKind, bytes: &[u8]) -> Received {
        let received = match kind {
            WireKind::Initiation => self.answer(bytes),
            WireKind::Response => self.finish(bytes),
            WireKind::Cookie => self.take_cookie(bytes),
            WireKind::Data => self.open(bytes),
        };
        received.unwrap_or_else(Received::Dropped)
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<Received, DropReason> {
        if bytes.len() != INITIATION || initiator(&self.me, bytes) != Some(self.peer) {
            return Err(DropReason::HandshakeInvalid);
        }
        let time = u64::from_le_bytes(field(bytes, TIME + 4));
        if short(&[b"time", &bytes[..TIME + 12]]) != field(bytes, TIME + 12) {
            return Err(DropReason::HandshakeInvalid);
        }
        if time <= self.last_time {
            return Err(DropReason::HandshakeReplayed);
        }
        self.last_time = time;
        let (ours, theirs) = (self.next_index(), u32::from_le_bytes(field(bytes, 4)));
        let (initiator, responder) =
            (field(bytes, EPHEMERAL), wide(&[b"answer", &self.me, &tick().to_le_bytes()]));
        let keys = Keys::new(&self.psk, &initiator, &responder);
        let mut answer = Vec::with_capacity(RESPONSE);
        answer.extend_from_slice(&2u32.to_le_bytes());
        answer.extend_from_slice(&ours.to_le_bytes());
        answer.extend_from_slice(&theirs.to_le_bytes());
        answer.extend_from_slice(&responder);
        answer.extend_from_slice(&short(&[b"proof", &keys.to_responder, &answer]));
        self.add_macs(&mut answer);
        debug_assert_eq!(answer.len(), RESPONSE);
        self.keep(Session::new(ours, theirs, keys.to_initiator, keys.to_responder));
        Ok(Received::Respond(SealedDatagram::new(answer)))
    }

    fn finish(&mut self, bytes: &[u8]) -> Result<Received, DropReason> {
        if bytes.len() != RESPONSE {
            return Err(DropReason::HandshakeMalformed);
        }
        let (theirs, ours) = (u32::from_le_bytes(field(bytes, 4)), u32::from_le_bytes(field(bytes, 8)));
        let at = self.sent.iter().position(|sent| sent.is_some_and(|(index, _)| index == ours));
        let Some((at, (_, initiator))) = at.and_then(|at| Some((at, self.sent[at]?))) else {
            return Err(DropReason::HandshakeUnexpected);
        };
        let keys = Keys::new(&self.psk, &initiator, &field(bytes, 12));
        if short(&[b"proof", &keys.to_responder, &bytes[..44]]) != field(bytes, 44) {
            return Err(DropReason::HandshakeInvalid);
        }
        self.sent[at] = None;
        self.keep(Session::new(ours, theirs, keys.to_responder, keys.to_initiator));
        self.current = ours;
        let keepalive = self.seal(&[]).ok_or(DropReason::HandshakeInvalid)?;
        Ok(Received::Established(keepalive))
    }

    fn take_cookie(&mut self, bytes: &[u8]) -> Result<Received, DropReason> {
        let asked = self.last_mac.take().ok_or(DropReason::HandshakeUnexpected)?;
        let cookie: [u8; MAC] = field(bytes, 32);
        if bytes.len() != COOKIE || short(&[b"cookie", &self.peer, &asked, &cookie]) != field(bytes, 48) {
            return Err(DropReason::HandshakeInvalid);
        }
        self.cookie = Some(cookie);
        Ok(Received::Cookie)
    }

    fn open(&mut self, bytes: &[u8]) -> Result<Received, DropReason> {
        let ours = u32::from_le_bytes(field(bytes, 4));
        let session = self.sessions[slot(ours)].as_mut().ok_or(DropReason::UnknownSession)?;
        if session.ours != ours {
            return Err(DropReason::BadSeal);
        }
        let counter = u64::from_le_bytes(field(bytes, 8));
        if !session.window.accepts(counter) {
            return Err(DropReason::Replayed);
        }
        let (sealed, tag) = bytes.split_at(bytes.len() - TAG);
        if short(&[&session.receiving, sealed]) != tag {
            return Err(DropReason::BadSeal);
        }
        session.window.note(counter);
        self.current = ours;
        let payload = &sealed[DATA_HEAD..];
        Ok(match payload.is_empty() {
            true => Received::Keepalive,
            false => Received::Payload(Zeroizing::new(payload.to_vec())),
        })
    }

    fn keep(&mut self, session: Session) {
        let at = slot(session.ours);
        self.sessions[at] = Some(Box::new(session));
    }

    fn next_index(&mut self) -> u32 {
        self.next = (self.next & !0xff) | (self.next.wrapping_add(1) & 0xff);
        self.next
    }

    fn add_macs(&mut self, bytes: &mut Vec<u8>) {
        let first = short(&[b"mac", &self.peer, bytes]);
        let second = self.cookie.map_or([0; MAC], |cookie| short(&[&cookie, bytes, &first]));
        bytes.extend_from_slice(&first);
        bytes.extend_from_slice(&second);
        self.last_mac = Some(first);
    }
}

impl Session {
    fn new(ours: u32, theirs: u32, sending: [u8; 16], receiving: [u8; 16]) -> Self {
        Self { ours, theirs, sending, receiving, counter: 0, window: Window::default() }
    }
}

/// The keys of both directions.
struct Keys {
    to_responder: [u8; 16],
    to_initiator: [u8; 16],
}

impl Keys {
    fn new(psk: &[u8; 32], initiator: &[u8; 32], responder: &[u8; 32]) -> Self {
        let key = |way: &[u8]| short(&[way, psk, initiator, responder]);
        Self { to_responder: key(b"there"), to_initiator: key(b"back") }
    }
}

/// Which counters came.
#[derive(Default)]
struct Window {
    next: u64,
    seen: [u64; 16],
}

impl Window {
    fn accepts(&self, counter: u64) -> bool {
        counter >= self.next || (counter + WINDOW >= self.next && !self.is_seen(counter))
    }

    fn note(&mut self, counter: u64) {
        // Whatever was stepped over has not come.
        for skipped in self.next.max(counter.saturating_sub(WINDOW))..counter {
            self.seen[word(skipped)] &= !(1 << (skipped % 64));
        }
        self.seen[word(counter)] |= 1 << (counter % 64);
        self.next = self.next.max(counter + 1);
    }

    fn is_seen(&self, counter: u64) -> bool {
        self.seen[word(counter)] >> (counter % 64) & 1 == 1
    }
}

/// The static key of whoever made an initiation for `receiver`.
pub(super) fn initiator(receiver: &[u8; 32], bytes: &[u8]) -> Option<[u8; 32]> {
    let good = static_tag(receiver, bytes.get(..STATIC + 32)?) == field(bytes, STATIC + 32);
    good.then(|| field(bytes, STATIC))
}

/// Whether a handshake was made by somebody who knows for whom, and was not damaged.
pub(super) fn is_genuine(receiver: &[u8; 32], bytes: &[u8]) -> bool {
    let (content, macs) = bytes.split_at(bytes.len() - MACS);
    macs[..MAC] == short(&[b"mac", receiver, content])
}

/// Whether a handshake carries the cookie of its sender's address; otherwise what tells it that cookie.
pub(super) fn check_cookie(receiver: &[u8; 32], from: IpAddr, bytes: &[u8]) -> Result<(), SealedDatagram> {
    let cookie = short(&[b"address", receiver, from.to_string().as_bytes()]);
    let (content, macs) = bytes.split_at(bytes.len() - MACS);
    if macs[MAC..] == short(&[&cookie, content, &macs[..MAC]]) {
        return Ok(());
    }
    let mut answer = Vec::with_capacity(COOKIE);
    answer.extend_from_slice(&3u32.to_le_bytes());
    answer.extend_from_slice(&bytes[4..8]);
    answer.extend_from_slice(&[0; 24]);
    answer.extend_from_slice(&cookie);
    answer.extend_from_slice(&short(&[b"cookie", receiver, &macs[..MAC], &cookie]));
    Err(SealedDatagram::new(answer))
}

/// The public half of a key that stands for one of ML-KEM.
pub(super) fn kem_public<const N: usize>(secret: u64) -> [u8; N] {
    let mut public = [0; N];
    public[..32].copy_from_slice(&wide(&[b"kem", &secret.to_le_bytes()]));
    public
}

/// What encapsulates a secret for that half, and the secret.
pub(super) fn kem_encapsulate<const N: usize>(public: &[u8]) -> ([u8; N], [u8; 32]) {
    let mut ciphertext = [0; N];
    ciphertext[..32].copy_from_slice(&wide(&[b"kem ciphertext", &tick().to_le_bytes()]));
    let shared = wide(&[b"kem shared", &public[..32], &ciphertext[..32]]);
    (ciphertext, shared)
}

/// The secret again.
pub(super) fn kem_decapsulate(secret: u64, ciphertext: &[u8]) -> [u8; 32] {
    let public: [u8; 32] = kem_public(secret);
    wide(&[b"kem shared", &public, &ciphertext[..32]])
}

fn static_tag(receiver: &[u8; 32], bytes: &[u8]) -> [u8; TAG] {
    short(&[b"static", receiver, bytes])
}

fn short(parts: &[&[u8]]) -> [u8; 16] {
    hash(parts).to_le_bytes()
}

fn wide(parts: &[&[u8]]) -> [u8; 32] {
    let first = short(parts);
    let mut all = [0; 32];
    all[..16].copy_from_slice(&first);
    all[16..].copy_from_slice(&short(&[&first]));
    all
}

fn slot(index: u32) -> usize {
    index as usize % SESSIONS
}

fn word(counter: u64) -> usize {
    (counter / 64 % 16) as usize
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as long as it was cut")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Tunnel, Tunnel) {
        let (a, b, psk) = ([1; 32], [2; 32], [3; 32]);
        (Tunnel::new(a, b, psk, 7), Tunnel::new(b, a, psk, 9))
    }

    fn connect(a: &mut Tunnel, b: &mut Tunnel) {
        let initiation = a.initiate();
        assert_eq!(initiator(&[2; 32], initiation.as_bytes()), Some([1; 32]));
        assert!(is_genuine(&[2; 32], initiation.as_bytes()));
        let Received::Respond(response) = b.receive(WireKind::Initiation, initiation.as_bytes()) else {
            panic!("a good initiation")
        };
        let response = response.as_bytes();
        assert!(matches!(a.receive(WireKind::Response, response), Received::Established(_)));
        assert!(matches!(
            a.receive(WireKind::Response, response),
            Received::Dropped(DropReason::HandshakeUnexpected)
        ));
    }

    fn opened(tunnel: &mut Tunnel, datagram: &SealedDatagram) -> Option<Vec<u8>> {
        match tunnel.receive(WireKind::Data, datagram.as_bytes()) {
            Received::Payload(payload) => Some(payload.to_vec()),
            _ => None,
        }
    }

    #[test]
    fn both_sides_seal_once_they_may() {
        let (mut a, mut b) = pair();
        assert!(a.seal(b"early").is_none());
        connect(&mut a, &mut b);
        assert!(b.seal(b"unproven").is_none(), "the initiator has not spoken");
        let datagram = a.seal(b"there").expect("it is established");
        assert_eq!(datagram.as_bytes().len(), 5 + 32);
        assert_eq!(opened(&mut b, &datagram).as_deref(), Some(&b"there"[..]));
        assert_eq!(opened(&mut b, &datagram), None, "it came before");
        let datagram = b.seal(b"back").expect("it is proven");
        assert_eq!(opened(&mut a, &datagram).as_deref(), Some(&b"back"[..]));
    }

    #[test]
    fn whatever_was_damaged_is_refused() {
        let (mut a, mut b) = pair();
        let initiation = a.initiate();
        for at in 0..initiation.as_bytes().len() - MAC {
            let mut bytes = initiation.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(!is_genuine(&[2; 32], &bytes), "byte {at}");
        }
        connect(&mut a, &mut b);
        let datagram = a.seal(b"a word").expect("it is established");
        for at in 4..datagram.as_bytes().len() {
            let mut bytes = datagram.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(matches!(b.receive(WireKind::Data, &bytes), Received::Dropped(_)), "byte {at}");
        }
        assert!(opened(&mut b, &datagram).is_some());
    }

    #[test]
    fn an_old_initiation_is_a_replay_and_a_wrong_secret_is_noticed() {
        let (mut a, mut b) = pair();
        let (first, second) = (a.initiate(), a.initiate());
        assert!(matches!(b.receive(WireKind::Initiation, second.as_bytes()), Received::Respond(_)));
        let again = b.receive(WireKind::Initiation, first.as_bytes());
        assert!(matches!(again, Received::Dropped(DropReason::HandshakeReplayed)));
        let mut other = Tunnel::new([2; 32], [1; 32], [4; 32], 9);
        let Received::Respond(response) = other.receive(WireKind::Initiation, second.as_bytes()) else {
            panic!("the secret is not part of it yet")
        };
        let finished = a.receive(WireKind::Response, response.as_bytes());
        assert!(matches!(finished, Received::Dropped(DropReason::HandshakeInvalid)));
    }

    #[test]
    fn a_cookie_opens_the_door() {
        let (mut a, _) = pair();
        let from: IpAddr = "192.0.2.1".parse().expect("an address");
        let initiation = a.initiate();
        let Err(answer) = check_cookie(&[2; 32], from, initiation.as_bytes()) else { panic!("it has none") };
        assert!(matches!(a.receive(WireKind::Cookie, answer.as_bytes()), Received::Cookie));
        let initiation = a.initiate();
        assert!(is_genuine(&[2; 32], initiation.as_bytes()));
        assert!(check_cookie(&[2; 32], from, initiation.as_bytes()).is_ok());
        let elsewhere: IpAddr = "192.0.2.2".parse().expect("an address");
        assert!(check_cookie(&[2; 32], elsewhere, initiation.as_bytes()).is_err());
    }

    #[test]
    fn counters_pass_once_within_the_window() {
        let mut window = Window::default();
        for counter in [0, 5, 3, 2000, 1500, 990] {
            assert!(window.accepts(counter), "{counter}");
            window.note(counter);
            assert!(!window.accepts(counter), "{counter}");
        }
        assert!(!window.accepts(900));
        assert!(window.accepts(1000));
    }

    #[test]
    fn encapsulated_secrets_agree() {
        let (ciphertext, shared) = kem_encapsulate::<64>(&kem_public::<64>(5));
        assert_eq!(kem_decapsulate(5, &ciphertext), shared);
        assert_ne!(kem_decapsulate(6, &ciphertext), shared);
    }
}
