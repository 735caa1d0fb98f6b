//! What a handshake has to show before a scalar multiplication is spent on it: WireGuard's MACs and, under load, a cookie; and whose it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{HandshakeInit, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

#[cfg(feature = "simulated")]
use super::pretend;
use crate::core::sealed::SealedDatagram;

/// See the top of the file.
pub(super) struct Guard {
    pub(super) secret: StaticSecret,
    public: PublicKey,
    /// Checks handshakes and never asks for a cookie.
    pub(super) calm: Arc<RateLimiter>,
    /// Checks handshakes and always asks for a cookie. Which of the two is used follows the caller's clock, not boringtun's.
    loaded: RateLimiter,
    #[cfg(feature = "simulated")]
    pub(super) pretends: bool,
}

impl Guard {
    pub(super) fn new(secret: StaticSecret) -> Self {
        let public = PublicKey::from(&secret);
        Self {
            secret,
            public,
            calm: Arc::new(RateLimiter::new(&public, u64::MAX)),
            loaded: RateLimiter::new(&public, 0),
            #[cfg(feature = "simulated")]
            pretends: crate::core::simulated::is_on(),
        }
    }

    /// Our static key, which handshakes name.
    #[cfg(feature = "simulated")]
    pub(super) fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }

    /// Whether a handshake was made for us.
    pub(super) fn is_genuine(&self, from: SocketAddr, bytes: &[u8]) -> bool {
        #[cfg(feature = "simulated")]
        if self.pretends {
            return pretend::is_genuine(self.public.as_bytes(), bytes);
        }
        self.calm.verify_packet(Some(from.ip()), bytes, &mut [0; 64]).is_ok()
    }

    /// Whether a handshake carries a good cookie; otherwise the answer that brings one, if there can be any.
    pub(super) fn check_cookie(&self, from: IpAddr, bytes: &[u8]) -> Result<(), Option<SealedDatagram>> {
        #[cfg(feature = "simulated")]
        if self.pretends {
            return pretend::check_cookie(self.public.as_bytes(), from, bytes).map_err(Some);
        }
        match self.loaded.verify_packet(Some(from), bytes, &mut [0; 64]) {
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(reply)) => Err(Some(SealedDatagram::new(reply.to_vec()))),
            Err(
                TunnResult::Done
                | TunnResult::Err(_)
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..),
            ) => Err(None),
        }
    }

    /// The static key of whoever made an initiation.
    pub(super) fn initiator(&self, init: &HandshakeInit<'_>, bytes: &[u8]) -> Option<[u8; 32]> {
        #[cfg(feature = "simulated")]
        if self.pretends {
            return pretend::initiator(self.public.as_bytes(), bytes);
        }
        #[cfg(not(feature = "simulated"))]
        let _ = bytes;
        parse_handshake_anon(&self.secret, &self.public, init).ok().map(|half| half.peer_static_public)
    }
}
