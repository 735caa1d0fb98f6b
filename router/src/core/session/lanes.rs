//! The exchange that gives the hot path its keys, inside a session: offer, answer, confirm, switched. Knows no datagrams: what to send,
//! install and retire comes out as actions.
//!
//! The lower peer id offers. The answerer installs its receive lane before it answers; the offerer installs and switches when
//! the answer comes, and confirms; the answerer switches on the confirmation, and says so. Each step is repeated until the next
//! one shows that it arrived, and a repeated message changes nothing. A receive lane is retired some time after the peer is
//! known to have left it, never before (ADR 0003).

use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hkdf};
use gossip::PeerId;
use zeroize::Zeroizing;

use super::kem::{KEM_CIPHERTEXT, KEM_KEY, KemKey, encapsulate};
use super::lane_keys::{Cipher, LaneId, LaneKeys, RxLaneKey, TxLaneKey};
use super::random::Random;
use crate::core::fabric::{FabricId, expand};
use crate::core::hello::Capabilities;
use crate::core::identity::PublicIdentity;

/// Keys live about as long as WireGuard's: limits what one stolen key opens. Each new handshake brings new lanes, after 120 to 130 s; this is
/// for when there was none. Shorter, and both would renew the same lanes one after the other, with 2.6 kB each time.
const RENEW_AFTER: Duration = Duration::from_secs(140);
/// Added to `RENEW_AFTER` at random, so that thousands of lanes do not renew at once.
const RENEW_JITTER: Duration = Duration::from_secs(12);
/// How long an old receive lane outlives the switch: longer than any datagram stays on a path.
const RETIRE_AFTER: Duration = Duration::from_secs(15);
/// First repetition: above most round trips, far below what a user notices.
const REPEAT_FIRST: Duration = Duration::from_millis(400);
/// Slowest repetition.
const REPEAT_SLOWEST: Duration = Duration::from_secs(3);
/// Repetitions before an exchange is given up: about 25 s, longer than a session survives silence.
const MAX_REPEATS: u32 = 12;
/// A new try after an exchange was given up.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Receive lanes of one peer at a time: the one in use, a new one, and those that wait to be retired. Only a peer that offers without end
/// reaches it, and loses those early that go next.
const MAX_RX: usize = 8;

pub(super) const OFFER: u8 = 0x20;
pub(super) const SWITCHED: u8 = 0x23;
const ANSWER: u8 = 0x21;
const CONFIRM: u8 = 0x22;
/// Room for every message, so that none grows and leaves a copy behind.
const LONGEST: usize = 1300;
const LABEL: &[u8] = b"weave lanes v1";

/// What the caller has to do, in this order.
pub(super) enum LaneAction {
    /// Send to the peer inside the session.
    Send(Zeroizing<Vec<u8>>),
    /// Hand to the hot path.
    Ready(LaneKeys),
    /// Take from the hot path.
    Retire(LaneId),
}

/// Why a lane message was dropped. Needs a faulty or lying peer, except `Stale`, which reordering makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LaneError {
    /// Wrong length or unknown kind.
    Malformed,
    /// Belongs to no exchange that is open.
    Stale,
    /// The peer may not offer: it has the higher id.
    NotYourTurn,
    /// The cipher does not follow from both sides' capabilities.
    WrongCipher,
    /// ML-KEM refused the key or the ciphertext.
    Kem,
}

/// Who exchanges: enters every key.
pub(super) struct LaneContext<'a> {
    pub(super) fabric: FabricId,
    pub(super) me: PeerId,
    pub(super) my_keys: PublicIdentity,
    pub(super) peer: PeerId,
    pub(super) peer_keys: PublicIdentity,
    pub(super) capabilities: Capabilities,
    pub(super) random: &'a mut Random,
    pub(super) ids: &'a mut LaneIds,
    pub(super) actions: &'a mut Vec<LaneAction>,
}

/// Gives out receive lane ids, each once in 2^24, and the numbers of exchanges.
pub(super) struct LaneIds {
    next: u32,
    generation: u64,
}

