//! Which queue of the TAP device a frame waits in: a small BPF program that the kernel asks for each frame.
//!
//! Flows that wait in different queues do not wait for each other: the worker serves the queues in turn (stochastic fair queueing,
//! McKenney 1990). A flow always hashes to the same queue, so its frames stay in order. Left alone, the kernel would move a flow to
//! the queue on which its last frame in the other direction was written.
//!
//! TCP is told apart by addresses and ports. Everything else by addresses alone: fragments have no ports, and must not overtake the
//! whole datagrams of their flow.
#![expect(unsafe_code, reason = "bpf(2) and TUNSETSTEERINGEBPF have no safe wrapper among our crates")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `_IOR('T', 224, int)`: sets the program of a TUN or TAP device (Linux 4.16).
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// Multiplier of a Fibonacci hash: 2^32 over the golden ratio.
const SPREAD: i32 = 0x9e37_79b1_u32.cast_signed();

/// What `bpf(BPF_PROG_LOAD)` reads; later fields of `union bpf_attr` may be left out.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// One instruction, as the kernel lays it out (`struct bpf_insn`; RFC 9669 section 3).
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Attaches the program to the device. `seed` changes which flows share a queue.
pub(super) fn attach(queue: &File, seed: u32) -> io::Result<()> {
    let program = load(&program(seed))?;
    let fd: libc::c_int = program.as_raw_fd();
    // SAFETY: both descriptors are open, and the request reads one int that lives until the call returns.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETSTEERINGEBPF as _, &raw const fd) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to live until the call returns, which only reads them; the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers: the frame must be in 6 for loads from it, the hash grows in 7, 8 is the length of the IPv4 header; loads return in 0.
const R0: u8 = 0;
const R1: u8 = 1;
const FRAME: u8 = 6;
const HASH: u8 = 7;
const HEADER: u8 = 8;

const TCP: i32 = 6;

/// The program: a hash of addresses, and of ports for TCP that is not fragmented. A load beyond the frame's end ends it with 0.
fn program(seed: u32) -> Vec<Instruction> {
    let mut code = vec![copy(FRAME, R1), set(HASH, seed.cast_signed()), load_half(12)];
    let mut ipv4: Vec<Instruction> = [26, 30].into_iter().flat_map(mix_word).collect();
    let mut ports = vec![
        load_half(20),
        // More fragments, or an offset.
        and(R0, 0x3fff),
        unless(0, 6),
        load_byte(14),
        and(R0, 0xf),
        shift_left(R0, 2),
        copy(HEADER, R0),
        load_word_behind(HEADER, 14),
        mix(),
    ];
    // From the comparison behind the load of fragment bits: over what is left of `ports`.
    ports[2] = unless(0, distance(ports.len() - 3));
    ipv4.push(load_byte(23));
    ipv4.push(unless(TCP, distance(ports.len())));
    ipv4.append(&mut ports);
    let mut ipv6: Vec<Instruction> = (22..54).step_by(4).flat_map(mix_word).collect();
    ipv6.extend([load_byte(20), unless(TCP, 2), load_word(54), mix()]);
    // Over the branch for IPv6 and the comparison before it.
    ipv4.push(jump(distance(ipv6.len() + 1)));
    code.push(unless(0x0800, distance(ipv4.len())));
    code.append(&mut ipv4);
    code.push(unless(0x86dd, distance(ipv6.len())));
    code.append(&mut ipv6);
    code.extend([multiply(HASH, SPREAD), shift_right(HASH, 24), copy(R0, HASH), exit()]);
    code
}

fn distance(instructions: usize) -> i16 {
    i16::try_from(instructions).unwrap_or(i16::MAX)
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

fn load_byte(at: i32) -> Instruction {
    instruction(0x30, 0, 0, 0, at)
}

fn load_half(at: i32) -> Instruction {
    instruction(0x28, 0, 0, 0, at)
}

fn load_word(at: i32) -> Instruction {
    instruction(0x20, 0, 0, 0, at)
}

fn load_word_behind(register: u8, at: i32) -> Instruction {
    instruction(0x40, 0, register, 0, at)
}

fn and(to: u8, value: i32) -> Instruction {
    instruction(0x57, to, 0, 0, value)
}

fn shift_left(to: u8, bits: i32) -> Instruction {
    instruction(0x67, to, 0, 0, bits)
}

/// Of the lower half; the upper one becomes zero.
fn shift_right(to: u8, bits: i32) -> Instruction {
    instruction(0x74, to, 0, 0, bits)
}

/// Of the lower halves.
fn multiply(to: u8, value: i32) -> Instruction {
    instruction(0x24, to, 0, 0, value)
}

fn mix() -> Instruction {
    instruction(0xaf, HASH, R0, 0, 0)
}

fn mix_word(at: i32) -> [Instruction; 2] {
    [load_word(at), mix()]
}

/// Jumps when what was loaded is something else.
fn unless(value: i32, over: i16) -> Instruction {
    instruction(0x55, R0, 0, over, value)
}

fn jump(over: i16) -> Instruction {
    instruction(0x05, 0, 0, over, 0)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}
