//! The promises of pomd, tried on the real programs; one file for each.

#![expect(clippy::unwrap_used, reason = "this crate holds nothing but tests")]

/// Runs each test with the gateway and with Envoy.
macro_rules! with_both {
    ($($test:ident)*) => {
        mod gateway_ {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                super::$test(integration::deployment::Who::Gateway).await
            })*
        }
        mod envoy_ {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                super::$test(integration::deployment::Who::Envoy).await
            })*
        }
    };
}

mod attacks;
mod bytes;
mod clients;
mod completions;
mod connect;
mod demo;
mod doctor;
mod faults;
mod forward_proxy;
mod house;
mod idle;
mod life;
mod main_job;
mod metrics;
mod odd_servers;
mod page;
mod ready;
mod reload;
mod schemas;
mod service;
mod ssh_by_name;
mod status;
mod stdio;
mod token;
mod tokens;
mod unix_sockets;
mod wait;
mod wire;
mod words;
