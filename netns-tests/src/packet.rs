//! Raw Ethernet frames in and out of a device: AF_PACKET sockets.
//!
//! The only module here with system calls of its own. It must not interpret frames, but for the tag that the kernel took out.

#![expect(unsafe_code, reason = "packet socket addresses have no safe wrapper in std or rustix")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::netns::NetNs;

/// Receive buffer: a transfer of tens of megabytes fits even while the reader sleeps.
const RECEIVE_BUFFER: usize = 128 << 20;

/// `ETH_P_ALL` in network order, as the address wants it.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Length of the virtio-net header before each frame of [`PacketSocket::open_with_offloads`].
pub const VNET_HEADER: usize = 10;

/// Offset at which a VLAN tag stands in a frame: behind the two addresses.
const TAG_AT: usize = 12;

/// Room for the one control message of a received frame, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlSpace([u8; 64]);

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

    /// Opens it on one device for frames that carry a virtio-net header of [`VNET_HEADER`] bytes in front, in the byte order of
    /// the host: checksums and segmentation that are left to the device.
    ///
    /// # Errors
    /// See above.
    pub fn open_with_offloads(ns: &NetNs, device: &str) -> Result<Self> {
        let socket = Self::open(ns, Some(device))?;
        set_option(&socket.fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
            .context("no virtio headers on packet sockets")?;
        Ok(socket)
    }

    /// Opens it on one device for [`receive_whole`](Self::receive_whole): what leaves by the device is not seen.
    ///
    /// # Errors
    /// See above.
    pub fn open_incoming(ns: &NetNs, device: &str) -> Result<Self> {
        let socket = Self::open(ns, Some(device))?;
        set_option(&socket.fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
            .context("no auxiliary data on packet sockets")?;
        set_option(&socket.fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
            .context("cannot leave out what is sent")?;
        Ok(socket)
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
        if !self.is_ready(wait)? {
            return Ok(None);
        }
        // SAFETY: pointer and length are those of a live slice that we may write.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map(Some).map_err(|_| io::Error::last_os_error())
    }

    /// Receives one frame as it was on the wire: the VLAN tag that the kernel keeps beside it is put back. `None` when none came
    /// in time.
    ///
    /// # Errors
    /// When the kernel refuses, when the frame is longer than the buffer, and when its checksum is not complete.
    pub fn receive_whole(&self, buffer: &mut [u8], wait: Duration) -> io::Result<Option<Vec<u8>>> {
        if !self.is_ready(wait)? {
            return Ok(None);
        }
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut space = ControlSpace([0; 64]);
        // SAFETY: `msghdr` is plain data for which all zero is a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut space).cast();
        message.msg_controllen = size_of::<ControlSpace>();
        // SAFETY: buffer and control space are live, may be written and have the lengths that the message says.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(io::Error::other("a frame is longer than the buffer"));
        }
        let mut frame = buffer[..got].to_vec();
        let Some(aux) = auxiliary(&message) else {
            return Err(io::Error::other("a frame without auxiliary data"));
        };
        if aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            return Err(io::Error::other("the checksum of a frame is not complete"));
        }
        if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let tag = [aux.tp_vlan_tpid.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes()].concat();
            frame.splice(TAG_AT..TAG_AT, tag);
        }
        Ok(Some(frame))
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

    /// Waits for a frame.
    fn is_ready(&self, wait: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, and 1 says so.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            // A stop and a continue end a poll (signal(7)); whoever waits asks again.
            return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
        }
        Ok(ready > 0)
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

/// Sets an option of a socket that is an int and has no safe wrapper: those of packet sockets, `UDP_SEGMENT`, `TCP_MAXSEG`.
///
/// # Errors
/// When the kernel refuses.
pub fn set_option(fd: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option is an int that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            socklen::<libc::c_int>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel says beside a frame.
fn auxiliary(message: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: the kernel filled the message: its control pointer and length describe an aligned space that is alive, in which
    // the macros walk; a PACKET_AUXDATA message carries one tpacket_auxdata.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        let found = !header.is_null()
            && (*header).cmsg_level == libc::SOL_PACKET
            && (*header).cmsg_type == libc::PACKET_AUXDATA;
        found.then(|| libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned())
    }
}

/// Size of a type as system calls want it.
fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
