//! The other direction of a worker: from the socket to the TAP device. System calls; what is decided is decided in `receive`.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Instant;

use super::control::ControlInput;
use super::counters::ThreadCounters;
use super::drops::DropReason;
use super::load::work;
use super::outbound::is_passing;
use super::receive::{Receiver, ReceiverIo, ReceiverOrder};
use super::socket::ReceiveBuffers;
use super::worker::{ControlSink, Shared, Table, Turn};

/// The receiver with its descriptors.
pub(super) struct Inbound<'a> {
    shared: &'a Shared<ReceiverOrder>,
    receiver: Receiver,
    socket: &'a UdpSocket,
    io: SocketToTap<'a>,
    buffers: ReceiveBuffers,
}

impl<'a> Inbound<'a> {
    /// Reads datagrams from `socket`, writes frames to `tap`.
    pub(super) fn new(
        shared: &'a Shared<ReceiverOrder>,
        receiver: Receiver,
        tap: &'a File,
        socket: &'a UdpSocket,
    ) -> Inbound<'a> {
        let io = SocketToTap { tap, counters: &shared.counters, control: &shared.control };
        Inbound { shared, receiver, socket, io, buffers: ReceiveBuffers::default() }
    }

    /// One round of reading, and orders. Everything is written when it returns.
    pub(super) fn turn(&mut self, table: &mut Table, now: Instant) -> io::Result<Turn> {
        let round = self.buffers.read(self.socket.as_fd());
        // After the read: a datagram on a lane that control installed before it was sent must find the lane.
        for order in self.shared.mailbox.take() {
            self.receiver.handle_order(order);
        }
        match round {
            Ok(round) => {
                let counters = &self.shared.counters;
                let before = counters.writes.read();
                counters.reads.add(round.reads);
                counters.dropped(DropReason::DatagramTruncated, round.truncated);
                self.receiver.handle_batch(table.load(), self.buffers.received(), now, &mut self.io);
                match counters.writes.read() - before {
                    0 => Ok(Turn::Controlled),
                    frames => Ok(Turn::Moved(work(frames as usize, self.buffers.bytes()))),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Idle),
            // The socket reports here what an earlier send met. It concerns no datagram that arrived.
            Err(error) if is_passing(&error) => Ok(Turn::Controlled),
            Err(error) => Err(error),
        }
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

/// Writes a frame, given in parts with its virtio header first.
pub(super) fn write_frame(mut tap: &File, parts: &[IoSlice<'_>]) -> Result<(), DropReason> {
    tap.write_vectored(parts).map(|_| ()).map_err(|_| DropReason::TapWriteFailed)
}
