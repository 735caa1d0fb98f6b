//! The threads of a worker: loops around `Inbound` and `Outbound`, and who serves which of them.
//!
//! One thread serves both directions while it finds rest; under load a second one takes the socket (`load`).

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use rustix::event::{PollFd, Timespec};

use super::busy_poll::{BusyPoll, Idle};
use super::control::ControlInput;
use super::counters::ThreadCounters;
use super::inbound::Inbound;
use super::load::{self, Done, FirstLoad, SecondLoad};
use super::outbound::{self, Outbound};
use super::receive::{Receiver, ReceiverOrder};
use super::send::{Sender, SenderOrder};
use super::table::EndpointTable;
use super::wake::{self, Mailbox};

/// How long a thread sleeps when nothing happens; it then looks after what waits for sessions.
const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// As `TICK`, while the TAP device is down.
const DOWN_TICK: Timespec = wake::timespec(outbound::DOWN);

/// How long the second thread sleeps before it looks back whether it is needed.
const WINDOW_TICK: Timespec = wake::timespec(load::WINDOW);

/// The second thread sleeps until it is called; this is only how long one poll lasts.
const LONG: Timespec = Timespec { tv_sec: 3_600, tv_nsec: 0 };

/// Nice value of the threads. They do what the kernel does for other networks ahead of all processes; at the priority of the
/// containers' processes, a frame waits for several of their time slices on its way (docs/performance.md).
const NICE: i32 = -10;

/// A thread's view of the forwarding table.
pub(super) type Table = Cache<Arc<ArcSwap<EndpointTable>>, Arc<EndpointTable>>;

/// Takes messages to the control plane; does not block.
pub(super) type ControlSink = Arc<dyn Fn(ControlInput) + Send + Sync>;

/// What one direction of a worker shares with the control plane.
pub(super) struct Shared<T> {
    /// The forwarding table.
    pub table: Arc<ArcSwap<EndpointTable>>,
    /// Orders.
    pub mailbox: Arc<Mailbox<T>>,
    /// Counters of the direction.
    pub counters: Arc<ThreadCounters>,
    /// Where messages to control go.
    pub control: ControlSink,
}

/// What a turn of one direction found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Frames: so much `load::work`.
    Moved(u64),
    /// Something, but no frames: nothing to stay awake for.
    Controlled,
    /// Nothing.
    Idle,
}

/// The queues of a TAP device, a socket, and what is between them.
pub(super) struct Worker {
    /// Of the way from containers to peers.
    pub sending: Shared<SenderOrder>,
    /// Of the way from peers to containers.
    pub receiving: Shared<ReceiverOrder>,
    /// The queues of the TAP device, at least one.
    pub queues: Vec<File>,
    /// The socket.
    pub socket: UdpSocket,
    /// How long the first thread looks on before it sleeps.
    pub look: Duration,
    /// Calls the second thread.
    pub call: Mailbox<()>,
    /// What the threads tell each other.
    pub hands: Hands,
}

/// What the two threads of a worker tell each other.
#[derive(Default)]
pub(super) struct Hands {
    /// Whether the second thread serves the socket, or is called to.
    helped: AtomicBool,
    /// `load::Done`: the work of both, and how often the first found nothing to do.
    work: AtomicU64,
    rests: AtomicU64,
}

impl Hands {
    fn is_helped(&self) -> bool {
        self.helped.load(Ordering::Acquire)
    }

    fn set_helped(&self, helped: bool) {
        self.helped.store(helped, Ordering::Release);
    }

    fn add_work(&self, work: u64) {
        self.work.fetch_add(work, Ordering::Relaxed);
    }

    fn add_rest(&self) {
        self.rests.fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self) -> Done {
        Done { work: self.work.load(Ordering::Relaxed), rests: self.rests.load(Ordering::Relaxed) }
    }
}

impl Worker {
    /// Carries frames until the sender's mailbox says stop.
    pub(super) fn run(&self, sender: Sender, receiver: Receiver) -> io::Result<()> {
        let outbound = Outbound::new(&self.sending, sender, &self.queues, &self.socket, Instant::now())?;
        let inbound = Mutex::new(Inbound::new(&self.receiving, receiver, &self.queues[0], &self.socket));
        std::thread::scope(|scope| {
            let second = std::thread::Builder::new().name("weave-second".to_owned());
            let second = second.spawn_scoped(scope, || self.second(&inbound))?;
            let result = self.first(outbound, &inbound);
            self.call.stop();
            // A panic is shown where it happened, and ends the scope.
            result.and(second.join().unwrap_or(Ok(())))
        })
    }

