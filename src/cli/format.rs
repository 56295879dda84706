//! `--format`: what a file is taken for.

use crate::image::ImageFormat;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct FormatArg {
    /// Take IMAGE for raw RAM whatever it begins with [default: refuse files of a known other format]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Raw,
}

impl From<FormatArg> for ImageFormat {
    fn from(arg: FormatArg) -> ImageFormat {
        match arg.format {
            Some(Format::Raw) => ImageFormat::Raw,
            None => ImageFormat::Detect,
        }
    }
}
