//! The promises of pomd, tried on the real programs; one file for each.

#![expect(clippy::unwrap_used, reason = "this crate holds nothing but tests")]

mod attacks;
mod bytes;
mod clients;
mod connect;
mod demo;
mod faults;
mod forward_proxy;
mod house;
mod main_job;
mod page;
mod ready;
mod reload;
mod service;
mod status;
mod unix_sockets;
mod wire;
mod words;
