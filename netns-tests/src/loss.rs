//! Packets lost at random on arrival: a BPF program of six instructions at the receiving device.
//!
//! On arrival and not before, so that where the wire cuts packets to the MTU a lost packet is one packet of the wire and never a
//! super-packet. Knows nothing of what the packets are.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper in std or rustix")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// `enum bpf_cmd`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `enum bpf_prog_type`.
const BPF_PROG_TYPE_XDP: u32 = 6;

/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;

/// `bpf_get_prandom_u32`, in `enum bpf_func_id`.
const GET_PRANDOM_U32: u32 = 7;

/// `enum xdp_action`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Losses are given in millionths.
const MILLION: u64 = 1_000_000;

/// A device that loses packets as long as this lives.
#[derive(Debug)]
pub struct Loss {
    // Only held: closing it takes the program off the device.
    _link: OwnedFd,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: u32,
}

/// The front of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is missing as zero.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    device: u32,
    attach: u32,
    flags: u32,
}

impl NetNs {
    /// Loses so many millionths of the packets that arrive at a device inside, at random, until the answer is dropped.
    ///
    /// # Errors
    /// When there is no such device or the kernel has no BPF.
    pub fn lose_on_arrival(&self, device: &str, millionths: u32) -> Result<Loss> {
        let link = self.enter(|| attach(device, millionths))?;
        let link = link.with_context(|| format!("cannot lose packets of {device} in `{}`", self.name()))?;
        Ok(Loss { _link: link })
    }
}

fn attach(device: &str, millionths: u32) -> io::Result<OwnedFd> {
    let name = CString::new(device)?;
    // SAFETY: a live string with its end.
    let device = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if device == 0 {
        return Err(io::Error::last_os_error());
    }
    let program = load(&program(millionths))?;
    // A descriptor is never negative.
    let number = program.as_raw_fd().unsigned_abs();
    bpf(BPF_LINK_CREATE, &LinkCreate { program: number, device, attach: BPF_XDP, flags: 0 })
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let load = ProgramLoad {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    bpf(BPF_PROG_LOAD, &load)
}

/// `return prandom() < threshold ? XDP_DROP : XDP_PASS`
fn program(millionths: u32) -> [Instruction; 6] {
    // Of 2^32 values that the generator gives.
    let threshold = (u64::from(millionths) << 32) / MILLION;
    let threshold = u32::try_from(threshold).unwrap_or(u32::MAX);
    let op = |code, registers, offset, immediate| Instruction { code, registers, offset, immediate };
    [
        // call
        op(0x85, 0, 0, GET_PRANDOM_U32),
        // if w0 < threshold, over the next two
        op(0xa6, 0, 2, threshold),
        // w0 = pass; exit
        op(0xb4, 0, 0, XDP_PASS),
        op(0x95, 0, 0, 0),
        // w0 = drop; exit
        op(0xb4, 0, 0, XDP_DROP),
        op(0x95, 0, 0, 0),
    ]
}

/// A command that answers a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: pointer and size are those of a live structure without padding, all that it points to lives as long, and the kernel
    // only reads.
    let raw = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn threshold_is_the_share_of_all_values() {
        assert_eq!(program(0)[1].immediate, 0);
        assert_eq!(program(500_000)[1].immediate, 1 << 31);
        assert_eq!(program(1_000_000)[1].immediate, u32::MAX);
    }
}
