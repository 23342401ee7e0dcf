//! One small module for each thing that the platforms do differently. Each knows one fact of the system and nothing of
//! the rest of the house; where a platform cannot tell, it says so.

pub mod boot_clock;
pub mod control_listener;
pub mod cpu;
pub mod default_browser;
pub mod descriptor_reserve;
pub mod detach;
pub mod disk;
pub mod errors;
pub mod exec;
pub mod file_id;
pub mod file_stamp;
pub mod file_trust;
pub mod handover;
pub mod home;
pub mod journal;
pub mod limits;
pub mod name_servers;
pub mod network;
pub mod path_watch;
pub mod plain_file;
pub mod private_folder;
pub mod process;
pub mod service;
pub mod signals;
pub mod socket_activation;
pub mod sockets;
pub mod unix_listener;
pub mod unix_socket;
pub mod usage;
pub mod user_manager;
pub mod users;

#[cfg(target_os = "linux")]
pub mod proc_net;
pub mod sock_diag;
