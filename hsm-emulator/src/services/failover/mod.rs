//! A pair of regions: one has the primary role and writes, the other follows its change log.

pub mod checks;
pub mod history;
pub mod pair;
pub mod pairing;
pub mod set_aside;
