//! x
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}
pub(crate) fn run(_: Args) -> std::io::Result<()> {
    Ok(())
}
