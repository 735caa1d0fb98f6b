//! Sends the same cases on both paths and compares what arrives, byte for byte, and in order within each flow: flows may overtake each
//! other, so that none waits for another.
//!
//! Cases go out in small groups, each ended by a mark of its own that is waited for, so that no queue overflows. When a group
//! differs, its cases go out again one by one, to name the one that is at fault.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::PacketSocket;

use super::cases::{Case, Expect};
use super::packets::{ETHERNET, Ends, ethernet};
use super::paths::Path;

/// Cases of one group, and what they may become: less than any queue on either path holds (the kernel's backlog is 1000 frames).
const GROUP: usize = 12;
const GROUP_SEGMENTS: usize = 400;

/// How long the mark behind a group may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// EtherType of the marks, for experiments (IEEE 802).
const MARK: u16 = 0x88b6;

/// Differences after which the rest is not looked at any more.
const ENOUGH: usize = 25;

/// How often a group is sent again that a full queue took frames of.
const TRIES: usize = 40;

/// How long a mark is waited for before it is sent again.
const MARK_AGAIN: Duration = Duration::from_millis(300);

/// Whether frames may be lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// There is no other traffic, hence no reason to lose any.
    None,
    /// Queues are full of other traffic. What is missing is sent again until all has arrived alike; nothing may come changed, twice or
    /// in another order within its flow.
    Saturated,
}

/// Nothing arrived for so long behind the mark: nothing more is on the way. A flow is overtaken by a few super-frames of each other one,
/// which take less than a millisecond.
const SETTLED: Duration = Duration::from_millis(8);

/// As `SETTLED`, for what is known to be on the way or lost: on a busy machine a whole path may stand still for some ten milliseconds.
const LATE: Duration = Duration::from_millis(60);

/// Bytes of a frame that a message shows.
const SHOWN: usize = 160;

/// Injects on one end of a path and records on the other.
pub(crate) struct Link<'a> {
    name: &'static str,
    ends: &'a Ends,
    /// Senders whose frames are not looked at.
    noise: &'a [[u8; 6]],
    plain: PacketSocket,
    offloaded: PacketSocket,
    seen: PacketSocket,
    marks: u32,
    buffer: Vec<u8>,
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// The sender's kernel refused these cases, with this error.
    refused: Vec<(usize, Option<i32>)>,
    arrived: Vec<Vec<u8>>,
}

impl<'a> Link<'a> {
    pub(crate) fn open(path: &Path, ends: &'a Ends, noise: &'a [[u8; 6]]) -> Result<Self> {
        let mut link = Self {
            name: path.name,
            ends,
            noise,
            plain: PacketSocket::open(&path.near, Some("eth0"))?,
            offloaded: PacketSocket::open_with_offloads(&path.near, "eth0")?,
            seen: PacketSocket::open_incoming(&path.far, "eth0")?,
            marks: 0,
            buffer: vec![0; 1 << 17],
        };
        // What the kernels had said before they were silenced.
        link.exchange(&[])?;
        Ok(link)
    }

