//! What other processes change in a keystore that several of them share.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::kms::root_keys::{Error, RootKeys};
use super::region::Region;
use crate::keystore::Watch;

/// Takes on, for as long as the process lives, what other processes change. While the database is out of reach, keys are
/// used as they were last; after [`LEASE`] no more, because they may have been deleted since.
pub fn follow(region: Arc<Region>, keys: Arc<RootKeys>, mut watch: Watch) {
    let mut heard = Instant::now();
    let mut last = String::new();
    loop {
        let outcome = watch.wait(HEARTBEAT).map_err(Error::from).and_then(|()| {
            if let Err(error) = region.read_storage() {
                tracing::error!(%error, "the record of the instance cannot be read again");
            }
            keys.refresh(false)
        });
        match outcome {
            Ok(()) => {
                heard = Instant::now();
                keys.set_stale(false);
                if !last.is_empty() {
                    tracing::info!("the database answers again");
                    last.clear();
                }
            }
            Err(error) => {
                keys.set_stale(heard.elapsed() > LEASE);
                let error = error.to_string();
                // Once, not five times a second.
                if error != last {
                    tracing::warn!(error, "the database does not answer: keys are used, but not changed");
                    last = error;
                }
                thread::sleep(RETRY);
            }
        }
    }
}

/// How long keys are used while nobody says whether they have been deleted.
pub const LEASE: Duration = Duration::from_secs(30);
/// Between two looks while nothing is told.
const HEARTBEAT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);
