//! The tests of everything that the crate offers to others. One program: each would cost a build of everything.
#![allow(clippy::expect_used)]

mod administration;
mod audit;
mod backup;
mod cloud_http;
mod common;
mod control_points;
mod keystore;
mod made_keys;
mod mechanisms;
mod messages;
mod pairing;
mod pairing_simulation;
mod postgres;
mod region;
mod root_keys;
mod rotation;
mod serving;
mod tke;
mod tokens;
mod unit_faults;
