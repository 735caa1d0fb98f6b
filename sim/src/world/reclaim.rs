//! Removals without an operator (`--reclaim-after`): what they change for the model, and who may do it.

use std::time::Duration;

use gossip::PeerId;

use super::World;
use crate::history::Subject;
use crate::model::{Check, Failure, Fate};

/// So long after a partition began each side may not have noticed yet: deaths, and the next look at the dead.
const UNNOTICED: Duration = Duration::from_secs(30);

impl World {
    /// Peers that a host has removed by itself since it was last asked.
    pub(super) fn notice_reclaims(&mut self, host: u16) -> Result<(), Failure> {
        if self.fabric.reclaim_after.is_none() || self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        let me = self.hosts[usize::from(host)].id;
        let Some(router) = &self.hosts[usize::from(host)].router else { return Ok(()) };
        let removed: Vec<PeerId> =
            router.node.ipam().removed().filter(|(_, by)| *by == me).map(|(peer, _)| peer).collect();
        for peer in removed {
            let gone = self.members().into_iter().find(|gone| self.hosts[usize::from(*gone)].id == peer);
            let Some(gone) = gone.filter(|gone| self.removing != Some(*gone)) else { continue };
            self.history.note(self.now, host, format!("removes host {gone} by itself"));
            self.check_majority(host, gone)?;
            self.excuse_unknown(host, gone);
            self.model.set_fate(gone, Fate::Removed);
        }
        Ok(())
    }

    /// More than half of all members that it knows of are on its side.
    fn check_majority(&self, host: u16, gone: u16) -> Result<(), Failure> {
        if self.now < self.parted + UNNOTICED {
            return Ok(());
        }
        let Some(router) = &self.hosts[usize::from(host)].router else { return Ok(()) };
        let known: Vec<PeerId> = router.node.members().map(|member| member.id).collect();
        let counts = |other: &u16| {
            *other == host || *other == gone || known.contains(&self.hosts[usize::from(*other)].id)
        };
        let members: Vec<u16> = self.members().into_iter().filter(counts).collect();
        let side = self.network.side(host);
        let here = members.iter().filter(|other| self.network.side(**other) == side).count();
        if 2 * here > members.len() {
            return Ok(());
        }
        let text =
            format!("host {host} removes host {gone} with {here} of {} members on its side", members.len());
        Err(Failure { check: Check::Majority, text, subject: Subject::All })
    }
}
