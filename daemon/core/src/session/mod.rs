//! Being logged in to one cluster: the token, the request that brings it, and the pages that a person sees.

pub mod callback;
pub mod pages;
pub mod token;
