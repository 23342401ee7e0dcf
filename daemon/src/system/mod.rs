//! One small module for each thing that the platforms do differently. Each knows one fact of the system and nothing of
//! the rest of the house; where a platform cannot tell, it says so.

pub mod control_listener;
pub mod cpu;
pub mod errors;
pub mod file_stamp;
pub mod handover;
pub mod limits;
pub mod network;
pub mod plain_file;
pub mod private_folder;
pub mod process;
pub mod service;
pub mod socket_activation;
pub mod sockets;
pub mod usage;
pub mod user_manager;
pub mod users;

#[cfg(target_os = "linux")]
pub mod proc_net;
pub mod sock_diag;
