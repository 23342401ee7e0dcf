//! One route: how its steps fail, what its server answers, which token may be sent to it, which connections are kept ready for it, and whether
//! its end is to be believed.

pub mod body;
pub mod error;
pub mod head;
pub mod pool;
pub mod refusal;
pub mod token_policy;
pub mod trail;
pub mod truncation;
