//! The hot path: frames from the TAP device to sealed datagrams and back, on threads without tokio.
