//! The figures: their names and units, what they mean, and in which groups they are measured.

/// What is measured together, and can be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Group {
    /// One TCP stream, with the ping under its load and the datapath's CPU time
    #[value(alias = "tcp")]
    Tcp1,
    /// Four TCP streams
    Tcp4,
    /// One and four TCP streams, back
    Reverse,
    /// One and four TCP streams each way at once
    Both,
    /// Many short TCP connections
    Short,
    /// UDP datagrams a second without loss
    Udp,
    /// UDP request and reply, and ping, without other load
    Latency,
}

impl Group {
    /// All, in the order in which they are measured.
    pub(crate) const ALL: [Self; 7] =
        [Self::Latency, Self::Tcp1, Self::Tcp4, Self::Reverse, Self::Both, Self::Short, Self::Udp];

    /// Those of a quick run.
    pub(crate) const QUICK: [Self; 4] = [Self::Latency, Self::Tcp1, Self::Tcp4, Self::Udp];

    /// Those that mean something on a wire that loses packets: a rate without loss does not, and the tail of the round trips is the
    /// loss itself.
    pub(crate) const LOSSY: [Self; 5] = [Self::Tcp1, Self::Tcp4, Self::Reverse, Self::Both, Self::Short];
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// TCP payload, container to container, in 10^9 bits a second.
    Tcp1,
    /// The same with four streams.
    Tcp4,
    /// One stream, from the second container to the first.
    Tcp1Reverse,
    /// Four of them.
    Tcp4Reverse,
    /// One stream each way at once, both together.
    Tcp1Both,
    /// Four each way.
    Tcp4Both,
    /// Connections that are made, ask 64 bytes, get 1 KiB and are closed, eight at a time, a second.
    Short,
    /// UDP datagrams of 64 bytes a second with at most 256 in flight, in thousands.
    Udp64,
    /// Those of them that were lost all the same, in percent: the rate counts only where this is 0.
    Udp64Lost,
    /// The same with 1400 bytes and at most 64: more bytes than most tunnels' MTU leaves, who then pay for fragments.
    Udp1400,
    /// Lost of these.
    Udp1400Lost,
    /// UDP request and reply of 64 bytes, one at a time, in microseconds.
    ReplyMedian,
    /// The time that 99 of 100 beat.
    ReplyTail,
    /// Round trip of `ping` every 2 ms.
    PingMedian,
    /// The time that 99 of 100 beat.
    PingTail,
    /// Round trip of `ping` every 10 ms while one TCP stream takes what it can get.
    LoadedMedian,
    /// The time that 99 of 100 beat.
    LoadedTail,
    /// User and system time of the data path's processes of both hosts while one TCP stream ran, per 10^9 bytes of its payload.
    CpuPerGigabyte,
    /// Resident memory of the data path's process of one host, after all measurements, in MiB.
    Memory,
    /// User time of processes that have nothing to do with the measurement, in percent of the machine: where this is more than a few,
    /// the other figures mean little.
    Others,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// A rate.
    More,
    /// A time, a cost.
    Less,
}

