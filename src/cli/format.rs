//! `--format`: how to interpret an image file.

use crate::image::ImageFormat;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct FormatArg {
    /// raw: treat the file as raw RAM even if it begins like another format, such as qcow2
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
