//! What pomd decides.
//!
//! Everything here is a function of texts, values and the time that is given to it. What reads a file, owns a socket, starts
//! a task or asks a clock is a driver in the package `pomd`; the manifest of this crate names nothing that could.
//!
//! [`config`] makes checked values of the configuration's text, and tells its problems.

pub mod config;
