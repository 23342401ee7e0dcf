//! The local side of one tunnel.

pub mod peer;
