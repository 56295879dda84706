//! `--then` and `--then-diff`, which may alternate: their order on the command line counts.

use std::path::PathBuf;

use clap::{ArgMatches, Command, FromArgMatches};

use crate::image::Later;

use super::params::ImagePath;

/// Later images, in the order in which they were given.
#[derive(Debug)]
pub(super) struct LaterArgs(pub(super) Vec<Later>);

#[derive(Debug, clap::Args)]
struct Options {
    /// The same guest's RAM at a later time: adds a delta round for what changed. Needs
    /// IMAGE (repeatable)
    #[arg(long, value_name = "IMAGE", requires = "image", value_parser = ImagePath)]
    then: Vec<PathBuf>,
    /// As --then, with a sparse diff against the image before, such as Firecracker's: its holes are
    /// unchanged pages, so copy it with them (repeatable)
    #[arg(long, value_name = "FILE", requires = "image", value_parser = ImagePath)]
    then_diff: Vec<PathBuf>,
}

impl clap::Args for LaterArgs {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for LaterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<LaterArgs, clap::Error> {
        let Options { then, then_diff } = Options::from_arg_matches(matches)?;
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let images = places("then").zip(then.into_iter().map(Later::image));
        let diffs = places("then_diff").zip(then_diff.into_iter().map(Later::diff));
        let mut all: Vec<(usize, Later)> = images.chain(diffs).collect();
        all.sort_by_key(|(place, _)| *place);
        Ok(LaterArgs(all.into_iter().map(|(_, later)| later).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = LaterArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
