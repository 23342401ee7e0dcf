//! The tests' side of a pomd whose disk, dials, accepts and tasks fail when a plan says so; see `fault_injection_main.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{binary::binary, pomd::Setup, setup::write};

/// The plan of one pomd.
#[derive(Debug)]
pub struct FaultPlan {
    folder: PathBuf,
}

impl FaultPlan {
    /// A pomd started so obeys the plan, which is empty at first.
    pub fn new(setup: Setup) -> (Self, Setup) {
        let folder = setup.folder().join("faults");
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let named = folder.display().to_string();
        let setup = setup
            .program(binary("pomd-with-faults"))
            .env("POMD_FAULTS", &named);
        (Self { folder }, setup)
    }

    /// Goes by these lines from now on, counted from 1 again, and forgets what was called so far.
    pub fn plan(&self, lines: &[&str]) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // The same lines again are another plan.
        let number = NUMBER.fetch_add(1, Relaxed);
        let text = format!("plan {number}\n{}\n", lines.join("\n"));
        let new = self.folder.join("new");
        write(&new, &text);
        let _ = fs::remove_file(self.calls_file());
        let put = fs::rename(&new, self.folder.join("plan"));
        put.unwrap_or_else(|error| panic!("{error}"));
    }

    /// What was called since the plan was made.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.calls_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn calls_file(&self) -> PathBuf {
        Path::new(&self.folder).join("calls")
    }
}
