//! `ramferry digest`: the RAM digest of an image or a guest folder.

use std::path::PathBuf;

use crate::error::Result;
use crate::image::Guest;
use crate::writer;

use super::format::{FormatArg, PausedArg};
use super::output::{self, print, print_json};
use super::params::ImagePath;

#[derive(Debug, clap::Args)]
pub(super) struct DigestArgs {
    /// A raw RAM image or a guest folder
    #[arg(value_parser = ImagePath)]
    image: PathBuf,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    at_rest: PausedArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DigestArgs) -> Result<()> {
    let guest = Guest::open_as(&args.image, args.format.into())?;
    let paused = args.at_rest.paused;
    let digest = writer::digest(&guest, paused, |note| {
        output::report(&format!("note: {note}"));
    })?;
    if args.json {
        let image = args.image.display().to_string();
        return print_json(&serde_json::json!({ "image": image, "digest": digest }));
    }
    print(&format!("{digest}  {}\n", args.image.display()))
}
