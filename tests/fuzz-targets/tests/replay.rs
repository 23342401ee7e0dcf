use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fuzz_targets::corpus;

use super::*;

/// How long random inputs are tried on one target, and how many at most.
const BATCH: (Duration, u64) = (Duration::from_secs(2), 2_000);
/// The most that all kept inputs of all targets take, in bytes.
const KEPT_MOST: u64 = 512 << 10;
/// Names the file to try alone, for [`again`].
const INPUT: &str = "POMD_FUZZ_INPUT";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

/// What is kept for `target`, with its name.
pub(crate) fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let inputs = corpus::read(target).unwrap().into_iter();
    let res: Vec<_> = inputs.map(|it| (it.file_name(), it.bytes)).collect();
    assert!(!res.is_empty(), "nothing is kept for {target}");
    res
}

/// Tries `bytes`; if a promise breaks, leaves them in a file and says how to try them again.
fn watched(target: &Target, bytes: &[u8], origin: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) else {
        return;
    };
    let name = target.name;
    let artifacts = folder().join("artifacts").join(name);
    fs::create_dir_all(&artifacts).unwrap();
    let path = artifacts.join(format!("stable-{}", origin.replace([' ', '/'], "-")));
    fs::write(&path, bytes).unwrap();
    eprintln!(
        "{name} breaks with {origin}; once more:\n  {INPUT}=tests/fuzz/artifacts/{name}/{} cargo test -p pomd --lib fuzz::tests::again",
        path.file_name().unwrap().display()
    );
    resume_unwind(panic);
}

/// Everything that is kept, then changes of it.
fn batch(name: &str) {
    let target = TARGETS.iter().find(|it| it.name == name).unwrap();
    let kept = kept(name);
    for (name, bytes) in &kept {
        watched(target, bytes, name);
    }
    let start = Instant::now();
    let mut tried = 0;
    while tried < BATCH.1 && start.elapsed() < BATCH.0 {
        let bytes = changed(&kept, tried);
        watched(target, &bytes, &format!("seed {tried}"));
        tried += 1;
    }
    println!("{name}: {} kept, {tried} random", kept.len());
}

/// A few changes of something that is kept, by the number `seed`.
fn changed(kept: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let pick = |dice: &mut Dice| &kept[dice.below(kept.len())].1;
    let mut res = pick(&mut dice).clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(res.len() + 1);
        let end = (at + 1 + dice.below(16)).min(res.len());
        match dice.below(5) {
            0 => drop(res.drain(at.min(end)..end)),
            1 => res.insert(at, dice.below(256) as u8),
            2 => res
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|it| *it ^= 1 << dice.below(8)),
            3 => {
                let piece = res[at.min(end)..end].to_vec();
                res.splice(at..at, piece);
            }
            _ => {
                let other = pick(&mut dice);
                let from = dice.below(other.len() + 1);
                res.splice(at.., other[from..].iter().copied());
            }
        }
    }
    res
}

macro_rules! batches {
    ($($name:ident)*) => {
        mod what_is_kept_and_changes_of_it_hold_for {
            $(#[test] fn $name() { super::batch(stringify!($name)); })*
        }

        #[test]
        fn f3_every_target_has_its_batch_its_program_and_its_inputs() {
            let names: BTreeSet<String> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
            assert_eq!(names, [$(stringify!($name).to_owned()),*].into());
            let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
            for name in &names {
                let text = fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
                assert!(text.contains(&format!("\"{name}\"")), "{name}.rs runs another target");
                assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name} is not built");
            }
            let entries = fs::read_dir(folder().join("fuzz_targets")).unwrap().map(|it| it.unwrap().path());
            let found: BTreeSet<String> =
                entries.map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
            assert_eq!(found, names);
        }
    };
}

batches!(api callback changes config guard h1_head host_match model route sock_diag token);

#[test]
fn f3_what_is_kept_stays_small() {
    let all = TARGETS.iter().flat_map(|it| kept(it.name));
    let bytes: u64 = all.map(|it| it.1.len() as u64).sum();
    assert!(
        bytes <= KEPT_MOST,
        "{bytes} bytes: cargo +nightly fuzz cmin NAME"
    );
}

/// Tries one file, named by its path from the root of the repository; it lies in the folder of its target.
#[test]
fn again() {
    let Some(path) = env::var_os(INPUT) else {
        return;
    };
    let path = folder().join("..").join(path);
    let target = path.parent().unwrap().file_name().unwrap().to_str();
    feed(target.unwrap(), &fs::read(&path).unwrap());
}
