//! The dials of gossip. The defaults are for a fabric of a few to a few thousand peers on ordinary networks.

use std::time::Duration;

/// All intervals and sizes that may sensibly differ between fabrics. Limits against hostile input are constants where they apply.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often each neighbour is probed. 0.5 to 5 s: shorter finds deaths sooner and costs packets, longer the reverse.
    pub probe_period: Duration,
    /// How long an answer may take before the probe is repeated, and others are asked to probe. A third of the period or
    /// less; must be above the round trip of the slowest path, or every probe is sent three times.
    pub probe_timeout: Duration,
    /// Neighbours asked to probe on our behalf. 1 to 5: none makes one lossy path look like a death, many cost packets.
    pub probe_helpers: usize,
    /// Shortest and longest time between suspicion and death, in a fabric of up to ten peers; grows with the logarithm of
    /// their number. Too short and a pause of the process is a death, too long and traffic runs into the void.
    pub suspicion_min: Duration,
    /// See [`Config::suspicion_min`]. Applies while nobody else confirms the suspicion.
    pub suspicion_max: Duration,
    /// Neighbours that each peer looks for. 3 to 8: with fewer the mesh can fall apart, more cost packets and repeats.
    pub target_degree: usize,
    /// Neighbours that each peer accepts. At least three above the target, or newcomers are turned away.
    pub max_degree: usize,
    /// How often the mesh is looked over. 0.2 to 5 s: too long and a newcomer waits, too short only costs time.
    pub mesh_interval: Duration,
    /// How long a wanted link may take to come up before another peer is tried instead. Above the time of three handshakes.
    pub dial_patience: Duration,
    /// How often one dead peer is dialled again, which is what joins the halves of a healed partition.
    pub reconnect_interval: Duration,
    /// How long the dead are dialled before they are left alone. Their records stay until a removal.
    pub forget_after: Duration,
    /// How often the digest is compared with one random neighbour, whatever the probes say. 2 to 60 s.
    pub repair_interval: Duration,
    /// The least time between two versions of our adjacency record, for each hundred members. Too short and a flapping link, or a fleet that
    /// starts, floods the fabric; too long and one that fell apart is found out late.
    pub adjacency_interval: Duration,
    /// How long a tombstone is spread and counted in digests; it shields against its record as long again. Must be above
    /// the longest partition in which a withdrawn record should not come back for a moment.
    pub tombstone_age: Duration,
    /// How long the owner of a record of an earlier boot may take to publish it again before it is withdrawn.
    pub own_record_grace: Duration,
    /// Bytes per second of records to one neighbour. Too little and joining takes long, too much starves traffic.
    pub link_rate: u32,
    /// Bytes of records that may go to one neighbour at once.
    pub link_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(300),
            probe_helpers: 3,
            suspicion_min: Duration::from_secs(3),
            suspicion_max: Duration::from_secs(5),
            target_degree: 5,
            max_degree: 8,
            mesh_interval: Duration::from_millis(500),
            dial_patience: Duration::from_secs(15),
            reconnect_interval: Duration::from_secs(10),
            forget_after: Duration::from_secs(24 * 3600),
            repair_interval: Duration::from_secs(5),
            adjacency_interval: Duration::from_secs(1),
            tombstone_age: Duration::from_secs(1800),
            own_record_grace: Duration::from_secs(30),
            link_rate: 512 * 1024,
            link_burst: 64 * 1024,
        }
    }
}
