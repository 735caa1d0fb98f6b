//! The UDP socket of a worker: made with large buffers, receives with GRO, sends trains with `UDP_SEGMENT`.
//!
//! Only sealed datagrams can be sent: `send_train` and `ControlSocket::send` take nothing else.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmsg with UDP_SEGMENT and UDP_GRO have no safe wrapper among our crates"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::receive::Received;
use super::seal::SealedTrain;
use crate::core::sealed::SealedDatagram;

/// Kernel buffers of the socket. At 10 Gbit/s, 8 MiB hold 6 ms: what a thread may be late without loss.
const SOCKET_BUFFER: usize = 8 << 20;

/// Reads of one round. Without GRO on the underlay each is one datagram.
pub const RECEIVE_BATCH: usize = 32;

/// With GRO one read brings up to this much.
const RECEIVE_BUFFER: usize = 65_536;

/// Space for the one control message that we send or expect, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct ControlSpace([u8; 64]);

/// Binds a socket for lanes and control datagrams.
///
/// An unspecified IPv6 address means both families. Several sockets may bind the same port, one for each worker.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    // Without CAP_NET_ADMIN the system-wide limit applies: slower, not wrong.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    rustix::net::bind(&socket, &address)?;
    // Kernels before 5.0 do not know it: then each read is one datagram.
    let _ = set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(UdpSocket::from(socket))
}

fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(mem::size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed, and the option is an int that lives until the call returns.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The send side of the socket for the control plane.
pub struct ControlSocket {
    socket: UdpSocket,
    family: Family,
}

impl ControlSocket {
    /// On a socket of a worker, so that control datagrams come from the address that lanes come from.
    pub fn new(socket: UdpSocket) -> io::Result<ControlSocket> {
        let family = Family::of(&socket)?;
        Ok(ControlSocket { socket, family })
    }

    /// Sends a datagram. Does not block: a full buffer is an error like any other, and the session layer repeats itself.
    pub fn send(&self, to: SocketAddr, datagram: &SealedDatagram) -> io::Result<()> {
        send_message(
            self.socket.as_fd(),
            self.family.reach(to),
            datagram.as_bytes(),
            None,
            libc::MSG_DONTWAIT,
        )
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// What the socket was bound as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Sends to IPv4 addresses.
    Ipv4,
    /// Sends to IPv6 addresses; IPv4 ones are mapped (RFC 4291 section 2.5.5.2).
    Ipv6,
}

impl Family {
    /// Of a bound socket.
    pub fn of(socket: &UdpSocket) -> io::Result<Family> {
        Ok(match socket.local_addr()? {
            SocketAddr::V4(_) => Family::Ipv4,
            SocketAddr::V6(_) => Family::Ipv6,
        })
    }

    /// The address as this socket can send to it.
    pub fn reach(self, to: SocketAddr) -> SocketAddr {
        match (self, to) {
            (Family::Ipv6, SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            (Family::Ipv4, SocketAddr::V6(_)) => canonical(to),
            (Family::Ipv4, SocketAddr::V4(_)) | (Family::Ipv6, SocketAddr::V6(_)) => to,
        }
    }
}

/// Sends the datagrams of a train in one go, cut apart by the kernel or by the device. Blocks while the buffer is full, which
/// holds back the reader of the TAP device, whose queue then drops: the place where containers expect it.
pub fn send_train(socket: BorrowedFd<'_>, to: SocketAddr, train: SealedTrain<'_>) -> io::Result<()> {
    let segment = if train.count() > 1 { u16::try_from(train.segment()).ok() } else { None };
    send_message(socket, to, train.bytes(), segment, 0)
}

fn send_message(
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    bytes: &[u8],
    segment: Option<u16>,
    flags: libc::c_int,
) -> io::Result<()> {
    let (mut name, name_len) = raw_address(to);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut space = ControlSpace([0; 64]);
    // SAFETY: `msghdr` is plain data for which all zero is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(segment) = segment {
        message.msg_control = (&raw mut space).cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. The space holds one message of two bytes, so the first header lies
        // within it, aligned, and its data may be written unaligned.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(2) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(2) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<u16>(), segment);
        }
    }
    // SAFETY: the descriptor is borrowed; name, part, control space and the bytes outlive the call, which only reads them.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags | libc::MSG_NOSIGNAL) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Buffers for a round of reads; allocated once.
pub struct ReceiveBuffers {
    buffers: Vec<Box<[u8]>>,
    filled: Vec<Filled>,
}

#[derive(Clone, Copy)]
struct Filled {
    from: Option<SocketAddr>,
    len: usize,
    segment: usize,
    truncated: bool,
}

/// What a round of reads brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// Reads that brought datagrams.
    pub reads: usize,
    /// Reads that were cut short and are left out.
    pub truncated: usize,
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        ReceiveBuffers {
            buffers: (0..RECEIVE_BATCH).map(|_| vec![0; RECEIVE_BUFFER].into_boxed_slice()).collect(),
            filled: Vec::with_capacity(RECEIVE_BATCH),
        }
    }
}

