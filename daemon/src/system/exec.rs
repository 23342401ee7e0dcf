//! Running another program in the place of this one, under the same process id.

use std::{
    ffi::OsStr,
    io,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Whether this system can do it.
pub const IS_POSSIBLE: bool = cfg!(unix);

/// Replaces this process by `command`, which sees `name` as the one it was called by. Returns only why it could not.
#[cfg(unix)]
pub fn replace(command: &mut Command, name: &OsStr) -> io::Error {
    use std::os::unix::process::CommandExt;
    command.arg0(name).exec()
}

/// Returns that there is no such thing.
#[cfg(not(unix))]
pub fn replace(_: &mut Command, _: &OsStr) -> io::Error {
    io::ErrorKind::Unsupported.into()
}

/// Returns the program that this process runs, also where its file is gone.
pub fn running_program() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        return link;
    }
    std::env::current_exe().unwrap_or(link)
}

/// Gives the child of `command` a process group of its own, so that Ctrl-C in the terminal is not meant for it.
pub fn own_process_group(command: &mut tokio::process::Command) {
    #[cfg(unix)]
    command.process_group(0);
    #[cfg(not(unix))]
    let _ = command;
}

/// Returns the command of these words, run without a shell, with this environment alone, no streams, and a process group
/// of its own.
pub fn program<'a>(
    words: &[String],
    variables: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> tokio::process::Command {
    let (program, arguments) = match words {
        [program, arguments @ ..] => (program.as_str(), arguments),
        [] => ("", words),
    };
    let mut res = tokio::process::Command::new(program);
    res.args(arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    own_process_group(&mut res);
    res
}

/// A child's process group, made by [`own_process_group`]; whatever is left of it is killed when this is dropped.
#[derive(Debug)]
pub struct ProcessGroup(Option<u32>);

impl ProcessGroup {
    /// Returns the group of `child`, which has not been waited for.
    pub fn of(child: &tokio::process::Child) -> Self {
        Self(child.id())
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self.0.and_then(|it| i32::try_from(it).ok())
            && let Some(group) = rustix::process::Pid::from_raw(group)
        {
            // That nothing is left of it is what is wanted.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        #[cfg(not(unix))]
        let _ = self.0;
    }
}
