//! What pomd decides.
//!
//! Everything here is a function of texts, values and the time that is given to it. What reads a file, owns a socket, starts
//! a task or asks a clock is a driver in the package `pomd`; the manifest of this crate names nothing that could.
//!
//! | room | what it decides |
//! |---|---|
//! | [`config`] | which values the configuration's text means, what is wrong with it, what a new one changes |
//! | [`guard`] | which bytes of a local connection come from a web page, and are refused |
//! | [`moment`] | whether the machine slept between two moments |
//! | [`route`] | which step of opening a route failed and why, what a server's answer means, where a token may go, which connections are kept ready |
//! | [`session`] | when to ask for a login and whom, which token is current, what a session hands over, what the browser is told |
//! | [`ssh_config`] | which hosts ssh reaches through pomd, and the file that tells it |
//! | [`words`] | every sentence that a person reads of a route or a login, made from typed errors |

pub mod config;
pub mod guard;
pub mod moment;
pub mod route;
pub mod session;
pub mod ssh_config;
pub mod words;
