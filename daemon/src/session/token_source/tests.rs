//! What sources that ask nobody give.
