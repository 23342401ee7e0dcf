//! Every sentence that a person reads, made from typed errors.

pub mod login;
