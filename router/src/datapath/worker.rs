//! The two threads of a worker: loops around system calls. What is decided is decided in `send` and `receive`.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use rustix::event::Timespec;

use super::control::ControlInput;
use super::counters::ThreadCounters;
use super::drops::DropReason;
use super::receive::{Receiver, ReceiverIo, ReceiverOrder};
use super::seal::SealedTrain;
use super::send::{Sender, SenderIo, SenderOrder};
use super::socket::{self, Family, ReceiveBuffers};
use super::table::EndpointTable;
use super::virtio;
use super::wake::Mailbox;

/// Frames read from the TAP device before what was collected is sent: enough to fill records with small frames, little enough
/// that the first of them does not wait longer than some ten microseconds.
const FRAME_BATCH: usize = 64;

/// The longest frame: 65,535 bytes of IP packet behind an Ethernet header with two tags, and the virtio header.
const FRAME_BUFFER: usize = virtio::LEN + 22 + 65_535;

/// How long a thread sleeps when nothing happens; it then looks after what waits for sessions.
const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Segments of one send on kernels that refuse `mtu::MAX_SEGMENTS` (`UDP_MAX_SEGMENTS` before Linux 6.9).
const OLD_MAX_SEGMENTS: usize = 64;

/// Takes messages to the control plane; does not block.
pub(super) type ControlSink = Arc<dyn Fn(ControlInput) + Send + Sync>;

/// What both threads of a worker share with the control plane.
pub(super) struct Shared<T> {
    /// The forwarding table.
    pub table: Arc<ArcSwap<EndpointTable>>,
    /// Orders.
    pub mailbox: Arc<Mailbox<T>>,
    /// Counters of the thread.
    pub counters: Arc<ThreadCounters>,
    /// Where messages to control go.
    pub control: ControlSink,
}

/// From the TAP device to the socket, until the mailbox says stop.
pub(super) fn run_sender(
    shared: &Shared<SenderOrder>,
    mut sender: Sender,
    tap: &File,
    socket: &UdpSocket,
) -> io::Result<()> {
    let mut table = Cache::new(Arc::clone(&shared.table));
    let mut io = TapToSocket {
        tap,
        socket,
        family: Family::of(socket)?,
        counters: &shared.counters,
        control: &shared.control,
        offload: SendOffload::Segments(super::mtu::MAX_SEGMENTS),
    };
    let mut buffer = vec![0; FRAME_BUFFER];
    let mut tick = Instant::now();
    while !shared.mailbox.is_stopped() {
        let now = Instant::now();
        for order in shared.mailbox.take() {
            sender.handle_order(order, now, &mut io);
        }
        let table = table.load();
        sender.answer_open(table, now, &mut io);
        let mut idle = false;
        for _ in 0..FRAME_BATCH {
            match (&mut &*tap).read(&mut buffer) {
                Ok(length) => {
                    shared.counters.reads.add(1);
                    match buffer[..length].split_first_chunk_mut() {
                        Some((header, frame)) => {
                            sender.handle_frame(table, virtio::Header::parse(header), frame, now, &mut io);
                        }
                        None => shared.counters.dropped(DropReason::FrameTooShort, 1),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    idle = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The device is down, which ends when somebody sets it up again.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    std::thread::sleep(Duration::from_millis(50));
                    idle = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        sender.flush(now, &mut io);
        if now.saturating_duration_since(tick) >= Duration::from_secs(1) {
            tick = now;
            sender.handle_timeout(now);
        }
        if idle {
            shared.mailbox.poll(tap.as_fd(), TICK)?;
        }
    }
    Ok(())
}

/// From the socket to the TAP device, until the mailbox says stop.
pub(super) fn run_receiver(
    shared: &Shared<ReceiverOrder>,
    mut receiver: Receiver,
    tap: &File,
    socket: &UdpSocket,
) -> io::Result<()> {
    let mut table = Cache::new(Arc::clone(&shared.table));
    let mut io = SocketToTap { tap, counters: &shared.counters, control: &shared.control };
    let mut buffers = ReceiveBuffers::default();
    while !shared.mailbox.is_stopped() {
        let round = buffers.read(socket.as_fd());
        // After the read: a datagram on a lane that control installed before it was sent must find the lane.
        for order in shared.mailbox.take() {
            receiver.handle_order(order);
        }
        match round {
            Ok(round) => {
                shared.counters.reads.add(round.reads);
                shared.counters.dropped(DropReason::DatagramTruncated, round.truncated);
                receiver.handle_batch(table.load(), buffers.received(), Instant::now(), &mut io);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shared.mailbox.poll(socket.as_fd(), TICK)?;
            }
            // The socket reports here what an earlier send met. It concerns no datagram that arrived.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

struct SocketToTap<'a> {
    tap: &'a File,
    counters: &'a ThreadCounters,
    control: &'a ControlSink,
}

impl ReceiverIo for SocketToTap<'_> {
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<(), DropReason> {
        self.counters.writes.add(1);
        write_frame(self.tap, parts)
    }

    fn control(&mut self, input: ControlInput) {
        (self.control)(input);
    }
}

fn write_frame(mut tap: &File, parts: &[IoSlice<'_>]) -> Result<(), DropReason> {
    tap.write_vectored(parts).map(|_| ()).map_err(|_| DropReason::TapWriteFailed)
}

fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::PathTooNarrow,
        _ if is_passing(error) => DropReason::SendRefused,
        _ => DropReason::SendFailed,
    }
}

/// Errors that say something about the network, not about the socket.
fn is_passing(error: &io::Error) -> bool {
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
