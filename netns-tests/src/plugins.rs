//! Folders of plugins and networks for a container runtime, made as an administrator makes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::host::Host;

/// Where Debian has the reference plugins.
pub(crate) const REFERENCE: &str = "/usr/lib/cni";

/// Debian's plugins and ours in a folder, and a network, by `weavectl setup cni`. Answers both folders.
pub(crate) fn install(host: &Host, dir: &Path) -> Result<(String, String)> {
    let plugins = dir.join("plugins");
    fs::create_dir_all(&plugins).with_context(|| format!("cannot make `{}`", plugins.display()))?;
    let reference = fs::read_dir(REFERENCE)
        .with_context(|| format!("there are no plugins in `{REFERENCE}`; type `cargo xtask setup`"))?;
    for plugin in reference {
        let plugin = plugin.context("cannot list plugins")?;
        let link = plugins.join(plugin.file_name());
        std::os::unix::fs::symlink(plugin.path(), &link)
            .with_context(|| format!("cannot make `{}`", link.display()))?;
    }
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    let (plugins, networks) = (text(&plugins)?, text(&dir.join("net.d"))?);
    let state = text(&host.state_dir())?;
    host.json(&["setup", "cni", "--bin-dir", &plugins, "--conf-dir", &networks, "--state-dir", &state])?;
    Ok((plugins, networks))
}
