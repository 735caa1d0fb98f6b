//! Raw Ethernet frames in and out of a device: AF_PACKET sockets.
//!
//! The only module here with system calls of its own. It must not interpret frames.

#![expect(unsafe_code, reason = "packet socket addresses have no safe wrapper in std or rustix")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::netns::NetNs;

/// Receive buffer: a transfer of tens of megabytes fits even while the reader sleeps.
const RECEIVE_BUFFER: usize = 128 << 20;

/// `ETH_P_ALL` in network order, as the address wants it.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A packet socket inside a namespace.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens it on one device, or on all of the namespace.
    ///
    /// # Errors
    /// When there is no such device or the kernel refuses.
    pub fn open(ns: &NetNs, device: Option<&str>) -> Result<Self> {
        let opened = ns.enter(|| Self::open_here(device))?;
        opened.with_context(|| format!("cannot open a packet socket on {device:?} in `{}`", ns.name()))
    }

    /// Sends one frame, Ethernet header included.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice, which the kernel only reads.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one frame; `None` when none came in time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn receive(&self, buffer: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, and 1 says so.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if ready == 0 {
            return Ok(None);
        }
        if ready < 0 {
            let error = io::Error::last_os_error();
            // A stop and a continue end a poll (signal(7)); whoever waits asks again.
            return if error.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(error) };
        }
        // SAFETY: pointer and length are those of a live slice that we may write.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map(Some).map_err(|_| io::Error::last_os_error())
    }

    /// Frames that the kernel had no room for since the last call.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn missed(&self) -> io::Result<u32> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = socklen::<libc::tpacket_stats>();
        // SAFETY: the option writes one tpacket_stats, for which there is room of exactly `len`.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(stats.tp_drops) }
    }

    fn open_here(device: Option<&str>) -> io::Result<Self> {
        // SAFETY: no pointers.
        let raw = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(ALL_PROTOCOLS))
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER)?;
        if let Some(device) = device {
            bind(&fd, device)?;
        }
        Ok(Self { fd })
    }
}

/// Ties the socket to a device of the calling thread's namespace.
fn bind(fd: &OwnedFd, device: &str) -> io::Result<()> {
    let name = CString::new(device)?;
    // SAFETY: a live string with its end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the address lives and the length is its own.
    let result =
        unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Size of a type as system calls want it.
fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