impl ReceiveBuffers {
    /// Reads what is there, without waiting; an error of kind `WouldBlock` when nothing is.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<Round> {
        self.filled.clear();
        let mut names = [MaybeUninit::<libc::sockaddr_storage>::zeroed(); RECEIVE_BATCH];
        let mut spaces = [ControlSpace([0; 64]); RECEIVE_BATCH];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE_BATCH];
        // SAFETY: `mmsghdr` is plain data for which all zero is a valid value.
        let mut messages: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { mem::zeroed() };
        for (i, message) in messages.iter_mut().enumerate() {
            let buffer = &mut self.buffers[i];
            parts[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = names[i].as_mut_ptr().cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as _;
            header.msg_iov = &raw mut parts[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut spaces[i]).cast();
            header.msg_controllen = mem::size_of::<ControlSpace>() as _;
        }
        // SAFETY: the descriptor is borrowed. Each message points to a buffer, a name and a control space of its own with their
        // true lengths, all of which outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                RECEIVE_BATCH as _,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        for (message, name) in messages.iter().zip(&names).take(count) {
            let len = message.msg_len as usize;
            self.filled.push(Filled {
                // SAFETY: it was zeroed, which is a valid value, and the kernel wrote an address over it.
                from: parse_address(unsafe { name.assume_init_ref() }),
                len,
                segment: segment_of(&message.msg_hdr).unwrap_or(len),
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        let truncated = self.filled.iter().filter(|filled| filled.truncated).count();
        Ok(Round { reads: count - truncated, truncated })
    }

    /// Bytes that the last round brought.
    pub fn bytes(&self) -> usize {
        self.filled.iter().map(|filled| filled.len).sum()
    }

    /// What the last round brought.
    pub fn received(&mut self) -> impl Iterator<Item = Received<'_>> {
        self.buffers.iter_mut().zip(&self.filled).filter_map(|(buffer, filled)| {
            let bytes = &mut buffer[..filled.len];
            let from = filled.from.filter(|_| !filled.truncated)?;
            Some(Received { from, bytes, segment: filled.segment })
        })
    }
}

/// The length of coalesced datagrams, from the control message that says so.
fn segment_of(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the header was filled by the kernel: its control pointer and length describe an aligned space that is alive, in
    // which the macros walk; a UDP_GRO message carries an int.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO {
                let segment = ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::c_int>());
                return usize::try_from(segment).ok().filter(|&segment| segment > 0);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data for which all zero is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is made to hold every kind of address, with the strictest alignment.
            unsafe { ptr::write((&raw mut storage).cast(), raw) };
            mem::size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write((&raw mut storage).cast(), raw) };
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as _)
}

fn parse_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which kind of address the storage holds.
            let raw: libc::sockaddr_in = unsafe { ptr::read(ptr::from_ref(storage).cast()) };
            let ip = raw.sin_addr.s_addr.to_ne_bytes().into();
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw: libc::sockaddr_in6 = unsafe { ptr::read(ptr::from_ref(storage).cast()) };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(canonical(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into()))
        }
        _ => None,
    }
}

/// An IPv4 address that came mapped into an IPv6 one, as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::Timespec;

    use super::super::keys::{Cipher, LaneId, TxLaneKey};
    use super::super::seal::{Outbox, SealingLane};
    use super::super::wake;
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        for text in ["192.0.2.7:6783", "[2001:db8::7]:6783", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(parse_address(&raw_address(address).0), Some(address));
        }
        let v4: SocketAddr = "192.0.2.7:6783".parse().expect("address");
        let mapped = Family::Ipv6.reach(v4);
        assert_eq!(mapped.to_string(), "[::ffff:192.0.2.7]:6783");
        assert_eq!(parse_address(&raw_address(mapped).0), Some(v4));
    }

    #[test]
    fn train_arrives_as_its_datagrams() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let (here, there) = (bind(any).expect("bound"), bind(any).expect("bound"));
        let (from, to) = (here.local_addr().expect("address"), there.local_addr().expect("address"));
        let cipher = Cipher::ChaCha20Poly1305;
        let key = TxLaneKey { lane: LaneId(0), cipher, key: zeroize::Zeroizing::new([1; 32]) };
        let mut lane = SealingLane::new(key).expect("key");
        let mut outbox = Outbox::default();
        let mut sent = Vec::new();
        let mut sink = |train: SealedTrain<'_>| {
            sent.extend(train.bytes().chunks(train.segment()).map(<[u8]>::to_vec));
            send_train(here.as_fd(), to, train).expect("sent");
        };
        for record in [1000, 1000, 1000, 300] {
            outbox.stage(record);
            outbox.seal(&mut lane, &mut sink).expect("sealed");
        }
        outbox.send(&mut sink);
        assert_eq!(sent.len(), 4);
        let mut buffers = ReceiveBuffers::default();
        let mut got: Vec<Vec<u8>> = Vec::new();
        while got.len() < sent.len() {
            wake::poll(&mut [wake::readable(there.as_fd())], Timespec { tv_sec: 10, tv_nsec: 0 })
                .expect("poll");
            let round = buffers.read(there.as_fd()).expect("datagrams within ten seconds");
            assert_eq!(round.truncated, 0);
            for received in buffers.received() {
                assert_eq!(received.from, from);
                got.extend(received.bytes.chunks(received.segment).map(<[u8]>::to_vec));
            }
        }
        assert_eq!(got, sent);
    }
}
