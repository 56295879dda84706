//! The program as its users meet it: exit codes, one line of error that says what is wrong and
//! what is allowed, signals, peers that misbehave, documents for programs.

mod clients;
mod damage;
mod documents;
mod listening;
mod outputs;
mod refusals;
mod signals;
mod silence;
mod usage;
