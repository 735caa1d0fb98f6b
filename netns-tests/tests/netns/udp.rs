//! UDP of all sizes with every datagram accounted for, on a good wire and on one that loses packets.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::{LabConfig, Lockstep, Segments, Stream};

use crate::support::{Dice, fabric, fabric_on, figure, one_each, reaches, same};

/// Of a thousand packets on the wire in each direction.
const LOSS_PER_MILLE: u32 = 10;

/// No queue holds a datagram so long.
const PATIENCE: Duration = Duration::from_millis(200);

/// Small frames share a datagram of the underlay: so many of the smallest fit one.
const FRAMES_IN_A_DATAGRAM: u64 = 40;

/// Every size up to above the MTU, then a few that are cut into many fragments.
fn all_sizes() -> Vec<usize> {
    (4..=1500).chain((1501..9000).step_by(113)).chain([16_000, 33_333, 60_000, 65_000]).collect()
}

/// Sizes of a stream: small, full and fragmented ones in any order.
fn mixed_sizes(count: usize) -> Vec<usize> {
    let mut dice = Dice::new(0xd1ce);
    let size = |dice: &mut Dice| match dice.below(10) {
        0..4 => 4 + dice.below(100),
        4..8 => 4 + dice.below(1450),
        8 => 1300 + dice.below(200),
        _ => 1500 + dice.below(3000),
    };
    (0..count).map(|_| size(&mut dice) as usize).collect()
}

#[test]
fn every_size_arrives_on_a_good_wire() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let (one, two) = (containers[0].ns(), containers[1].ns());
        for address in containers[1].addresses()? {
            let report = Lockstep { sizes: all_sizes(), patience: PATIENCE }.run(one, two, address)?;
            same("lost", &report.lost_sizes, &Vec::new())?;
            let stream = Stream { sizes: mixed_sizes(20_000) }.run(one, two, address)?;
            same(
                "arrived, reordered, mangled",
                &(stream.arrived, stream.reordered, stream.mangled),
                &(20_000, 0, 0),
            )?;
        }
        Ok(())
    });
}

#[test]
fn nothing_is_lost_but_what_the_wire_loses() {
    fabric_on(LabConfig { segments: Segments::Cut, ..LabConfig::hosts(2) }, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let (one, two, wire) = (containers[0].ns(), containers[1].ns(), lab.wire()?);
        for address in containers[1].addresses()? {
            wire.lose_per_mille(LOSS_PER_MILLE)?;
            let report = Lockstep { sizes: all_sizes(), patience: PATIENCE }.run(one, two, address)?;
            let lost = wire.lost()?;
            figure(
                "one at a time, 1 % loss",
                &format!("{} sent to {address}, {} lost, the wire lost {lost}", report.sent, report.lost),
            );
            // Each loss of the wire, there or back, costs one datagram at most.
            same("lost no more than the wire did", &(u64::from(report.lost) <= lost), &true)
                .with_context(|| format!("{report:?}"))?;
            wire.lose_per_mille(LOSS_PER_MILLE)?;
            stream_under_loss(lab, &containers, address)?;
            wire.heal()?;
        }
        Ok(())
    });
}

/// Bursts: what arrives is right and in order, and each loss of the wire costs one datagram's frames at most.
fn stream_under_loss(lab: &lab::Lab, containers: &[lab::Container], address: std::net::IpAddr) -> Result<()> {
    let stream =
        Stream { sizes: mixed_sizes(10_000) }.run(containers[0].ns(), containers[1].ns(), address)?;
    let (lost, wire_lost) = (u64::from(stream.sent - stream.arrived), lab.wire()?.lost()?);
    figure(
        "in bursts, 1 % loss",
        &format!("{} sent to {address}, {lost} lost, the wire lost {wire_lost}", stream.sent),
    );
    same("reordered and mangled", &(stream.reordered, stream.mangled), &(0, 0))?;
    same("lost within what the wire explains", &(lost <= wire_lost * FRAMES_IN_A_DATAGRAM), &true)
        .with_context(|| format!("{stream:?}"))
}
