//! One direction of a worker: from the TAP device to the socket. System calls; what is decided is decided in `send`.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};

use super::control::ControlInput;
use super::counters::ThreadCounters;
use super::drops::DropReason;
use super::inbound::write_frame;
use super::load::work;
use super::rota::Rota;
use super::seal::SealedTrain;
use super::send::{Sender, SenderIo, SenderOrder};
use super::socket::{self, Family};
use super::table::EndpointTable;
use super::virtio;
use super::wake;
use super::worker::{ControlSink, Shared, Table, Turn};

/// Frames read from the TAP device before what was collected is sent: enough to fill records with small frames, little enough
/// that the first of them does not wait longer than some ten microseconds.
const FRAME_BATCH: usize = 64;

/// Bytes read before what was collected is sent and the queues are looked at anew, so that a flow that was silent does not wait for
/// long: four super-frames, some 200 µs.
const BATCH_BYTES: usize = 256 << 10;

/// A queue that gave so many bytes waits for its next turn: after one super-frame, since there is no less, or many small frames.
const QUANTUM: usize = 32 << 10;

/// The longest frame: 65,535 bytes of IP packet behind an Ethernet header with two tags, and the virtio header.
const FRAME_BUFFER: usize = virtio::LEN + 22 + 65_535;

/// How long a TAP device that was found down is left alone.
pub(super) const DOWN: Duration = Duration::from_millis(50);

/// Only a look, no sleep.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How often the sender looks after what waits for sessions.
const TICK: Duration = Duration::from_secs(1);

/// Segments of one send on kernels that refuse `mtu::MAX_SEGMENTS` (`UDP_MAX_SEGMENTS` before Linux 6.9).
const OLD_MAX_SEGMENTS: usize = 64;

/// The sender with its descriptors.
pub(super) struct Outbound<'a> {
    shared: &'a Shared<SenderOrder>,
    sender: Sender,
    queues: &'a [File],
    io: TapToSocket<'a>,
    frame: Vec<u8>,
    /// The queues, to be looked at.
    fds: Vec<PollFd<'a>>,
    rota: Rota,
    /// When the sender last looked after what waits.
    tick: Instant,
    down_until: Option<Instant>,
}

impl<'a> Outbound<'a> {
    /// Reads frames from the queues of a TAP device in turn, sends datagrams on `socket`.
    pub(super) fn new(
        shared: &'a Shared<SenderOrder>,
        sender: Sender,
        queues: &'a [File],
        socket: &'a UdpSocket,
        now: Instant,
    ) -> io::Result<Outbound<'a>> {
        let io = TapToSocket {
            tap: &queues[0],
            socket,
            family: Family::of(socket)?,
            counters: &shared.counters,
            control: &shared.control,
            offload: SendOffload::Segments(super::mtu::MAX_SEGMENTS),
        };
        let fds = queues.iter().map(|queue| wake::readable(queue.as_fd())).collect();
        let frame = vec![0; FRAME_BUFFER];
        Ok(Outbound {
            shared,
            sender,
            queues,
            io,
            frame,
            fds,
            rota: Rota::new(queues.len()),
            tick: now,
            down_until: None,
        })
    }

    /// Whether the TAP device was found down a moment ago. Its descriptor is then always ready, with an error.
    pub(super) fn is_down(&self) -> bool {
        self.down_until.is_some()
    }

    /// Orders, and one batch of frames, sent when it returns.
    pub(super) fn turn(&mut self, table: &mut Table, now: Instant) -> io::Result<Turn> {
        for order in self.shared.mailbox.take() {
            self.sender.handle_order(order, now, &mut self.io);
        }
        // After the orders: one of them may say that the table has changed.
        let table = table.load();
        self.sender.answer_open(table, now, &mut self.io);
        let turn = match self.down_until {
            Some(until) if now < until => Turn::Idle,
            Some(_) | None => {
                self.down_until = None;
                self.read_batch(table, now)?
            }
        };
        self.sender.flush(now, &mut self.io);
        if now.saturating_duration_since(self.tick) >= TICK {
            self.tick = now;
            self.sender.handle_timeout(now);
        }
        Ok(turn)
    }

    /// Reads the queues in turn until they are empty or the batch is full.
    fn read_batch(&mut self, table: &EndpointTable, now: Instant) -> io::Result<Turn> {
        let mut ready = self.ready()?;
        let mut left = Left { frames: FRAME_BATCH, bytes: BATCH_BYTES };
        while left.frames > 0
            && left.bytes > 0
            && let Some(at) = self.rota.next(ready)
        {
            match self.read_queue(at, table, &mut left, now)? {
                Rest::More => {}
                Rest::Empty => ready &= !(1 << at),
            }
        }
        Ok(left.turn())
    }

    /// Which queues have frames, a bit each. One alone need not be asked.
    fn ready(&mut self) -> io::Result<u64> {
        let [_, _, ..] = self.queues else { return Ok(1) };
        wake::poll(&mut self.fds, AT_ONCE)?;
        Ok(self.fds.iter().rev().fold(0, |bits, fd| bits << 1 | u64::from(!fd.revents().is_empty())))
    }

    /// Reads a queue until it is empty, has given its quantum, or the batch is full.
    fn read_queue(
        &mut self,
        at: usize,
        table: &EndpointTable,
        left: &mut Left,
        now: Instant,
    ) -> io::Result<Rest> {
        let mut quantum = QUANTUM.min(left.bytes);
        while quantum > 0 && left.frames > 0 {
            match (&mut &self.queues[at]).read(&mut self.frame) {
                Ok(length) => {
                    quantum = quantum.saturating_sub(length);
                    left.bytes = left.bytes.saturating_sub(length);
                    left.frames -= 1;
                    self.shared.counters.reads.add(1);
                    match self.frame[..length].split_first_chunk_mut() {
                        Some((header, frame)) => {
                            let header = virtio::Header::parse(header);
                            self.sender.handle_frame(table, header, frame, now, &mut self.io);
                        }
                        None => self.shared.counters.dropped(DropReason::FrameTooShort, 1),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Rest::Empty),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The device is down, which ends when somebody sets it up again.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    self.down_until = Some(now + DOWN);
                    return Ok(Rest::Empty);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Rest::More)
    }
}

/// What a batch may still take.
struct Left {
    frames: usize,
    bytes: usize,
}

impl Left {
    fn turn(&self) -> Turn {
        match FRAME_BATCH - self.frames {
            0 => Turn::Idle,
            frames => Turn::Moved(work(frames, BATCH_BYTES - self.bytes)),
        }
    }
}

/// What a queue still has.
enum Rest {
    More,
    Empty,
}

/// How sends are cut into datagrams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendOffload {
    /// By the kernel, so many at most.
    Segments(usize),
    /// By us: the egress device cannot complete checksums, so the kernel refuses.
    None,
}