impl LaneIds {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { next: random.u32() >> 8, generation: 0 }
    }

    /// Zero is never given, so that an empty header names no lane. An id comes again after 2^24 others: decades at two minutes a lane
    /// and a thousand peers would be needed for two to be alive at once.
    fn take(&mut self) -> LaneId {
        self.next = (self.next + 1) & 0x00ff_ffff;
        if self.next == 0 {
            self.next = 1;
        }
        LaneId(self.next << 8)
    }

    /// Grows as long as the router runs, so that of two offers the later one is known as such.
    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}

/// The lanes of one session and the exchange that may be under way.
#[derive(Default)]
pub(super) struct Lanes {
    exchange: Exchange,
    renew_at: Option<Instant>,
    rx: Vec<Rx>,
    /// The lane that we send on.
    tx: Option<(LaneId, Cipher)>,
    /// The newest exchange that the peer offered.
    newest: u64,
    /// The last exchange that came to its end here.
    finished: Option<u64>,
    completed: u64,
}

struct Rx {
    lane: LaneId,
    retire_at: Option<Instant>,
}

/// Where the exchange stands. `Offered` and `Confirming` are the offerer's, `Answered` the answerer's.
#[derive(Default)]
enum Exchange {
    #[default]
    None,
    Offered(Box<Offered>),
    Answered(Box<Answered>),
    Confirming(Repeat),
}

struct Offered {
    kem: KemKey,
    secret: Zeroizing<[u8; 32]>,
    rx: LaneId,
    repeat: Repeat,
}

struct Answered {
    rx: LaneId,
    tx: TxLaneKey,
    repeat: Repeat,
}

/// A message that is sent again until its answer comes.
struct Repeat {
    generation: u64,
    message: Zeroizing<Vec<u8>>,
    at: Instant,
    wait: Duration,
    left: u32,
}

impl Repeat {
    fn new(generation: u64, message: Zeroizing<Vec<u8>>, now: Instant) -> Self {
        let (at, wait) = (now + REPEAT_FIRST, REPEAT_FIRST);
        Self { generation, message, at, wait, left: MAX_REPEATS }
    }
}

impl Lanes {
    /// Starts an exchange if it is ours to start; to be called after each completed handshake.
    pub(super) fn start(&mut self, context: &mut LaneContext<'_>, now: Instant) {
        if context.me > context.peer {
            return;
        }
        self.renew_at = Some(now + RENEW_AFTER + context.random.up_to(RENEW_JITTER));
        let Some((kem, public)) = KemKey::generate() else { return self.retry(now) };
        let generation = context.ids.next_generation();
        let secret = Zeroizing::new(context.random.bytes());
        let rx = context.ids.take();
        let mut message = head(OFFER, generation);
        message.extend_from_slice(secret.as_ref());
        message.push(wire_capabilities(context.capabilities));
        message.extend_from_slice(&rx.0.to_be_bytes());
        message.extend_from_slice(&self.sending_on());
        message.extend_from_slice(&public);
        context.actions.push(LaneAction::Send(message.clone()));
        let repeat = Repeat::new(generation, message, now);
        self.exchange = Exchange::Offered(Box::new(Offered { kem, secret, rx, repeat }));
    }

    /// Takes a message of the peer.
    pub(super) fn handle(
        &mut self,
        message: &[u8],
        context: &mut LaneContext<'_>,
        now: Instant,
    ) -> Result<(), LaneError> {
        let mut reader = Reader(message);
        let kind = reader.take::<1>()?[0];
        let generation = u64::from_be_bytes(reader.take()?);
        match kind {
            OFFER => self.handle_offer(generation, message, reader, context, now),
            ANSWER => self.handle_answer(generation, message, reader, context, now),
            CONFIRM => self.handle_confirm(generation, reader, context, now),
            SWITCHED => self.handle_switched(generation, reader, now),
            _ => Err(LaneError::Malformed),
        }
    }

