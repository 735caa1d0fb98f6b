//! What people attached by name, and what it had: the file `containers` in the state directory, written before anything is done.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::shell::state::CheckedFile;

/// Its name in the state directory.
const FILE: &str = "containers";
/// Most interfaces of named containers; a host runs hundreds of containers, and each change writes all of them.
pub const MAX_WANTED: usize = 4096;

/// An interface that a container has whenever it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Socket of the daemon that knows the container.
    pub daemon: PathBuf,
    /// The container's id.
    pub container: String,
    /// The container's name when it was last looked at.
    pub name: String,
    /// Interface inside.
    pub ifname: String,
    /// What the attachment is called, if not as the container.
    pub label: Option<String>,
    /// What it asks for.
    pub wish: Wish,
    /// What it had last.
    pub last: Option<Ipv4Addr>,
}

/// Which address a person wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Any; after a restart the one from before, if nobody else has it.
    #[default]
    Any,
    /// One of these.
    Within(Ipv4Net),
    /// This one.
    Address(Ipv4Addr),
}

/// See the module's text.
pub struct Book {
    file: CheckedFile,
    wanted: Vec<Wanted>,
}

impl Book {
    /// Reads it. What was damaged is kept aside and told in the log.
    pub fn open(dir: &Path) -> io::Result<Book> {
        let file = CheckedFile::new(dir, FILE);
        let loaded = file.load::<Vec<Wanted>>()?;
        for (kept, why) in &loaded.set_aside {
            tracing::error!(kept = %kept.display(), why, "the list of named containers is damaged; attach them again: weavectl attach CONTAINER");
        }
        Ok(Book { file, wanted: loaded.value.unwrap_or_default() })
    }

    /// Containers of a daemon.
    pub fn containers(&self, daemon: &Path) -> BTreeSet<String> {
        let theirs = self.wanted.iter().filter(|wanted| wanted.daemon == daemon);
        theirs.map(|wanted| wanted.container.clone()).collect()
    }

    /// The interfaces of a daemon's container.
    pub fn of(&self, daemon: &Path, container: &str) -> Vec<Wanted> {
        let meant = |wanted: &&Wanted| wanted.container == container && wanted.daemon == daemon;
        self.wanted.iter().filter(meant).cloned().collect()
    }

    /// One interface.
    pub fn find(&self, container: &str, ifname: &str) -> Option<&Wanted> {
        self.wanted.iter().find(|wanted| wanted.container == container && wanted.ifname == ifname)
    }

    /// Id of the container that a person means by this name, id or beginning of an id.
    pub fn named(&self, name: &str) -> Option<&str> {
        let exact = |wanted: &&Wanted| wanted.container == name || wanted.name == name;
        if let Some(wanted) = self.wanted.iter().find(exact) {
            return Some(&wanted.container);
        }
        let ids = self.wanted.iter().map(|wanted| wanted.container.as_str());
        let begins: BTreeSet<&str> = ids.filter(|id| id.starts_with(name)).collect();
        (begins.len() == 1).then(|| begins.first().copied()).flatten()
    }

    /// Writes an interface down, in place of what was said of it before. Durable when it returns.
    pub fn put(&mut self, entry: Wanted) -> io::Result<()> {
        let mut after = self.without(&entry.container, Some(&entry.ifname));
        if after.len() >= MAX_WANTED {
            return Err(io::Error::other(format!(
                "{MAX_WANTED} interfaces of named containers are the limit"
            )));
        }
        after.push(entry);
        self.replace(after)
    }

    /// Forgets an interface of a container, or all of them.
    pub fn remove(&mut self, container: &str, ifname: Option<&str>) -> io::Result<()> {
        let after = self.without(container, ifname);
        self.replace(after)
    }

    /// Forgets everything.
    pub fn clear(&mut self) -> io::Result<()> {
        self.replace(Vec::new())
    }

    fn without(&self, container: &str, ifname: Option<&str>) -> Vec<Wanted> {
        let meant = |wanted: &Wanted| {
            wanted.container == container && ifname.is_none_or(|ifname| wanted.ifname == ifname)
        };
        self.wanted.iter().filter(|wanted| !meant(wanted)).cloned().collect()
    }

    fn replace(&mut self, after: Vec<Wanted>) -> io::Result<()> {
        if after != self.wanted {
            self.file.store(&after)?;
            self.wanted = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(container: &str, name: &str) -> Wanted {
        Wanted {
            daemon: "/run/docker.sock".into(),
            container: container.to_owned(),
            name: name.to_owned(),
            ifname: "ethwe".to_owned(),
            label: None,
            wish: Wish::Any,
            last: None,
        }
    }

    #[test]
    fn what_was_written_is_read_again_and_found_by_any_name() {
        let dir = std::env::temp_dir().join(format!("weave-containers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let mut book = Book::open(&dir).expect("opens");
        for (id, name) in [("aa11", "web"), ("aa22", "db"), ("web2", "aa")] {
            book.put(wanted(id, name)).expect("stored");
        }
        book.put(Wanted { last: Some(Ipv4Addr::new(10, 32, 0, 7)), ..wanted("aa11", "web") })
            .expect("stored");
        let mut book = Book::open(&dir).expect("opens again");
        let docker = Path::new("/run/docker.sock");
        assert_eq!(book.containers(docker).len(), 3);
        assert_eq!(book.containers(Path::new("/run/podman/podman.sock")).len(), 0);
        assert_eq!(
            book.find("aa11", "ethwe").and_then(|wanted| wanted.last),
            Some("10.32.0.7".parse().unwrap())
        );
        assert_eq!(book.named("web"), Some("aa11"), "a name goes before the beginning of an id");
        assert_eq!((book.named("aa1"), book.named("a"), book.named("zz")), (Some("aa11"), None, None));
        book.remove("aa11", None).expect("stored");
        assert_eq!(Book::open(&dir).expect("opens").of(docker, "aa11"), []);
        book.clear().expect("stored");
        assert_eq!(Book::open(&dir).expect("opens").containers(docker).len(), 0);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
