//! How slowly a client may send or take bytes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// The least pace of a client.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest pause, and the time over which the rate is averaged.
    pub idle: Duration,
    /// Bytes per second; 0 for no floor.
    pub min_rate: u64,
}

/// Measures one direction of one client. Only time that is spent waiting for the client counts: waiting uses up a
/// credit of [`Pace::idle`], bytes refill it at [`Pace::min_rate`], and when it is gone the client is too slow.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    credit: Duration,
    waiting_since: Option<Instant>,
    // Armed at the first wait, and again only when it has fired: the limit never moves to an earlier time.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pacer {
    /// A client in good standing.
    pub fn new(pace: Pace) -> Self {
        Self { pace, credit: pace.idle, waiting_since: None, timer: None }
    }

    /// The client has sent or taken bytes.
    pub fn progress(&mut self, bytes: usize) {
        // No clock is read, and no credit can be missing, where nobody has waited.
        if self.waiting_since.is_some() || self.credit < self.pace.idle {
            self.progress_at(bytes, Instant::now());
        }
    }

    /// To be called while waiting for the client: ready when it is too slow.
    pub fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit(Instant::now());
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit)));
        while timer.as_mut().poll(cx).is_ready() {
            if limit <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(limit);
        }
        Poll::Pending
    }

    fn progress_at(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.credit = self.credit.saturating_sub(now - since);
        }
        let earned = match self.pace.min_rate {
            0 => self.pace.idle,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64).min(self.pace.idle),
        };
        self.credit = (self.credit + earned).min(self.pace.idle);
    }

    /// When the client will have been too slow.
    fn limit(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.credit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { idle: Duration::from_secs(60), min_rate: 1000 };

    /// Follows a client that pauses and then sends so many bytes, again and again; how often it may.
    fn rounds(pace: Pace, pause_secs: u64, bytes: usize, busy_secs: u64) -> usize {
        let (mut pacer, mut now) = (Pacer::new(pace), Instant::now());
        for round in 0..1000 {
            now += Duration::from_secs(busy_secs);
            let limit = pacer.limit(now);
            now += Duration::from_secs(pause_secs);
            if limit <= now {
                return round;
            }
            pacer.progress_at(bytes, now);
        }
        usize::MAX
    }

    #[test]
    fn pauses_are_allowed_and_longer_ones_are_not() {
        assert_eq!(rounds(PACE, 59, 1_000_000, 0), usize::MAX);
        assert_eq!(rounds(PACE, 61, 1_000_000, 0), 0);
    }

    #[test]
    fn the_least_rate_is_enough_and_less_is_not() {
        assert_eq!(rounds(PACE, 10, 10_000, 0), usize::MAX);
        assert_eq!(rounds(PACE, 59, 1, 0), 1);
        assert_eq!(rounds(PACE, 10, 5_000, 0), 10);
        assert_eq!(rounds(Pace { min_rate: 0, ..PACE }, 59, 1, 0), usize::MAX);
    }

    #[test]
    fn time_that_is_not_spent_waiting_does_not_count() {
        assert_eq!(rounds(PACE, 1, 1000, 3600), usize::MAX);
    }

    #[test]
    fn the_limit_never_moves_to_an_earlier_time() {
        let (mut pacer, mut now) = (Pacer::new(PACE), Instant::now());
        let mut before = now;
        for step in 0_u64..1000 {
            let limit = pacer.limit(now);
            assert!(limit >= before);
            before = limit;
            now += Duration::from_millis(step * 7919 % 20_000);
            pacer.progress_at((step * 104_729 % 50_000) as usize, now);
        }
    }
}
