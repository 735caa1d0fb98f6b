//! The TAP device: opened with the virtio-net header and the offloads that let super-frames through (ADR 0002).
//!
//! The kernel ties the device to the descriptors: when the last one is closed the device is gone. Bridge, addresses and state
//! of the device are not set here.
#![expect(unsafe_code, reason = "the TUN driver is controlled by ioctls that no safe crate here offers")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::rebuild::UdpSegmentation;
use super::steering;

/// `IFF_` flags as they fit into `ifr_flags`, which is a signed 16-bit field.
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// More than a worker can tell apart.
const MAX_QUEUES: u8 = 64;

/// How many queues, each with a descriptor of its own, a device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queues {
    /// One, in which all flows wait for each other.
    Single,
    /// Several; a flow stays in one of them (`steering`). Where the kernel does not let us say in which, there is only one.
    Several {
        /// So many.
        count: u8,
        /// Decides which flows share a queue.
        seed: u32,
    },
}

/// What opening the device can meet.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be one of a network device.
    #[error("device name `{0}` is empty or longer than 15 bytes")]
    NameInvalid(String),
    /// `/dev/net/tun` is missing or closed to us.
    #[error("cannot open /dev/net/tun")]
    OpenFailed(#[source] io::Error),
    /// The kernel did not make the device: the name is taken, or we lack CAP_NET_ADMIN.
    #[error("cannot create TAP device `{name}`")]
    CreateFailed {
        /// The device.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks TCP segmentation offload for TAP devices, which every kernel since 2.6.27 has.
    #[error("cannot switch on offloads of TAP device `{name}`")]
    OffloadRefused {
        /// The device.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An open TAP device in the network namespace of the thread that opened it.
pub struct TapDevice {
    name: String,
    queues: Vec<File>,
    udp: UdpSegmentation,
}

impl TapDevice {
    /// Creates the device. One that exists is refused, since others could then take part of the frames.
    pub fn open(name: &str, queues: Queues) -> Result<TapDevice, TapError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0']) {
            return Err(TapError::NameInvalid(name.to_owned()));
        }
        let (count, multi) = match queues {
            Queues::Single => (1, 0),
            Queues::Several { count, .. } => (count.clamp(1, MAX_QUEUES), IFF_MULTI_QUEUE),
        };
        let mut device =
            TapDevice { name: name.to_owned(), queues: Vec::new(), udp: UdpSegmentation::Missing };
        for _ in 0..count {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open("/dev/net/tun")
                .map_err(TapError::OpenFailed)?;
            let first = if device.queues.is_empty() { IFF_TUN_EXCL } else { 0 };
            attach(&file, name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | multi | first)
                .map_err(|source| TapError::CreateFailed { name: name.to_owned(), source })?;
            // The mask belongs to the device and outlives a detached queue, so each attachment sets it anew.
            device.udp = set_offloads(&file)
                .map_err(|source| TapError::OffloadRefused { name: name.to_owned(), source })?;
            device.queues.push(file);
        }
        if let Queues::Several { seed, .. } = queues
            && let Err(error) = steering::attach(&device.queues[0], seed)
        {
            tracing::warn!(%error, "flows wait for each other: the kernel takes no program that keeps them apart");
            device.queues.truncate(1);
        }
        Ok(device)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel moves UDP super-frames through it.
    pub fn udp_segmentation(&self) -> UdpSegmentation {
        self.udp
    }

    /// Its queues: non-blocking files on which a read or a write is one frame with its virtio header.
    pub fn into_queues(self) -> Vec<File> {
        self.queues
    }
}

fn attach(file: &File, name: &str, flags: u16) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(flags.to_ne_bytes());
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `ifreq`, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_offloads(file: &File) -> io::Result<UdpSegmentation> {
    let base = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    offload(file, base)?;
    // Both or none: the kernel refuses one without the other.
    match offload(file, base | libc::TUN_F_USO4 | libc::TUN_F_USO6) {
        Ok(()) => Ok(UdpSegmentation::Available),
        Err(_) => Ok(UdpSegmentation::Missing),
    }
}

fn offload(file: &File, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes its mask by value.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(mask)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused_before_the_kernel_is_asked() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a\0b"] {
            assert!(
                matches!(TapDevice::open(name, Queues::Single), Err(TapError::NameInvalid(_))),
                "{name:?}"
            );
        }
    }
}
