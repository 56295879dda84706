//! Whole migrations, as a user or a peer sees them: through the library, through the program, and
//! byte by byte.

mod bench;
mod bench_page;
mod bench_peers;
mod churn;
mod cli;
mod control;
mod ctl;
mod cuts;
mod folder;
mod formats;
mod golden;
mod hostile;
mod inspect;
mod limits;
mod link;
mod live;
mod live_converge;
mod live_faults;
mod live_kills;
mod live_owner;
mod live_random;
mod live_rounds;
mod migrate;
mod monitor;
mod paths;
mod probe;
mod qemu;
mod qemu_hostile;
mod qmp_clients;
mod secrets;
mod support;
mod tables;
mod texts;
mod versions;
mod writer;
