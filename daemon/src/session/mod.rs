//! Being logged in to one cluster.

pub mod token;
