//! Containers that outlive the test and the engine that started them: they live in namespaces of their own.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills, for each container in this folder, the processes whose numbers these files below the container's own folder hold.
pub(crate) fn end_containers(folder: &Path, files: &[&str]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        for file in files {
            let pid = fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) else { continue };
            let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
            // The number may be somebody else's by now.
            if fs::read_to_string(proc.join("cgroup")).is_ok_and(|text| text.contains(&id)) {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}
