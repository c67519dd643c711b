//! The deterministic simulator: one seed, one thread, virtual time.
//!
//! This is the half that does not depend on what is simulated. A profile (messages and a model
//! disk around many cores, or bytes and sectors around the whole engine) brings the cluster; here
//! is what decides its fate and judges it:
//!
//! | file | holds |
//! |---|---|
//! | `rng` | one seed, independent streams of randomness by label |
//! | `observe` | what the checks see of a replica, its log and the disks |
//! | `invariants` | the checks after every step (I1 to I12, G1 to G12), with a history per group |
//! | `violation` | what a run is failed for, by a stable name |
//!
//! Everything here is a pure function of the seed and of what the profile reports.

pub mod bytes;
pub mod invariants;
pub mod observe;
pub mod rng;
pub mod violation;