    /// Repeats, renews and retires what is due.
    pub(super) fn handle_timeout(&mut self, context: &mut LaneContext<'_>, now: Instant) {
        let repeat = match &mut self.exchange {
            Exchange::None => None,
            Exchange::Offered(offered) => Some(&mut offered.repeat),
            Exchange::Answered(answered) => Some(&mut answered.repeat),
            Exchange::Confirming(repeat) => Some(repeat),
        };
        if let Some(repeat) = repeat.filter(|repeat| repeat.at <= now) {
            if repeat.left == 0 {
                self.exchange = Exchange::None;
                self.retry(now);
            } else {
                repeat.left -= 1;
                repeat.wait = (repeat.wait * 2).min(REPEAT_SLOWEST);
                repeat.at = now + repeat.wait;
                context.actions.push(LaneAction::Send(repeat.message.clone()));
            }
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.start(context, now);
        }
        let due = |rx: &Rx| rx.retire_at.is_some_and(|at| at <= now);
        context.actions.extend(self.rx.iter().filter(|rx| due(rx)).map(|rx| LaneAction::Retire(rx.lane)));
        self.rx.retain(|rx| !due(rx));
    }

    /// When `handle_timeout` has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        let repeat = match &self.exchange {
            Exchange::None => None,
            Exchange::Offered(offered) => Some(offered.repeat.at),
            Exchange::Answered(answered) => Some(answered.repeat.at),
            Exchange::Confirming(repeat) => Some(repeat.at),
        };
        self.rx.iter().filter_map(|rx| rx.retire_at).chain(repeat).chain(self.renew_at).min()
    }

    /// The session is gone: everything goes at once.
    pub(super) fn clear(&mut self) -> Vec<LaneId> {
        let lanes = self.rx.iter().map(|rx| rx.lane).collect();
        *self = Self { completed: self.completed, ..Self::default() };
        lanes
    }

    /// The cipher in use for sending.
    pub(super) fn cipher(&self) -> Option<Cipher> {
        self.tx.map(|(_, cipher)| cipher)
    }

    /// Exchanges that came to their end.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    fn handle_offer(
        &mut self,
        generation: u64,
        message: &[u8],
        mut reader: Reader<'_>,
        context: &mut LaneContext<'_>,
        now: Instant,
    ) -> Result<(), LaneError> {
        let secret = Zeroizing::new(reader.take::<32>()?);
        let offerer = Capabilities(u32::from(reader.take::<1>()?[0]));
        let tx = LaneId(u32::from_be_bytes(reader.take()?));
        let in_use = LaneId(u32::from_be_bytes(reader.take()?));
        let kem_key = reader.rest::<KEM_KEY>()?;
        if context.me < context.peer {
            return Err(LaneError::NotYourTurn);
        }
        if let Exchange::Answered(answered) = &self.exchange
            && answered.repeat.generation == generation
        {
            context.actions.push(LaneAction::Send(answered.repeat.message.clone()));
            return Ok(());
        }
        if generation <= self.newest {
            return Err(LaneError::Stale);
        }
        let (ciphertext, shared) = encapsulate(kem_key).ok_or(LaneError::Kem)?;
        let own_secret = Zeroizing::new(context.random.bytes());
        let rx = context.ids.take();
        let cipher = choose(offerer, context.capabilities);
        let mut answer = head(ANSWER, generation);
        answer.extend_from_slice(own_secret.as_ref());
        answer.push(wire_capabilities(context.capabilities));
        answer.push(wire_cipher(cipher));
        answer.extend_from_slice(&rx.0.to_be_bytes());
        answer.extend_from_slice(&self.sending_on());
        answer.extend_from_slice(&ciphertext);
        let secrets = Secrets { offerer: &secret, answerer: &own_secret, shared: &shared[..] };
        let keys = derive(context, Role::Answerer, &secrets, message, &answer);
        self.newest = generation;
        // The offerer takes no answer to an older offer any more, so it sends on this one lane only.
        self.retire_all_but(in_use, now);
        self.install(RxLaneKey { lane: rx, peer: context.peer, cipher, key: keys.rx }, context);
        context.actions.push(LaneAction::Send(answer.clone()));
        let tx = TxLaneKey { lane: tx, cipher, key: keys.tx };
        let repeat = Repeat::new(generation, answer, now);
        self.exchange = Exchange::Answered(Box::new(Answered { rx, tx, repeat }));
        Ok(())
    }

    fn handle_answer(
        &mut self,
        generation: u64,
        message: &[u8],
        mut reader: Reader<'_>,
        context: &mut LaneContext<'_>,
        now: Instant,
    ) -> Result<(), LaneError> {
        let secret = Zeroizing::new(reader.take::<32>()?);
        let answerer = Capabilities(u32::from(reader.take::<1>()?[0]));
        let cipher = parse_cipher(reader.take::<1>()?[0]).ok_or(LaneError::WrongCipher)?;
        let tx = LaneId(u32::from_be_bytes(reader.take()?));
        let in_use = LaneId(u32::from_be_bytes(reader.take()?));
        let ciphertext = reader.rest::<KEM_CIPHERTEXT>()?;
        if let Exchange::Confirming(repeat) = &self.exchange
            && repeat.generation == generation
        {
            context.actions.push(LaneAction::Send(repeat.message.clone()));
            return Ok(());
        }
        let Exchange::Offered(offered) = &self.exchange else { return Err(LaneError::Stale) };
        if offered.repeat.generation != generation {
            return Err(LaneError::Stale);
        }
        if cipher != choose(context.capabilities, answerer) {
            return Err(LaneError::WrongCipher);
        }
        let shared = offered.kem.decapsulate(ciphertext).ok_or(LaneError::Kem)?;
        let secrets = Secrets { offerer: &offered.secret, answerer: &secret, shared: &shared[..] };
        let keys = derive(context, Role::Offerer, &secrets, &offered.repeat.message, message);
        let rx = offered.rx;
        self.retire_all_but(in_use, now);
        self.install(RxLaneKey { lane: rx, peer: context.peer, cipher, key: keys.rx }, context);
        self.switch(TxLaneKey { lane: tx, cipher, key: keys.tx }, context);
        let confirm = head(CONFIRM, generation);
        context.actions.push(LaneAction::Send(confirm.clone()));
        self.exchange = Exchange::Confirming(Repeat::new(generation, confirm, now));
        Ok(())
    }

    fn handle_confirm(
        &mut self,
        generation: u64,
        reader: Reader<'_>,
        context: &mut LaneContext<'_>,
        now: Instant,
    ) -> Result<(), LaneError> {
        reader.rest::<0>()?;
        if self.finished == Some(generation) {
            // The offerer did not hear that we switched.
            context.actions.push(LaneAction::Send(head(SWITCHED, generation)));
            return Ok(());
        }
        match std::mem::take(&mut self.exchange) {
            Exchange::Answered(answered) if answered.repeat.generation == generation => {
                self.switch(answered.tx, context);
                context.actions.push(LaneAction::Send(head(SWITCHED, generation)));
                self.retire_all_but(answered.rx, now);
                self.finished = Some(generation);
                self.completed += 1;
                Ok(())
            }
            other @ (Exchange::None
            | Exchange::Offered(_)
            | Exchange::Answered(_)
            | Exchange::Confirming(_)) => {
                self.exchange = other;
                Err(LaneError::Stale)
            }
        }
    }

    fn handle_switched(
        &mut self,
        generation: u64,
        reader: Reader<'_>,
        now: Instant,
    ) -> Result<(), LaneError> {
        reader.rest::<0>()?;
        match &self.exchange {
            Exchange::Confirming(repeat) if repeat.generation == generation => {}
            Exchange::None | Exchange::Offered(_) | Exchange::Answered(_) | Exchange::Confirming(_) => {
                return Err(LaneError::Stale);
            }
        }
        self.exchange = Exchange::None;
        if let Some(newest) = self.rx.last().map(|rx| rx.lane) {
            self.retire_all_but(newest, now);
        }
        self.finished = Some(generation);
        self.completed += 1;
        Ok(())
    }

    fn install(&mut self, key: RxLaneKey, context: &mut LaneContext<'_>) {
        self.rx.push(Rx { lane: key.lane, retire_at: None });
        context.actions.push(LaneAction::Ready(LaneKeys::Rx(key)));
        if self.rx.len() > MAX_RX {
            self.retire_early(context);
        }
    }

    /// Takes the lane that would go next. The one in use and the new one have no time to go, so they stay.
    fn retire_early(&mut self, context: &mut LaneContext<'_>) {
        let going = (0..self.rx.len()).filter(|at| self.rx[*at].retire_at.is_some());
        if let Some(at) = going.min_by_key(|at| self.rx[*at].retire_at) {
            context.actions.push(LaneAction::Retire(self.rx.remove(at).lane));
        }
    }

    fn switch(&mut self, key: TxLaneKey, context: &mut LaneContext<'_>) {
        self.tx = Some((key.lane, key.cipher));
        context.actions.push(LaneAction::Ready(LaneKeys::Tx(key)));
    }

    fn retire_all_but(&mut self, current: LaneId, now: Instant) {
        for rx in self.rx.iter_mut().filter(|rx| rx.lane != current) {
            rx.retire_at.get_or_insert(now + RETIRE_AFTER);
        }
    }

    /// The lane that we send on, for the peer to know which of its own it may retire; zero is none.
    fn sending_on(&self) -> [u8; 4] {
        self.tx.map_or(0, |(lane, _)| lane.0).to_be_bytes()
    }

    fn retry(&mut self, now: Instant) {
        self.renew_at = self.renew_at.map(|at| at.min(now + RETRY_AFTER));
    }
}

