//! The plain types that sessions hand to the hot path: lane ids, ciphers and keys.

use std::fmt;

use gossip::PeerId;
use zeroize::Zeroizing;

/// Names a lane at its receiver, who chose it. The low 8 bits are the index of the worker that receives it (0 for now).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u32);

/// What seals the records of a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cipher {
    /// Where both ends have AES instructions.
    Aes256Gcm,
    /// Everywhere else.
    ChaCha20Poly1305,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        })
    }
}

/// The key that records to a peer are sealed with. Has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct TxLaneKey {
    /// The receiver's name of the lane.
    pub lane: LaneId,
    /// What seals.
    pub cipher: Cipher,
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
}

/// The key that records from a peer are opened with. Has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct RxLaneKey {
    /// Our name of the lane.
    pub lane: LaneId,
    /// Who seals on it.
    pub peer: PeerId,
    /// What opens.
    pub cipher: Cipher,
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
}

/// What a lane exchange gives the hot path, in this order: first `Rx`, then, once the peer has installed its own, `Tx`.
#[derive(Clone)]
pub enum LaneKeys {
    /// Install for receiving, beside the lanes that are there.
    Rx(RxLaneKey),
    /// Send on this one from now on.
    Tx(TxLaneKey),
}
