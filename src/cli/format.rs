//! `--format`: how to interpret an image file.

use crate::image::ImageFormat;

use super::params::Checked;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct FormatArg {
    /// How to read a file: detect refuses known formats that are not raw RAM, such as qcow2; raw reads
    /// any file as raw RAM
    #[arg(long, value_name = "FORMAT", default_value = "detect", value_parser = Checked(str::parse::<ImageFormat>))]
    format: ImageFormat,
}

impl From<FormatArg> for ImageFormat {
    fn from(arg: FormatArg) -> ImageFormat {
        arg.format
    }
}
