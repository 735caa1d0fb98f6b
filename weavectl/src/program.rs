//! Programs of ours: beside this one, then in PATH.

use std::path::{Path, PathBuf};

/// Where a program is.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates =
        beside.into_iter().chain(std::env::split_paths(&path).map(|directory| directory.join(name)));
    let found = candidates.into_iter().find(|candidate| is_program(candidate))?;
    std::path::absolute(found).ok()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
