//! The `lbd` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lbd::cli::main(std::env::args_os())
}
