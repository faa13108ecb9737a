//! Times of one operation, by one thread and by several.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use cryptoki_sys::CK_SLOT_ID;
use integration_tests::arguments::Outcome;

use super::module::{Module, Session};
use super::rows::{After, LARGEST, Operation};

/// How many threads work at once.
pub const THREADS: [usize; 3] = [1, 2, 4];

/// What was measured of a row; infinite and zero if the module does not offer it.
#[derive(Clone, Copy)]
pub struct Figure {
    /// Microseconds, the median by one thread.
    pub median: f64,
    /// Operations per second of all threads together, for each of [`THREADS`]; zero if it is no work for several.
    pub rates: [f64; THREADS.len()],
}

impl Figure {
    pub const NONE: Self = Self { median: f64::INFINITY, rates: [0.0; THREADS.len()] };

    /// Other load on the machine only ever adds time.
    pub fn best(self, other: Self) -> Self {
        let rates = std::array::from_fn(|i| self.rates[i].max(other.rates[i]));
        Self { median: self.median.min(other.median), rates }
    }
}

/// How long one operation took, and what undoes it.
pub struct Step {
    pub took: Duration,
    pub undone: Duration,
}

/// Times of one thread; infinite if the operation is refused from the start.
pub fn alone(name: &str, budget: Duration, mut step: impl FnMut() -> Outcome<Step>) -> Figure {
    if step().is_err() {
        return Figure::NONE;
    }
    let (mut times, rate) = repeated(name, budget, &mut step);
    times.sort();
    let median = times[times.len() / 2].as_nanos() as f64 / 1000.0;
    Figure { median, rates: [rate, 0.0, 0.0] }
}

/// What has nothing to undo.
pub fn plain<T>(mut operation: impl FnMut() -> T) -> impl FnMut() -> Outcome<Step> {
    move || {
        let begin = Instant::now();
        black_box(operation());
        Ok(Step { took: begin.elapsed(), undone: Duration::ZERO })
    }
}

/// Times of an operation in a session, and those of several threads with a session each.
pub fn shared(name: &str, budget: Duration, session: &mut Session, operation: &Operation) -> Figure {
    let mut figure = alone(name, budget, || timed(session, operation));
    if figure.median.is_finite() {
        for (rate, threads) in figure.rates.iter_mut().zip(THREADS).skip(1) {
            *rate = together(name, budget, (session.module(), session.slot()), operation, threads);
        }
    }
    figure
}

/// Does an operation, and undoes it.
pub fn timed(session: &mut Session, operation: &Operation) -> Outcome<Step> {
    let begin = Instant::now();
    let after = operation(session)?;
    let took = begin.elapsed();
    match after {
        After::Nothing => return Ok(Step { took, undone: Duration::ZERO }),
        After::Destroy(object) => session.destroy(object)?,
        After::Logout => session.logout()?,
    }
    Ok(Step { took, undone: begin.elapsed() - took })
}

fn together(
    name: &str,
    budget: Duration,
    (module, slot): (Module, CK_SLOT_ID),
    operation: &Operation,
    threads: usize,
) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        let mut session = module.open_session(slot).expect("session").with_output(2 * LARGEST);
        // Whatever a thread needs only once, such as a connection, is there before the clock runs.
        timed(&mut session, operation).expect(name);
        barrier.wait();
        let (_, rate) = repeated(name, budget, &mut || timed(&mut session, operation));
        // A session closes when nobody measures any more.
        barrier.wait();
        session.close().expect("close");
        rate
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
    })
}

/// The times, and operations per second without the time that it took to undo them.
fn repeated(name: &str, budget: Duration, step: &mut dyn FnMut() -> Outcome<Step>) -> (Vec<Duration>, f64) {
    let (mut times, mut undone) = (Vec::new(), Duration::ZERO);
    let start = Instant::now();
    while times.len() < LEAST || start.elapsed() < budget {
        match step() {
            Ok(step) => {
                times.push(step.took);
                undone += step.undone;
            }
            Err(code) => panic!("{name} failed with {code:#x} after it had worked"),
        }
    }
    let rate = times.len() as f64 / (start.elapsed() - undone).as_secs_f64();
    (times, rate)
}

const LEAST: usize = 3;