struct TapToSocket<'a> {
    tap: &'a File,
    socket: &'a UdpSocket,
    family: Family,
    counters: &'a ThreadCounters,
    control: &'a ControlSink,
    offload: SendOffload,
}

impl TapToSocket<'_> {
    fn send_group(&mut self, to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        self.counters.writes.add(1);
        socket::send_train(self.socket.as_fd(), to, train).map_err(|error| reason_of(&error))
    }

    fn send_singly(&mut self, to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        let mut result = Ok(());
        for single in train.groups(1) {
            self.counters.single_sends.add(1);
            result = result.and(self.send_group(to, single));
        }
        result
    }
}

impl SenderIo for TapToSocket<'_> {
    fn send(&mut self, to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        let to = self.family.reach(to);
        let SendOffload::Segments(most) = self.offload else { return self.send_singly(to, train) };
        let mut result = Ok(());
        for group in train.groups(most) {
            self.counters.writes.add(1);
            let Err(error) = socket::send_train(self.socket.as_fd(), to, group) else { continue };
            let outcome = match error.raw_os_error() {
                Some(libc::EINVAL) if group.count() > OLD_MAX_SEGMENTS => {
                    self.offload = SendOffload::Segments(OLD_MAX_SEGMENTS);
                    SenderIo::send(self, to, group)
                }
                Some(libc::EIO) if group.count() > 1 => {
                    self.offload = SendOffload::None;
                    self.send_singly(to, group)
                }
                // Segments longer than the path's MTU cannot be offloaded; one by one the kernel fragments them.
                Some(libc::EINVAL | libc::EMSGSIZE) if group.count() > 1 => self.send_singly(to, group),
                _ => Err(reason_of(&error)),
            };
            result = result.and(outcome);
        }
        result
    }

    fn answer(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let header = virtio::Header::default().emit();
        write_frame(self.tap, &[IoSlice::new(&header), IoSlice::new(frame)])
    }

    fn control(&mut self, input: ControlInput) {
        (self.control)(input);
    }
}

fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::PathTooNarrow,
        _ if is_passing(error) => DropReason::SendRefused,
        _ => DropReason::SendFailed,
    }
}

/// Errors that say something about the network, not about the socket.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EACCES
                | libc::EPERM
                | libc::EINTR
                | libc::ENOBUFS
                | libc::ENOMEM
        )
    )
}
