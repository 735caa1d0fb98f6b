//! Real container engines on the fabric.

mod containerd;
mod cri;
mod podman;
mod together;
