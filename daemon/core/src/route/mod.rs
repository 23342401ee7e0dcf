//! One route: what its server answers, which token may be sent to it, which connections are kept ready for it, and whether
//! its end is to be believed.

pub mod head;
pub mod pool;
pub mod refusal;
pub mod token_policy;
pub mod truncation;