    fn first<'a>(&'a self, mut outbound: Outbound<'a>, inbound: &Mutex<Inbound<'a>>) -> io::Result<()> {
        go_ahead();
        let mut table = Cache::new(Arc::clone(&self.sending.table));
        let mut poll = BusyPoll::new(self.look, Instant::now());
        let mut load = FirstLoad::default();
        let mut mine = Some(locked(inbound));
        let mut doors = self.doors();
        while !self.sending.mailbox.is_stopped() {
            let now = Instant::now();
            let mut turn = outbound.turn(&mut table, now)?;
            match &mut mine {
                Some(inbound) => turn = turn.and(inbound.turn(&mut table, now)?),
                None if self.hands.is_helped() => {}
                None => {
                    load.rested();
                    mine = Some(locked(inbound));
                    continue;
                }
            }
            match turn {
                Turn::Moved(work) => {
                    let now = Instant::now();
                    poll.moved(now);
                    self.hands.add_work(work);
                    if load.moved(now) && mine.is_some() {
                        mine = None;
                        self.hands.set_helped(true);
                        self.call.nudge();
                    }
                }
                Turn::Controlled => {}
                Turn::Idle => {
                    load.rested();
                    self.hands.add_rest();
                    match poll.idle(now) {
                        Idle::LookAgain if mine.is_some() => std::thread::yield_now(),
                        Idle::LookAgain | Idle::Sleep => self.sleep(&mut doors, &outbound, mine.is_some())?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The first thread waits for what it serves.
    fn sleep(&self, fds: &mut [PollFd<'_>], outbound: &Outbound<'_>, serves_socket: bool) -> io::Result<()> {
        let queues = self.queues.len();
        let first = if outbound.is_down() { queues } else { 0 };
        let end = if serves_socket { fds.len() } else { queues + 1 };
        wake::poll(&mut fds[first..end], if outbound.is_down() { DOWN_TICK } else { TICK })
    }

    /// All that the first thread may wait for: the queues, its orders, the socket, the orders for that.
    fn doors(&self) -> Vec<PollFd<'_>> {
        let queues = self.queues.iter().map(AsFd::as_fd);
        let rest = [self.sending.mailbox.event(), self.socket.as_fd(), self.receiving.mailbox.event()];
        queues.chain(rest).map(wake::readable).collect()
    }

    /// Waits to be called, and helps until it is not needed any more.
    fn second(&self, inbound: &Mutex<Inbound<'_>>) -> io::Result<()> {
        go_ahead();
        while !self.call.is_stopped() {
            self.call.take();
            if self.hands.is_helped() {
                // Whatever is wrong with the socket, the first thread is going to meet it.
                let _ = self.help(&mut locked(inbound));
                self.hands.set_helped(false);
                self.sending.mailbox.nudge();
            } else if let Err(error) = wake::poll(&mut [wake::readable(self.call.event())], LONG) {
                // Without it the socket would not be served under load.
                self.sending.mailbox.stop();
                return Err(error);
            }
        }
        Ok(())
    }

    fn help(&self, inbound: &mut Inbound<'_>) -> io::Result<()> {
        let mut table = Cache::new(Arc::clone(&self.receiving.table));
        let mut load = SecondLoad::new(Instant::now(), self.hands.done());
        while !self.call.is_stopped() {
            let now = Instant::now();
            match inbound.turn(&mut table, now)? {
                Turn::Moved(work) => self.hands.add_work(work),
                Turn::Controlled => {}
                Turn::Idle => {
                    let fds = [self.socket.as_fd(), self.receiving.mailbox.event()];
                    wake::poll(&mut fds.map(wake::readable), WINDOW_TICK)?;
                }
            }
            if load.is_spare(now, self.hands.done()) {
                break;
            }
        }
        Ok(())
    }
}

impl Turn {
    /// What both directions found.
    fn and(self, other: Turn) -> Turn {
        match (self, other) {
            (Turn::Moved(one), Turn::Moved(two)) => Turn::Moved(one + two),
            (Turn::Moved(work), _) | (_, Turn::Moved(work)) => Turn::Moved(work),
            (Turn::Controlled, _) | (_, Turn::Controlled) => Turn::Controlled,
            (Turn::Idle, Turn::Idle) => Turn::Idle,
        }
    }
}

/// Puts the calling thread ahead of others. On Linux the nice value belongs to the thread.
fn go_ahead() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the hot path runs at the priority of others");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one thread is one of the worker.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
