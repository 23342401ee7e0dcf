//! Random cases: how many are tried, how one that fails is shown and repeated.

use std::env;

use integration::deployment::Who;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use tokio::runtime::Runtime;

use super::Lab;

/// Gives a run's seed again.
const SEED: &str = "POMD_TEST_SEED";

/// Tries `cases` random ones, `again` first; the smallest that fails is printed with the seed of its run.
pub(super) fn try_all<S: Strategy>(
    cases: u32,
    strategy: S,
    again: impl IntoIterator<Item = S::Value>,
    check: impl Fn(S::Value) -> Result<(), String>,
) where
    S::Value: Clone,
{
    for case in again {
        let shown = format!("{case:?}");
        check(case).unwrap_or_else(|why| panic!("{why}: {shown}"));
    }
    let config = Config {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let given = env::var(SEED).ok().and_then(|it| it.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| fastrand::u64(..));
    let bytes = seed.to_le_bytes().repeat(4);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, random);
    let result = runner.run(&strategy, |case| check(case).map_err(TestCaseError::fail));
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    result.unwrap_or_else(|error| {
        panic!(
            "{error}\nagain: {SEED}={seed} cargo test -p integration {name} -- --include-ignored"
        )
    });
}

/// One that ends as quickly as it can: there are many cases.
pub(super) async fn lab(who: Who) -> Lab {
    match who {
        Who::Gateway => Lab::hasty().await,
        Who::Envoy => Lab::new(who).await,
    }
}

pub(super) fn runtime() -> Runtime {
    Runtime::new().unwrap()
}
