//! A TCP stream between two namespaces whose only path is this process: it reads frames from one TAP device and writes them to the
//! other. Measured with devices of the tun-tap crate and with ours (ADR 0002). Needs root; namespaces are removed at the end.
//!
//! `cargo run --release -p benches --example tap [SECONDS]`

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router::datapath::{Queues, TapDevice};
use rustix::event::{PollFd, PollFlags};
use rustix::thread::LinkNameSpaceType;

const DEVICE: &str = "wvtb0";
const MTU: &str = "1410";
const BUFFER: usize = 70_000;

/// One way through the process.
#[derive(Default)]
struct Count {
    reads: AtomicU64,
    bytes: AtomicU64,
    cpu_ns: AtomicU64,
}

/// A device whose reads and writes are frames.
trait Device: Send + Sync + 'static {
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize>;
    fn write(&self, frame: &[u8]) -> std::io::Result<()>;
}

impl Device for tun_tap::Iface {
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.recv(buffer)
    }

    fn write(&self, frame: &[u8]) -> std::io::Result<()> {
        self.send(frame).map(|_| ())
    }
}

impl Device for File {
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match Read::read(&mut &*self, buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    rustix::event::poll(&mut [PollFd::new(self, PollFlags::IN)], None)?;
                }
                result => return result,
            }
        }
    }

    fn write(&self, frame: &[u8]) -> std::io::Result<()> {
        Write::write(&mut &*self, frame).map(|_| ())
    }
}

fn main() -> Result<()> {
    let seconds =
        std::env::args().nth(1).map_or(Ok(5), |text| text.parse()).context("SECONDS is a number")?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:8} {:>8} {:>12} {:>12} {:>12}",
        "device", "Gbit/s", "reads/s", "bytes/read", "CPU s/GB"
    )?;
    for (name, open) in [("tun-tap", open_tun_tap as fn() -> Result<Arc<dyn Device>>), ("ours", open_ours)] {
        let namespaces = Namespaces::new(name)?;
        let line = measure(&namespaces, open, Duration::from_secs(seconds))?;
        writeln!(out, "{name:8} {line}")?;
    }
    Ok(())
}

fn open_tun_tap() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(tun_tap::Iface::without_packet_info(DEVICE, tun_tap::Mode::Tap)?))
}

fn open_ours() -> Result<Arc<dyn Device>> {
    let mut queues = TapDevice::open(DEVICE, Queues::Single)?.into_queues();
    Ok(Arc::new(queues.pop().context("a device has a queue")?))
}

fn measure(namespaces: &Namespaces, open: fn() -> Result<Arc<dyn Device>>, time: Duration) -> Result<String> {
    let devices = [namespaces.inside(0, open)?, namespaces.inside(1, open)?];
    namespaces.configure()?;
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    for (from, count) in counts.iter().enumerate() {
        let (source, target) = (Arc::clone(&devices[from]), Arc::clone(&devices[1 - from]));
        let count = Arc::clone(count);
        thread::spawn(move || forward(&*source, &*target, &count));
    }
    let listener = namespaces.inside(1, || Ok(TcpListener::bind("10.99.0.2:5001")?))?;
    let sink = thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                got => total += got as u64,
            }
        }
    });
    let mut stream = namespaces.inside(0, || Ok(TcpStream::connect("10.99.0.2:5001")?))?;
    let (start, block) = (Instant::now(), vec![0x5a; 1 << 18]);
    while start.elapsed() < time {
        stream.write_all(&block)?;
    }
    drop(stream);
    let total = sink.join().map_err(|_| anyhow::anyhow!("the sink panicked"))?? as f64;
    let elapsed = start.elapsed().as_secs_f64();
    let (reads, bytes) =
        (counts[0].reads.load(Ordering::Relaxed) as f64, counts[0].bytes.load(Ordering::Relaxed) as f64);
    let cpu: u64 = counts.iter().map(|count| count.cpu_ns.load(Ordering::Relaxed)).sum();
    let (rate, per_gb) = (total * 8.0 / elapsed / 1e9, cpu as f64 / total);
    Ok(format!("{rate:8.2} {:12.0} {:12.0} {per_gb:12.2}", reads / elapsed, bytes / reads))
}

/// Runs until the process ends; an error of a device means that its namespace is gone.
fn forward(source: &dyn Device, target: &dyn Device, count: &Count) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length) = source.read(&mut buffer) {
        let reads = count.reads.fetch_add(1, Ordering::Relaxed);
        count.bytes.fetch_add(length as u64, Ordering::Relaxed);
        // A frame may meet a device that is not up yet.
        let _ = target.write(&buffer[..length]);
        if reads.is_multiple_of(64) {
            count.cpu_ns.store(thread_cpu_ns().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// Time that this thread was on a CPU.
fn thread_cpu_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// Two network namespaces, removed when dropped.
struct Namespaces([String; 2]);

impl Namespaces {
    fn new(name: &str) -> Result<Namespaces> {
        let id = std::process::id();
        let namespaces = Namespaces([format!("wvtb-{id}-{name}-a"), format!("wvtb-{id}-{name}-b")]);
        for name in &namespaces.0 {
            ip(&["netns", "add", name])?;
        }
        Ok(namespaces)
    }

    fn configure(&self) -> Result<()> {
        for (name, address) in self.0.iter().zip(["10.99.0.1/24", "10.99.0.2/24"]) {
            ip(&["-n", name, "address", "add", address, "dev", DEVICE])?;
            ip(&["-n", name, "link", "set", DEVICE, "mtu", MTU, "up"])?;
        }
        Ok(())
    }

    /// Does something on a thread of its own in one of the namespaces. Descriptors made there stay there.
    fn inside<T: Send>(&self, which: usize, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(format!("/var/run/netns/{}", self.0[which])).context("namespace")?;
        thread::scope(|scope| {
            let work = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                act()
            });
            work.join().map_err(|_| anyhow::anyhow!("a thread in a namespace panicked"))?
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            // Nothing can be done about one that does not go.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("cannot run `ip`")?;
    ensure!(status.success(), "`ip {}` failed", arguments.join(" "));
    Ok(())
}
