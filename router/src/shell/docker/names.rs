//! What Docker calls its containers: its plugin protocol does not say, so the daemon is asked, and its events say when to ask.
//!
//! Never from within a call of the plugin: Docker holds its locks then, and would wait for us while we wait for it.

use std::sync::Arc;
use std::time::Duration;

use control::api::ErrorCode;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::core::names::DnsName;
use crate::shell::attach::DOCKERS_IFNAME;
use crate::shell::containers::daemon::{Called, Connected, Daemon, DaemonError};
use crate::shell::engine::call::{Call, Hub, Name};
use crate::shell::locks::Locks;

/// Pause before the daemon is looked for again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Containers asked for at once; more would only wait for the same locks of Docker's.
const AT_ONCE: usize = 8;
/// Characters of a container's id that Docker gives it as its host name.
const SHORT_ID: usize = 12;

/// Follows what Docker calls its containers, until the task is dropped.
pub async fn run(daemon: Daemon, hub: Hub) {
    let asker = Arc::new(Asker { daemon, hub, room: Semaphore::new(AT_ONCE), locks: Locks::default() });
    let mut said = None;
    loop {
        let text = match asker.follow().await {
            Ok(()) => "its events ended".to_owned(),
            Err(error) => error.to_string(),
        };
        if said.as_ref() != Some(&text) {
            tracing::info!(why = text, "Docker does not say what its containers are called; trying on");
            said = Some(text);
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

struct Asker {
    daemon: Daemon,
    hub: Hub,
    room: Semaphore,
    /// One for each container, so that two answers about it come in order.
    locks: Locks,
}

impl Asker {
    /// Events first, so that nothing is missed between the list and them.
    async fn follow(self: &Arc<Self>) -> Result<(), DaemonError> {
        let mut namings = self.daemon.namings().await?;
        for container in self.daemon.running().await? {
            self.look(container);
        }
        while let Some(container) = namings.next().await {
            self.look(container);
        }
        Ok(())
    }

    /// Asks what a container is called, beside everything else.
    fn look(self: &Arc<Self>, container: String) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let _order = this.locks.hold(&container).await;
            // It is never closed.
            let Ok(_room) = this.room.acquire().await else { return };
            match this.daemon.describe(&container).await {
                Ok(called) => this.tell(&called).await,
                Err(error) => tracing::debug!(container, %error, "Docker does not describe it"),
            }
        });
    }

    async fn tell(&self, called: &Called) {
        for connected in &called.endpoints {
            let name = Name {
                container: connected.endpoint.clone(),
                ifname: DOCKERS_IFNAME.to_owned(),
                name: Some(called.name.clone()),
                names: names(called, connected),
            };
            match self.hub.ask(|reply| Call::Called(name, reply)).await {
                Ok(()) => {}
                // On another network than ours.
                Err(error) if error.code == ErrorCode::UnknownContainer => {}
                Err(error) => {
                    tracing::warn!(error = error.message, "a container's name is not known to others")
                }
            }
        }
    }
}

/// By what others find a container, most wanted first: its name, its host name if somebody chose one, its service, its aliases on this
/// network. What cannot be a name is left out.
fn names(called: &Called, connected: &Connected) -> Vec<DnsName> {
    let chosen = Some(&called.hostname).filter(|name| !called.id.starts_with(name.as_str()));
    let own = [Some(&called.name), chosen, called.service.as_ref()].into_iter().flatten();
    let words = own.chain(&connected.aliases).map(String::as_str).chain(called.id.get(..SHORT_ID));
    let mut names: Vec<DnsName> = Vec::new();
    for name in words.filter_map(|word| word.parse().ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &str = "0123456789ab";

    fn named(name: &str, hostname: &str, aliases: &[&str], service: Option<&str>) -> Vec<String> {
        let called = Called {
            id: "0123456789abcdef".to_owned(),
            name: name.to_owned(),
            hostname: hostname.to_owned(),
            service: service.map(str::to_owned),
            endpoints: Vec::new(),
        };
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let connected = Connected { endpoint: "e1".to_owned(), aliases };
        names(&called, &connected).into_iter().map(String::from).collect()
    }

    #[test]
    fn containers_have_names_host_names_services_and_aliases() {
        assert_eq!(named("web", SHORT, &[SHORT], None), ["web", SHORT]);
        assert_eq!(
            named("shop_web_1", "Chosen", &["web", "shop_web_1", SHORT], None),
            ["shop_web_1", "chosen", "web", SHORT]
        );
        assert_eq!(named("web.1.abc", SHORT, &[], Some("web")), ["web.1.abc", "web", SHORT]);
        assert_eq!(named("-odd.", SHORT, &["not a name"], None), [SHORT]);
    }
}
