//! The only value that the control side of the underlay socket accepts. Made by the code that seals, and by nothing else, so that no
//! clear byte can reach the wire by mistake.

/// A datagram whose content is sealed by a session, or is a HELLO or REJECT, which carry nothing secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedDatagram(Vec<u8>);

impl SealedDatagram {
    /// For HELLO, REJECT and session code; each caller is a place that seals or authenticates.
    pub(in crate::core) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What goes to the socket.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
