//! `ramferry bench`.

#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {}

pub(super) fn run(_args: BenchArgs) -> crate::error::Result<()> {
    Ok(())
}