    fn exchange(&mut self, cases: &[Case]) -> Result<Outcome> {
        let mut refused = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let sent = match &case.header {
                Some(header) => self.offloaded.send(&[&header[..], &case.frame].concat()),
                None => self.plain.send(&case.frame),
            };
            if let Err(error) = sent {
                refused.push((index, error.raw_os_error()));
            }
        }
        self.marks += 1;
        let number = [[0x5a; 40].to_vec(), self.marks.to_be_bytes().to_vec()].concat();
        let mark = ethernet(self.ends.far_mac, self.ends.near_mac, &[], MARK, &number);
        let arrived = self.until(&mark).with_context(|| {
            let all: Vec<String> = cases.iter().map(describe).collect();
            format!("{}: the mark behind these was lost:\n{}", self.name, all.join("\n"))
        })?;
        let mut arrived: Vec<_> = arrived.into_iter().map(|frame| one_zero(frame, cases)).collect();
        // Keeps the order within each flow.
        arrived.sort_by_cached_key(|frame| flow(frame));
        Ok(Outcome { refused, arrived })
    }

    fn until(&mut self, mark: &[u8]) -> Result<Vec<Vec<u8>>> {
        let end = Instant::now() + PATIENCE;
        let mut again = Instant::now();
        let mut arrived = Vec::new();
        while Instant::now() < end {
            if Instant::now() >= again {
                self.plain.send(mark).context("cannot send a mark")?;
                again += MARK_AGAIN;
            }
            let wait = Duration::from_millis(100);
            let Some(frame) = self.seen.receive_whole(&mut self.buffer, wait).context("cannot receive")?
            else {
                continue;
            };
            if frame == mark {
                self.rest(SETTLED, &mut arrived)?;
                return Ok(arrived);
            }
            self.keep(frame, &mut arrived);
        }
        bail!("not within {PATIENCE:?}; {} frames arrived before", arrived.len())
    }

    /// What the mark overtook: all that comes until nothing does for a while.
    fn rest(&mut self, silence: Duration, arrived: &mut Vec<Vec<u8>>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut settled = Instant::now() + silence;
        while Instant::now() < settled.min(end) {
            let Some(frame) = self.seen.receive_whole(&mut self.buffer, silence).context("cannot receive")?
            else {
                break;
            };
            if self.keep(frame, arrived) {
                settled = Instant::now() + silence;
            }
        }
        Ok(())
    }

    /// Keeps a frame of a case; says whether it was one.
    fn keep(&self, frame: Vec<u8>, arrived: &mut Vec<Vec<u8>>) -> bool {
        let is_mark = frame.get(12..14) == Some(&MARK.to_be_bytes());
        let is_noise = frame.get(6..12).is_some_and(|from| self.noise.iter().any(|mac| mac == from));
        if is_mark || is_noise {
            return false;
        }
        arrived.push(frame);
        true
    }
}

/// The flow of a frame: what is in order. Everything between two addresses, but for TCP, of which it is a connection. With other tags it
/// is another flow, since kernels look for the addresses behind one tag or none.
fn flow(frame: &[u8]) -> Vec<u8> {
    let tags = frame.get(12..).unwrap_or_default().chunks(4);
    let tags = tags.take_while(|tag| matches!(tag, [0x81, 0x00, _, _] | [0x88, 0xa8, _, _])).count() * 4;
    let part = |from: usize, length: usize| frame.get(tags + from..tags + from + length).unwrap_or_default();
    let mut flow = frame.get(12..tags + 14).unwrap_or_default().to_vec();
    match part(12, 2) {
        [0x08, 0x00] => {
            flow.extend(part(26, 8));
            if let (&[6], &[high, 0], &[first]) = (part(23, 1), part(20, 2), part(14, 1))
                && high & 0x3f == 0
            {
                flow.extend(part(14 + usize::from(first & 0xf) * 4, 4));
            }
        }
        [0x86, 0xdd] => {
            flow.extend(part(22, 32));
            if part(20, 1) == [6] {
                flow.extend(part(54, 4));
            }
        }
        _ => {}
    }
    flow
}

/// Writes the checksum of TCP, where a device was to complete it and it came out as zero, in one of its two forms: who cuts a super-frame
/// writes another one than who completes a single segment, and receivers take both (RFC 1071 section 2).
fn one_zero(mut frame: Vec<u8>, cases: &[Case]) -> Vec<u8> {
    for at in cases.iter().filter_map(Case::tcp_checksum) {
        if frame.get(at..at + 2) == Some(&[0xff; 2]) {
            frame[at..at + 2].fill(0);
        }
    }
    frame
}

/// Sends all cases on both links; the error names every case that differs.
pub(crate) fn compare(
    kernel: &mut Link<'_>,
    fabric: &mut Link<'_>,
    cases: &[Case],
    load: Load,
) -> Result<usize> {
    let mut differences = Vec::new();
    let mut frames = 0;
    for group in groups(cases) {
        let (want, got) = both(kernel, fabric, group, load)?;
        frames += want.arrived.len();
        if is_as_it_should_be(group, &want, &got) {
            continue;
        }
        let before = differences.len();
        for case in group {
            let alone = std::slice::from_ref(case);
            let (want, got) = both(kernel, fabric, alone, load)?;
            if !is_as_it_should_be(alone, &want, &got) {
                differences.push(format!("{}\n{}", describe(case), difference(&want, &got)));
            }
        }
        if differences.len() == before {
            let all: Vec<String> = group.iter().map(describe).collect();
            differences.push(format!("only together:\n{}\n{}", all.join("\n"), difference(&want, &got)));
        }
        if differences.len() >= ENOUGH {
            break;
        }
    }
    if differences.is_empty() {
        return Ok(frames);
    }
    bail!(
        "{} cases arrive in another way than through kernel VXLAN:\n\n{}",
        differences.len(),
        differences.join("\n\n")
    )
}

