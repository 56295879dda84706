//! `--format` and `--paused`: how to read an image file.

use crate::image::ImageFormat;

use super::params::Checked;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct FormatArg {
    /// How to read a file: detect refuses known formats that are not raw RAM, such as qcow2; raw reads
    /// any file as raw RAM
    #[arg(long, value_name = "FORMAT", default_value = "detect", value_parser = Checked(str::parse::<ImageFormat>))]
    format: ImageFormat,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct PausedArg {
    /// The guest is paused: read IMAGE though a running process can write it, such as a QEMU that its
    /// monitor has stopped. It is an error if it changes meanwhile
    #[arg(long)]
    pub(super) paused: bool,
}

impl From<FormatArg> for ImageFormat {
    fn from(arg: FormatArg) -> ImageFormat {
        arg.format
    }
}