/// AES only where both sides are fast at it.
fn choose(a: Capabilities, b: Capabilities) -> Cipher {
    match a.has(Capabilities::AES) && b.has(Capabilities::AES) {
        true => Cipher::Aes256Gcm,
        false => Cipher::ChaCha20Poly1305,
    }
}

struct Secrets<'a> {
    offerer: &'a [u8; 32],
    answerer: &'a [u8; 32],
    shared: &'a [u8],
}

struct Pair {
    rx: Zeroizing<[u8; 32]>,
    tx: Zeroizing<[u8; 32]>,
}

#[derive(Clone, Copy)]
enum Role {
    Offerer,
    Answerer,
}

/// Both keys of an exchange. The salt is a hash over all that was said and who said it: fabric, ids, keys, and both messages
/// whole, and with them generation, capabilities, cipher, lane ids and the KEM's public values. A difference in any of it gives other keys.
fn derive(context: &LaneContext<'_>, role: Role, secrets: &Secrets<'_>, offer: &[u8], answer: &[u8]) -> Pair {
    let mine = (context.me, context.my_keys);
    let theirs = (context.peer, context.peer_keys);
    let (offerer, answerer) = match role {
        Role::Offerer => (mine, theirs),
        Role::Answerer => (theirs, mine),
    };
    let mut transcript = digest::Context::new(&digest::SHA256);
    transcript.update(LABEL);
    transcript.update(&context.fabric.0);
    for (id, keys) in [offerer, answerer] {
        transcript.update(&id.0);
        transcript.update(&keys.to_bytes());
    }
    // Both messages have one length each, so nothing can shift from one to the other.
    transcript.update(offer);
    transcript.update(answer);
    let mut secret = Zeroizing::new(Vec::with_capacity(96));
    secret.extend_from_slice(secrets.offerer);
    secret.extend_from_slice(secrets.answerer);
    secret.extend_from_slice(secrets.shared);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, transcript.finish().as_ref()).extract(&secret);
    let to_answerer = expand(&prk, &[LABEL, b"offerer to answerer"]);
    let to_offerer = expand(&prk, &[LABEL, b"answerer to offerer"]);
    match role {
        Role::Offerer => Pair { rx: to_offerer, tx: to_answerer },
        Role::Answerer => Pair { rx: to_answerer, tx: to_offerer },
    }
}

fn head(kind: u8, generation: u64) -> Zeroizing<Vec<u8>> {
    let mut message = Zeroizing::new(Vec::with_capacity(LONGEST));
    message.push(kind);
    message.extend_from_slice(&generation.to_be_bytes());
    message
}

fn wire_capabilities(capabilities: Capabilities) -> u8 {
    u8::try_from(capabilities.0 & 0xff).expect("masked to 8 bits")
}

fn wire_cipher(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes256Gcm => 1,
        Cipher::ChaCha20Poly1305 => 2,
    }
}

fn parse_cipher(code: u8) -> Option<Cipher> {
    match code {
        1 => Some(Cipher::Aes256Gcm),
        2 => Some(Cipher::ChaCha20Poly1305),
        _ => None,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LaneError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(LaneError::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    fn rest<const N: usize>(self) -> Result<&'a [u8; N], LaneError> {
        self.0.try_into().map_err(|_| LaneError::Malformed)
    }
}