/// What becomes of a group on both links.
fn both(
    kernel: &mut Link<'_>,
    fabric: &mut Link<'_>,
    group: &[Case],
    load: Load,
) -> Result<(Outcome, Outcome)> {
    let want = kernel.exchange(group)?;
    let mut got = fabric.exchange(group)?;
    let tries = match load {
        Load::None => 0,
        Load::Saturated => TRIES,
    };
    for _ in 0..tries {
        if !is_part_of(&got.arrived, &want.arrived) || got.arrived.len() == want.arrived.len() {
            break;
        }
        // What comes late must not be taken for part of the next try.
        fabric.rest(LATE, &mut Vec::new())?;
        got = fabric.exchange(group)?;
    }
    Ok((want, got))
}

/// Whether the frames are some of the others, in their order.
fn is_part_of(some: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|frame| rest.any(|other| other == frame))
}

/// Groups of a few cases; one of which something else is expected is alone.
fn groups(cases: &[Case]) -> Vec<&[Case]> {
    let mut groups = Vec::new();
    let mut rest = cases;
    while let Some(first) = rest.first() {
        let mut segments = first.segments;
        let mut count = 1;
        while let Some(next) = rest.get(count)
            && first.expect == Expect::Alike
            && next.expect == Expect::Alike
            && count < GROUP
            && segments + next.segments <= GROUP_SEGMENTS
        {
            segments += next.segments;
            count += 1;
        }
        let (group, after) = rest.split_at(count);
        groups.push(group);
        rest = after;
    }
    groups
}

fn is_as_it_should_be(group: &[Case], want: &Outcome, got: &Outcome) -> bool {
    match group {
        [Case { expect: Expect::KeptBack(_), .. }] => got == want || got.arrived.is_empty(),
        [Case { expect: Expect::AsSent(_), frame, .. }] => got.arrived == std::slice::from_ref(frame),
        _ => got == want,
    }
}

fn describe(case: &Case) -> String {
    let header = case.header.map_or_else(|| "none".to_owned(), |header| hex(&header));
    let expect = match case.expect {
        Expect::Alike => String::new(),
        Expect::KeptBack(why) | Expect::AsSent(why) => format!(" ({why})"),
    };
    format!("{}: {}{expect}\n  virtio header {header}, frame {}", case.kind, case.what, hex(&case.frame))
}

/// The first difference of two outcomes, in words.
fn difference(want: &Outcome, got: &Outcome) -> String {
    let mut text = String::new();
    if want.refused != got.refused {
        let _ = writeln!(text, "  refused when sent: got {:?}, want {:?}", got.refused, want.refused);
    }
    let lengths = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).take(20).collect::<Vec<_>>();
    let _ = write!(
        text,
        "  arrived: got {} frames of lengths {:?}, want {} of {:?}",
        got.arrived.len(),
        lengths(&got.arrived),
        want.arrived.len(),
        lengths(&want.arrived)
    );
    let (mut sorted_got, mut sorted_want) = (got.arrived.clone(), want.arrived.clone());
    sorted_got.sort();
    sorted_want.sort();
    if want.arrived != got.arrived && sorted_got == sorted_want {
        text.push_str("\n  the same frames in another order");
        return text;
    }
    let none = Vec::new();
    for index in 0..want.arrived.len().max(got.arrived.len()) {
        let (w, g) = (want.arrived.get(index).unwrap_or(&none), got.arrived.get(index).unwrap_or(&none));
        if w != g {
            let at = w.iter().zip(g).take_while(|(a, b)| a == b).count();
            let _ = write!(
                text,
                "\n  frame {index} differs from byte {at} on ({} behind Ethernet)",
                at.saturating_sub(ETHERNET)
            );
            let _ = write!(text, "\n  got  {}\n  want {}", hex(g), hex(w));
            break;
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}
