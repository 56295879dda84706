//! Whole migrations, as a user or a peer sees them: through the library, through the program, and
//! byte by byte.

mod churn;
mod cli;
mod cuts;
mod folder;
mod golden;
mod hostile;
mod inspect;
mod limits;
mod link;
mod live;
mod migrate;
mod qemu;
mod qemu_hostile;
mod support;
mod writer;
