//! How the control plane reaches a thread of the hot path: a list of orders, a flag that is cheap to look at, and an eventfd
//! that ends a poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// A time below a second, as `poll` takes it.
pub const fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos() as _ }
}

/// Looks which of the descriptors can be read, after waiting for that until `timeout` has passed.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Timespec) -> io::Result<()> {
    match rustix::event::poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor to be looked at by `poll`.
pub fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

/// Orders for one thread. Unbounded: only our own control plane writes, a few orders for each session.
pub struct Mailbox<T> {
    orders: Mutex<Vec<T>>,
    waiting: AtomicBool,
    stop: AtomicBool,
    event: OwnedFd,
}

impl<T> Mailbox<T> {
    /// An empty one.
    pub fn new() -> io::Result<Mailbox<T>> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox {
            orders: Mutex::new(Vec::new()),
            waiting: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            event,
        })
    }

    /// Leaves an order. What arrives on the thread's descriptors after this is handled after the order.
    pub fn send(&self, order: T) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.nudge();
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the thread should end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes the orders, usually none, for the price of a load.
    pub fn take(&self) -> Vec<T> {
        if !self.waiting.load(Ordering::Acquire) {
            return Vec::new();
        }
        // In the opposite order of `nudge`. Whatever comes between the two, either the flag is up again or the event was read.
        self.waiting.store(false, Ordering::SeqCst);
        let mut count = [0; 8];
        // Fails only when another wake-up was already read.
        let _ = rustix::io::read(&self.event, &mut count);
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the thread without an order.
    pub fn nudge(&self) {
        self.wake();
        // After the event: a thread that saw the flag and read no event would find the event later, and nothing to clear it for.
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// What becomes readable when there are orders.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn wake(&self) {
        // Fails only when the count is at its limit, and then the thread is going to wake anyway.
        let _ = rustix::io::write(self.event.as_fd(), &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ends_a_poll_and_is_taken_once() {
        let mailbox = Mailbox::<u8>::new().expect("eventfd");
        let (silent, _other) = std::io::pipe().expect("pipe");
        assert_eq!(mailbox.take(), Vec::<u8>::new());
        mailbox.send(1);
        mailbox.send(2);
        let ready = |timeout| {
            let mut fds = [readable(silent.as_fd()), readable(mailbox.event())];
            poll(&mut fds, timeout).expect("poll");
            fds.map(|fd| !fd.revents().is_empty())
        };
        let (long, short) = (Timespec { tv_sec: 60, tv_nsec: 0 }, Timespec { tv_sec: 0, tv_nsec: 1 });
        assert_eq!(ready(long), [false, true]);
        assert_eq!(mailbox.take(), [1, 2]);
        assert_eq!(mailbox.take(), Vec::<u8>::new());
        assert_eq!(ready(short), [false, false]);
        mailbox.nudge();
        assert_eq!(ready(long), [false, true]);
        assert_eq!(mailbox.take(), Vec::<u8>::new());
        assert_eq!(ready(short), [false, false]);
        mailbox.stop();
        assert!(mailbox.is_stopped());
    }
}
