//! How full each bounded table of allocation is.

use gossip::Fill;

use crate::Ipam;
use crate::ask::MAX_ASKED;
use crate::deed::MAX_DEEDS;
use crate::donate::MAX_REMEMBERED;
use crate::ipam::{MAX_LOST, MAX_WAITING};
use crate::map::MAX_REFUSED;

impl Ipam {
    /// All tables that callers or peers can fill.
    pub fn fill(&self) -> Vec<Fill> {
        vec![
            Fill::of("callers that wait", self.waiting.len(), MAX_WAITING),
            Fill::of("lost leases", self.lost.len(), MAX_LOST),
            Fill::of("remembered gifts", self.given.len(), MAX_REMEMBERED),
            Fill::of("refused block records", self.map.refused(), MAX_REFUSED),
            Fill::of("deeds of others", self.map.deeds(), MAX_DEEDS),
            Fill::of("peers asked for one need", self.asks.most_asked(), MAX_ASKED),
        ]
    }
}
