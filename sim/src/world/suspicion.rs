//! Whoever runs and is heard by all is never taken for dead, whatever a member says of it.

use std::time::Duration;

use gossip::MemberState;

use super::World;
use crate::history::Subject;
use crate::model::{Check, Failure, Fate};

/// Larger fabrics are not watched so closely: each step would cost a walk over all members.
const MAX_HOSTS: usize = 64;

impl World {
    /// Checks what a host thinks of those who never stopped. Only where nothing keeps members from hearing each other.
    pub(super) fn check_deaths(&self, host: u16) -> Result<(), Failure> {
        let calm = self.calm && self.network.weather.is_calm();
        if !calm || self.hosts.len() > MAX_HOSTS || self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        let Some(router) = &self.hosts[usize::from(host)].router else { return Ok(()) };
        let given_up = |state| match state {
            MemberState::Dead | MemberState::Left => true,
            MemberState::Alive | MemberState::Suspect => false,
        };
        for member in router.node.members().filter(|member| given_up(member.state)) {
            let here = self.hosts.iter().find(|other| other.id == member.id && other.router.is_some());
            let Some(other) = here.filter(|other| self.model.fate(other.number) == Fate::Member) else {
                continue;
            };
            let text = format!("host {host} holds host {} for {:?}, which runs", other.number, member.state);
            return Err(Failure { check: Check::NoFalseDeath, text, subject: Subject::All });
        }
        Ok(())
    }

    /// Whether a host's router has run for so long without a break.
    pub(super) fn has_run_for(&self, host: u16, time: Duration) -> bool {
        self.hosts[usize::from(host)].router.as_ref().is_some_and(|router| router.started + time <= self.now)
    }
}
