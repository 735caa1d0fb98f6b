//! The fabric against kernel VXLAN: the same generated traffic through both, and what arrives is compared byte for byte.
//!
//! Everything follows from a seed, which failures print; `WEAVE_DIFFERENTIAL_SEED=N` runs that seed alone, and `N-M` all from N to M.

mod cases;
mod compare;
mod frames;
mod internet;
mod offloads;
mod packets;
mod paths;
mod sockets;
mod underlay;

use std::env;
use std::net::Ipv6Addr;

use anyhow::{Context, Result};
use lab::Lab;

use crate::support::{drops_of, fabric, fabric_alone, figure, one_each, reaches};
use cases::Case;
use compare::{Link, Load, compare};
use packets::Ends;
use paths::Paths;

/// Environment variable with the seed to run instead of the fixed ones.
const SEED: &str = "WEAVE_DIFFERENTIAL_SEED";

/// Seeds of every run.
const SEEDS: [u64; 8] = [1, 2, 3, 5, 7, 0x5eed, 0xfab_1c15, 0x1234_5678_9abc];

#[test]
fn frames_of_every_kind_arrive_as_through_vxlan() {
    fabric(2, |lab| {
        same_arrivals(lab, "frames", &paths::make(lab)?, &seeds()?, frames::generate, Load::None)
    });
}

#[test]
fn offloads_of_every_kind_arrive_as_through_vxlan() {
    fabric(2, |lab| {
        same_arrivals(lab, "offloads", &paths::make(lab)?, &seeds()?, offloads::generate, Load::None)
    });
}

#[test]
fn offloads_arrive_as_through_vxlan_between_saturating_streams() {
    // Alone, as its streams take both cores from whoever compares beside it.
    fabric_alone(2, |lab| {
        let paths = paths::make(lab)?;
        let others = one_each(lab)?;
        reaches(&others[0], &others[1])?;
        let generate =
            |ends: &Ends, seed| [offloads::generate(ends, seed), frames::generate(ends, seed)].concat();
        let seeds = &seeds()?[..1];
        sockets::while_streams_run(&others, || {
            same_arrivals(lab, "between streams", &paths, seeds, generate, Load::Saturated)
        })
    });
}

/// Sends what each seed generates on both paths.
fn same_arrivals(
    lab: &Lab,
    name: &str,
    paths: &Paths,
    seeds: &[u64],
    generate: impl Fn(&Ends, u64) -> Vec<Case>,
    load: Load,
) -> Result<()> {
    paths.silence()?;
    paths.whole_super_frames()?;
    paths.plain_delivery(lab)?;
    let noise = paths.noise(lab)?;
    let [kernel, ours] = &paths.both;
    // The same in every run, unlike the addresses of a new fabric, so that a seed gives the same bytes again. The kernels are silent.
    let near6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x11);
    let far6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x12);
    let ends = Ends { near6, far6, ..paths.ends };
    let mut kernel = Link::open(kernel, &ends, &noise)?;
    let mut ours = Link::open(ours, &ends, &noise)?;
    for seed in seeds {
        let cases = generate(&ends, *seed);
        let arrived = compare(&mut kernel, &mut ours, &cases, load)
            .with_context(|| drops_of(lab.hosts().iter()))
            .with_context(|| format!("{name} of seed {seed}; again by {SEED}={seed}"))?;
        figure(
            &format!("{name}, seed {seed}"),
            &format!("{} sent, {arrived} frames arrived alike", cases.len()),
        );
    }
    Ok(())
}

/// The seeds of this run.
pub(crate) fn seeds() -> Result<Vec<u64>> {
    let Ok(text) = env::var(SEED) else { return Ok(SEEDS.to_vec()) };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{SEED}={text} is no number"));
    Ok((number(first)?..=number(last)?).collect())
}
