//! The regions of the HSM in the order of preference, and which of them count as lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::Endpoint;

/// All endpoints. Threads share what they find out about them, by atomics alone.
pub struct Regions {
    began: Instant,
    list: Vec<Region>,
}

struct Region {
    endpoint: Endpoint,
    /// In milliseconds since `began`: until then nobody asks it.
    lost_until: AtomicU64,
}

impl Regions {
    /// None is lost yet.
    pub fn new(endpoints: &[Endpoint]) -> Self {
        let region =
            |endpoint: &Endpoint| Region { endpoint: endpoint.clone(), lost_until: AtomicU64::new(0) };
        Self { began: Instant::now(), list: endpoints.iter().map(region).collect() }
    }

    /// Is there another one to go to?
    pub fn are_several(&self) -> bool {
        self.list.len() > 1
    }

    /// The endpoint of a region.
    pub fn endpoint(&self, region: usize) -> &Endpoint {
        &self.list[region].endpoint
    }

    /// Those that are not lost in their order, then the lost ones in theirs.
    pub fn order(&self) -> Vec<usize> {
        let now = self.now();
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_key(|region| self.list[*region].lost_until.load(Ordering::Relaxed) > now);
        order
    }

    /// Nobody asks it for a while.
    pub fn lose(&self, region: usize) {
        self.list[region].lost_until.store(self.now() + LOST_MILLISECONDS, Ordering::Relaxed);
    }

    /// It has answered.
    pub fn find(&self, region: usize) {
        self.list[region].lost_until.store(0, Ordering::Relaxed);
    }

    /// A region before this one that may be back, for the one thread that is to see.
    pub fn better_than(&self, region: usize) -> Option<usize> {
        let now = self.now();
        (0..region).find(|better| {
            let lost_until = &self.list[*better].lost_until;
            let until = lost_until.load(Ordering::Relaxed);
            // 0: somebody has found it already, and everybody may go there.
            let is_claimed =
                |next| lost_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            until == 0 || until <= now && is_claimed(now + LOST_MILLISECONDS)
        })
    }

    fn now(&self) -> u64 {
        // 0 means not lost.
        self.began.elapsed().as_millis() as u64 + 1
    }
}

/// Between two looks at a region that is lost.
const LOST_MILLISECONDS: u64 = 2000;
/// How long a region may be silent before somebody looks whether it is alive.
pub const PATIENCE: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_region_comes_last_and_one_thread_looks_for_it() {
        let endpoints = ["http://a", "http://b"].map(|uri| Endpoint::Tcp(uri.to_owned()));
        let regions = Regions::new(&endpoints);
        assert_eq!(regions.order(), [0, 1]);
        regions.lose(0);
        assert_eq!(regions.order(), [1, 0]);
        assert_eq!(regions.better_than(1), None, "too early");
        regions.list[0].lost_until.store(1, Ordering::Relaxed);
        assert_eq!(regions.better_than(1), Some(0));
        assert_eq!(regions.better_than(1), None, "another thread looks already");
        regions.find(0);
        assert_eq!((regions.better_than(1), regions.better_than(1)), (Some(0), Some(0)));
        assert_eq!(regions.order(), [0, 1]);
    }
}