impl Figure {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 20] = [
        Self::Tcp1,
        Self::Tcp1Reverse,
        Self::Tcp1Both,
        Self::Tcp4,
        Self::Tcp4Reverse,
        Self::Tcp4Both,
        Self::Short,
        Self::CpuPerGigabyte,
        Self::Memory,
        Self::Udp64,
        Self::Udp64Lost,
        Self::Udp1400,
        Self::Udp1400Lost,
        Self::ReplyMedian,
        Self::ReplyTail,
        Self::PingMedian,
        Self::PingTail,
        Self::LoadedMedian,
        Self::LoadedTail,
        Self::Others,
    ];

    /// Its name in JSON, with its unit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1_gbps",
            Self::Tcp4 => "tcp4_gbps",
            Self::Tcp1Reverse => "tcp1_reverse_gbps",
            Self::Tcp4Reverse => "tcp4_reverse_gbps",
            Self::Tcp1Both => "tcp1_both_gbps",
            Self::Tcp4Both => "tcp4_both_gbps",
            Self::Short => "short_per_s",
            Self::Udp64 => "udp64_kpps",
            Self::Udp64Lost => "udp64_lost_percent",
            Self::Udp1400 => "udp1400_kpps",
            Self::Udp1400Lost => "udp1400_lost_percent",
            Self::ReplyMedian => "reply_p50_us",
            Self::ReplyTail => "reply_p99_us",
            Self::PingMedian => "ping_p50_us",
            Self::PingTail => "ping_p99_us",
            Self::LoadedMedian => "ping_loaded_p50_us",
            Self::LoadedTail => "ping_loaded_p99_us",
            Self::CpuPerGigabyte => "cpu_s_per_gb",
            Self::Memory => "memory_mib",
            Self::Others => "others_percent",
        }
    }

    /// Two lines at the head of its column.
    pub(crate) fn head(self) -> [&'static str; 2] {
        match self {
            Self::Tcp1 => ["TCP 1", "Gbit/s"],
            Self::Tcp4 => ["TCP 4", "Gbit/s"],
            Self::Tcp1Reverse => ["1 back", "Gbit/s"],
            Self::Tcp4Reverse => ["4 back", "Gbit/s"],
            Self::Tcp1Both => ["1+1", "Gbit/s"],
            Self::Tcp4Both => ["4+4", "Gbit/s"],
            Self::Short => ["short TCP", "conn/s"],
            Self::Udp64 => ["UDP 64", "kpps"],
            Self::Udp64Lost => ["lost", "%"],
            Self::Udp1400 => ["UDP 1400", "kpps"],
            Self::Udp1400Lost => ["lost", "%"],
            Self::ReplyMedian => ["reply", "p50 us"],
            Self::ReplyTail => ["reply", "p99 us"],
            Self::PingMedian => ["ping", "p50 us"],
            Self::PingTail => ["ping", "p99 us"],
            Self::LoadedMedian => ["loaded", "p50 us"],
            Self::LoadedTail => ["loaded", "p99 us"],
            Self::CpuPerGigabyte => ["CPU", "s/GB"],
            Self::Memory => ["RSS", "MiB"],
            Self::Others => ["others", "%"],
        }
    }

    /// What it is, in a few words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 stream, Gbit/s",
            Self::Tcp4 => "TCP, 4 streams, Gbit/s",
            Self::Tcp1Reverse => "TCP, 1 stream back, Gbit/s",
            Self::Tcp4Reverse => "TCP, 4 streams back, Gbit/s",
            Self::Tcp1Both => "TCP, 1 stream each way, Gbit/s",
            Self::Tcp4Both => "TCP, 4 streams each way, Gbit/s",
            Self::Short => "Short TCP connections, 1/s",
            Self::Udp64 => "UDP 64 B without loss, 1000/s",
            Self::Udp64Lost => "UDP 64 B lost, %",
            Self::Udp1400 => "UDP 1400 B without loss, 1000/s",
            Self::Udp1400Lost => "UDP 1400 B lost, %",
            Self::ReplyMedian => "UDP request and reply, p50, µs",
            Self::ReplyTail => "UDP request and reply, p99, µs",
            Self::PingMedian => "Ping, p50, µs",
            Self::PingTail => "Ping, p99, µs",
            Self::LoadedMedian => "Ping under a TCP stream, p50, µs",
            Self::LoadedTail => "Ping under a TCP stream, p99, µs",
            Self::CpuPerGigabyte => "CPU seconds per GB of TCP",
            Self::Memory => "Memory of one host's process, MiB",
            Self::Others => "CPU time of others, %",
        }
    }

    /// Which way is better.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::Tcp1
            | Self::Tcp4
            | Self::Tcp1Reverse
            | Self::Tcp4Reverse
            | Self::Tcp1Both
            | Self::Tcp4Both
            | Self::Short
            | Self::Udp64
            | Self::Udp1400 => Better::More,
            Self::Udp64Lost
            | Self::Udp1400Lost
            | Self::ReplyMedian
            | Self::ReplyTail
            | Self::PingMedian
            | Self::PingTail
            | Self::LoadedMedian
            | Self::LoadedTail
            | Self::CpuPerGigabyte
            | Self::Memory
            | Self::Others => Better::Less,
        }
    }
}
