//! What the tests share: the kit's inputs and shapes, and the backends that a run must have.

#![allow(dead_code, unused_imports, reason = "every test crate uses its own part of this file")]

use std::io::Write;

use tritlab_kernels::Backend;
use tritlab_kernels::backend::Ops;

pub use tritlab_kernels::testing::shapes::*;
pub use tritlab_kernels::testing::*;

/// The backends that this run must have, from `EXPECT_BACKENDS`; `None` if it says nothing.
pub fn expected_backends() -> Option<Vec<String>> {
    let names = std::env::var("EXPECT_BACKENDS").ok()?;
    let names: Vec<_> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    (!names.is_empty()).then(|| names.into_iter().map(str::to_owned).collect())
}

/// The backend's operations. `None`, said on the terminal past the test harness, where the CPU lacks it.
///
/// # Panics
/// If `EXPECT_BACKENDS` lists it.
pub fn ops(backend: Backend) -> Option<&'static Ops> {
    match backend.ops() {
        Ok(ops) => Some(ops),
        Err(e) => {
            let expected =
                expected_backends().is_some_and(|n| n.iter().any(|n| n == backend.name()));
            assert!(!expected, "EXPECT_BACKENDS lists {backend}: {e}");
            say(&format!("**** {backend} WAS NOT CHECKED: {e} ****"));
            None
        }
    }
}

/// Writes a line that the test harness does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// proptest's settings: `PROPTEST_CASES` if set, else few, because the oracle is slow.
pub fn cases(few: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..strategies::config(few)
    }
}
