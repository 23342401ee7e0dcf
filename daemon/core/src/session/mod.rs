//! Being logged in to one cluster: when to ask for a token and what to keep of it, the request that brings it, and the
//! pages that a person sees.

pub mod callback;
pub mod error;
mod machine;
pub mod pages;
pub mod token;

pub use machine::{
    Answer, Asker, Core, Effect, Event, Handover, Input, Look, Need, Patience, Reply, TICK, View,
    Wait, WaitPolicy, WaiterView, Welcome, Write, is_no_bound,
};
