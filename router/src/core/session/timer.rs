//! The timers of a peer. Each wake-up names the one that is due.

/// What a peer has to do next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// The next HELLO of a round, or its end.
    Hello,
    /// A new round after a failed one.
    Retry,
    /// The initiation again.
    Initiation,
    /// A handshake that we answered has not proven itself.
    Answer,
    /// A ping.
    Ping,
    /// The peer has been silent for too long.
    Silence,
    /// New session keys.
    Rekey,
    /// The session keys are too old.
    Expiry,
    /// Something of the lane exchange: a repetition, a renewal, a retirement.
    Lanes,
    /// The replaced link goes.
    Previous,
    /// The session may be closed as unused.
    Idle,
    /// The first queued message has waited too long.
    Queue,
}

impl Timer {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello round",
            Self::Retry => "dial retry",
            Self::Initiation => "handshake retransmission",
            Self::Answer => "unproven handshake",
            Self::Ping => "ping",
            Self::Silence => "silence of a peer",
            Self::Rekey => "rekey",
            Self::Expiry => "expiry of session keys",
            Self::Lanes => "lane exchange",
            Self::Previous => "replaced link",
            Self::Idle => "unused session",
            Self::Queue => "queued message",
        }
    }
}
