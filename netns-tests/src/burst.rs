//! Many datagrams in one system call: `sendmmsg` and `recvmmsg`.
//!
//! So that what is measured is the path and not the sender. It must not interpret datagrams.

#![expect(unsafe_code, reason = "recvmmsg has no safe wrapper in std or rustix")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;

/// Room for datagrams of one size.
#[derive(Debug)]
pub(crate) struct Burst {
    bytes: Vec<u8>,
    size: usize,
    lengths: Vec<usize>,
}

impl Burst {
    /// So many datagrams of so many bytes, all zero.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        Self { bytes: vec![0; count * size], size, lengths: vec![size; count] }
    }

    /// A datagram, as received or to be sent.
    pub(crate) fn datagram(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.size..][..self.lengths[index]]
    }

    /// Its place.
    pub(crate) fn place(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * self.size..][..self.size]
    }

    /// Sends all on a connected socket.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut vectors = self.vectors();
        let mut headers = headers(&mut vectors);
        let mut done = 0;
        while done < headers.len() {
            let rest = &mut headers[done..];
            // SAFETY: headers, vectors and bytes live, and the count is theirs.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0)
            };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                Err(_) => pass(io::Error::last_os_error())?,
            }
        }
        Ok(())
    }

    /// Waits for one datagram (as long as the socket's time limit) and takes what else is there; answers how many.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.lengths.fill(self.size);
        let mut vectors = self.vectors();
        let mut headers = headers(&mut vectors);
        // SAFETY: headers, vectors and bytes live, and the count is theirs.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..got]) {
            *length = header.msg_len as usize;
        }
        Ok(got)
    }

    fn vectors(&mut self) -> Vec<libc::iovec> {
        let places = self.bytes.chunks_exact_mut(self.size);
        places
            .map(|place| libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() })
            .collect()
    }
}

fn headers(vectors: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let header = |vector: &mut libc::iovec| {
        // SAFETY: all zeroes is a valid mmsghdr.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_iov = &raw mut *vector;
        header.msg_hdr.msg_iovlen = 1;
        header
    };
    vectors.iter_mut().map(header).collect()
}

/// A queue that is full for a moment, or an answer to a datagram that came before the other end was there, is no failure.
fn pass(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}
