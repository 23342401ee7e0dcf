//! What the fuzzer tries, and the inputs that are kept of it.

pub mod corpus;
