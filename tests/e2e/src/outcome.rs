//! How tests ended: each is told when it ends, and what failed once more at the very end, where nobody has to look for it.

use std::ops::AddAssign;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// How many tests ended in which way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    passed: u32,
    /// A line for each.
    failed: Vec<String>,
    skipped: u32,
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Outcomes) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped += other.skipped;
    }
}

impl Outcomes {
    /// Tells how a test has ended that began then.
    pub(crate) fn of(name: &str, begin: Instant, outcome: Result<String>) -> Self {
        let took = begin.elapsed().as_secs_f32();
        match outcome {
            Ok(said) => {
                let colon = if said.is_empty() { "" } else { ": " };
                println!("{took:7.1} s  passed {name}{colon}{said}");
                Self { passed: 1, ..Self::default() }
            }
            Err(error) => {
                let line = format!("{name}: {error:#}");
                println!("{took:7.1} s  FAILED {line}");
                Self { failed: vec![line], ..Self::default() }
            }
        }
    }

    /// Tells that a test cannot run here.
    pub(crate) fn skipped(name: &str, why: &str) -> Self {
        println!("           skipped {name}: {why}");
        Self { skipped: 1, ..Self::default() }
    }

    /// The tests of one program, or of many.
    pub(crate) fn counted(passed: u32, failed: Vec<String>, skipped: u32) -> Self {
        Self { passed, failed, skipped }
    }

    /// Whether nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.failed.is_empty()
    }

    /// The counts, in words.
    pub(crate) fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)
    }

    /// The last lines, and the exit code that goes with them.
    pub(crate) fn conclude(&self) -> ExitCode {
        for line in &self.failed {
            println!("FAILED {line}");
        }
        println!("{}", self.summary());
        if self.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
