//! `load`: a load generator and test server that is itself as cheap as the kernel allows, so that
//! what is measured is the proxy between the two: plain threads, raw epoll, no runtime.

#![forbid(unsafe_code)]

mod bulk;
mod call;
mod channel;
mod churn;
mod crowd;
mod cycle;
mod events;
mod exchange;
mod idle;
mod line;
mod machine;
mod measure;
mod net;
mod open;
mod quiet;
mod report;
mod results;
mod rr;
mod server;
mod service;
mod session;
mod tls;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Loads a TCP proxy and measures what a unit of work costs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server behind the proxy; prints `listening ADDR` first, then runs until ended.
    Server(server::Args),
    /// Closed loop: each connection sends its next request when the response is complete.
    Rr(rr::Args),
    /// Open loop: requests start on a fixed schedule, however slow the responses are.
    Open(open::Args),
    /// Closed loop of connect, one request, response, close.
    Cycle(cycle::Args),
    /// Open loop of connect, one request, response, close; says how each failure failed.
    Churn(churn::Args),
    /// Many clients at the same moment, each with one request; in which order they are served.
    Crowd(crowd::Args),
    /// As many bytes as possible in one direction.
    Bulk(bulk::Args),
    /// Opens connections, uses each once, and holds them.
    Idle(idle::Args),
    /// Waits until the machine has little else to do.
    Quiet(quiet::Args),
    /// Turns the results of `scripts/bench.sh` into tables.
    Report(report::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Server(args) => server::run(args),
        Command::Rr(args) => rr::run(args),
        Command::Open(args) => open::run(args),
        Command::Cycle(args) => cycle::run(args),
        Command::Churn(args) => churn::run(args),
        Command::Crowd(args) => crowd::run(args),
        Command::Bulk(args) => bulk::run(args),
        Command::Idle(args) => idle::run(args),
        Command::Quiet(args) => quiet::run(args),
        Command::Report(args) => report::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
