//! Listens on the wire and looks for bytes that must not be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::netns::NetNs;
use crate::packet::PacketSocket;

/// The longest frame: a super-packet with its headers.
const FRAME: usize = 70_000;

/// Kept of a capture: enough for the transfers of the tests; more is an error and not a silent gap.
const ROOM: usize = 512 << 20;

/// How long the wire must be silent before a stopped capture is complete.
const SILENCE: Duration = Duration::from_millis(100);

/// A running capture of all devices of a namespace.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<Captured>>,
}

/// What was on the wire.
#[derive(Debug, Default)]
pub struct Captured {
    /// Frames seen; one that crosses the switch is seen at both ports.
    pub frames: u64,
    /// All their bytes, one frame after the other.
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn start(ns: &NetNs) -> Result<Self> {
        let socket = PacketSocket::open(ns, None)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = thread::spawn(move || collect(&socket, &stopped));
        Ok(Self { stop, work })
    }

    /// Takes what is still waiting and ends.
    ///
    /// # Errors
    /// When frames were missed: then nothing is proved.
    pub fn stop(self) -> Result<Captured> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

impl Captured {
    /// How often a pattern occurs.
    pub fn count(&self, pattern: &[u8]) -> usize {
        let Some((first, rest)) = pattern.split_first() else { return 0 };
        let mut found = 0;
        let mut left = self.bytes.as_slice();
        while let Some(at) = left.iter().position(|byte| byte == first) {
            left = &left[at + 1..];
            found += usize::from(left.starts_with(rest));
        }
        found
    }
}

fn collect(socket: &PacketSocket, stop: &AtomicBool) -> Result<Captured> {
    let mut captured = Captured::default();
    let mut frame = vec![0; FRAME];
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let Some(len) = socket.receive(&mut frame, SILENCE).context("cannot receive frames")? else {
            if stopping {
                break;
            }
            continue;
        };
        if captured.bytes.len() + len > ROOM {
            bail!("more than {ROOM} bytes on the wire during the capture");
        }
        captured.frames += 1;
        captured.bytes.extend_from_slice(&frame[..len]);
    }
    match socket.missed().context("cannot read the statistics of the capture")? {
        0 => Ok(captured),
        missed => bail!("the capture missed {missed} frames"),
    }
}

#[cfg(test)]
mod tests {
    use super::Captured;

    #[test]
    fn patterns_are_counted_also_when_they_overlap_a_false_start() {
        let captured = Captured { frames: 1, bytes: b"aaabxaab".to_vec() };
        assert_eq!(captured.count(b"aab"), 2);
        assert_eq!(captured.count(b"zz"), 0);
    }
}
