//! Who writes the guest's RAM.
//!
//! [`churn`] is a writer of our own, for tests and measurements.

pub mod churn;
