//! Replays the kept inputs, and random changes of them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test whose helper cannot go on has failed, and what a run tried is told on its streams"
)]

use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;
use fuzz_targets::{
    TARGETS, Target,
    corpus::{self, Input},
    named,
};

/// How long random inputs are tried on one target, and how many at most.
const BATCH: (Duration, u64) = (Duration::from_secs(2), 2_000);
/// Says how many random inputs are tried instead, however long it takes.
const RUNS: &str = "POMD_FUZZ_RUNS";
/// The most that all kept inputs of all targets take, in bytes.
const KEPT_MOST: usize = 512 << 10;
/// Names the file to try alone, for [`again`].
const INPUT: &str = "POMD_FUZZ_INPUT";

fn kept(target: Target) -> Vec<Input> {
    let kept = corpus::read(target.name).unwrap();
    assert!(!kept.is_empty(), "nothing is kept for {target:?}");
    kept
}

/// Tries `bytes`; if a promise breaks, leaves them in a file and says how to try them again.
fn watched(target: Target, bytes: &[u8], origin: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.run(bytes))) else {
        return;
    };
    let folder = corpus::folder().join("artifacts").join(target.name);
    fs::create_dir_all(&folder).unwrap();
    let name = format!("stable-{}", origin.replace([' ', '/'], "-"));
    fs::write(folder.join(&name), bytes).unwrap();
    eprintln!(
        "{target:?} breaks with {origin}; once more:\n  \
         {INPUT}=tests/fuzz/artifacts/{target:?}/{name} cargo test -p fuzz-targets again"
    );
    resume_unwind(panic);
}

/// Tries everything that is kept, then changes of it.
fn batch(name: &str) {
    let target = named(name).unwrap();
    let kept = kept(target);
    for input in &kept {
        watched(target, &input.bytes, &input.file_name());
    }
    let runs: Option<u64> = env::var(RUNS).ok().map(|it| it.parse().unwrap());
    let start = Instant::now();
    let mut tried = 0;
    while runs.map_or(tried < BATCH.1 && start.elapsed() < BATCH.0, |it| {
        tried < it
    }) {
        watched(target, &changed(&kept, tried), &format!("seed {tried}"));
        tried += 1;
    }
    println!(
        "{name}: {} kept, {tried} random in {:?}",
        kept.len(),
        start.elapsed()
    );
}

/// Returns something that is kept with a few changes: the same number, the same ones.
fn changed(kept: &[Input], seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let mut res = random.choice(kept).unwrap().bytes.clone();
    for _ in 0..=random.usize(..4) {
        let at = random.usize(..=res.len());
        let end = (at + 1 + random.usize(..16)).min(res.len());
        match random.u8(..5) {
            0 => drop(res.drain(at.min(end)..end)),
            1 => res.insert(at, random.u8(..)),
            2 => {
                let flipped = res.iter_mut().skip(at).take(1);
                flipped.for_each(|it| *it ^= 1 << random.u8(..8));
            }
            3 => {
                let piece = res[at.min(end)..end].to_vec();
                res.splice(at..at, piece);
            }
            _ => {
                let other = &random.choice(kept).unwrap().bytes;
                let from = random.usize(..=other.len());
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
            let names = TARGETS.map(|it| it.name.to_owned());
            assert_eq!(names, [$(stringify!($name)),*]);
            let manifest = fs::read_to_string(corpus::folder().join("Cargo.toml")).unwrap();
            for name in &names {
                let program = format!("fuzz_targets/{name}.rs");
                let text = fs::read_to_string(corpus::folder().join(&program)).unwrap();
                assert!(text.contains(&format!("\"{name}\"")), "{program} runs another target");
                assert!(manifest.contains(&program), "{name} is not built");
            }
            for (folder, ending) in [("fuzz_targets", "rs"), ("corpus", "txt")] {
                let entries = fs::read_dir(corpus::folder().join(folder)).unwrap();
                let paths = entries.map(|it| it.unwrap().path()).filter(|it| it.is_file());
                let found: BTreeSet<_> = paths
                    .map(|it| it.strip_prefix(corpus::folder().join(folder)).unwrap().to_owned())
                    .collect();
                let expected = names.iter().map(|it| format!("{it}.{ending}").into());
                assert_eq!(found, expected.collect(), "{folder}");
            }
        }
    };
}

batches!(api callback changes config guard h1_head host_match model route sock_diag token);

#[test]
fn f3_what_is_kept_stays_small() {
    let all = TARGETS.into_iter().flat_map(kept);
    let bytes: usize = all.map(|it| it.bytes.len()).sum();
    assert!(
        bytes <= KEPT_MOST,
        "{bytes} bytes: cargo +nightly fuzz cmin --fuzz-dir tests/fuzz NAME"
    );
}

#[test]
fn what_is_packed_is_what_was_read() {
    for target in TARGETS {
        let text = fs::read_to_string(corpus::packed(target.name)).unwrap();
        assert_eq!(corpus::text(kept(target)), text, "{target:?}");
    }
    let input = Input {
        name: "every-byte".to_owned(),
        bytes: (0..=255).collect(),
    };
    let text = corpus::text([input.clone()]);
    assert_eq!(text.lines().count(), 1);
    assert_eq!(corpus::parse(&text), Some(vec![input]));
}

#[test]
fn no_history_that_is_kept_breaks_a_promise_of_agent_and_sessions() {
    for input in kept(named("model").unwrap()) {
        let lived = catch_unwind(|| model::live_with_agent(&input.bytes));
        assert!(lived.is_ok(), "{} breaks a promise", input.file_name());
    }
}

/// Tries one file, named by its path from the root of the repository; it lies in the folder of its target.
#[test]
fn again() {
    let Some(path) = env::var_os(INPUT) else {
        return;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    let target = path.parent().unwrap().file_name().unwrap().to_str();
    let target = named(target.unwrap()).expect("a target of this name");
    target.run(&fs::read(&path).unwrap());
}
