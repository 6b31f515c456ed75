//! The command line: what was asked for, and the exit code that answers.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use papers::CompletionsArgs;
use remote::{BackendArgs, BackendCommand, ReloadArgs, SessionsArgs, StatusArgs, WeightArgs};
use top::TopArgs;
use why::WhyArgs;

use crate::admin::ask::WantedState;
use crate::config::load::load;
use crate::config::print::print_effective;
use crate::config::settings::Settings;
use crate::config::warnings::warnings;
use crate::demo::{self, DemoOptions};
use crate::runtime::life;

mod papers;
mod remote;
mod status;
mod table;
mod top;
mod why;

/// Exit code for a configuration with mistakes (EX_CONFIG of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// A layer-4 load balancer: accepts TCP connections and splices each to a backend of a pool.
#[derive(Debug, Parser)]
#[command(name = "lbd", version, args_conflicts_with_subcommands = true)]
#[command(arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and end: exit code 0, or 78 with every mistake.
    #[arg(long, requires = "config")]
    check: bool,
    /// Print the configuration with every default filled in, and end.
    #[arg(long, requires = "config", conflicts_with = "check")]
    print_effective: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three embedded HTTP backends behind a listener, with a live view: needs no file.
    Demo(DemoArgs),
    /// Listeners, pools and backends of a running lbd; what is wrong first.
    Status(StatusArgs),
    /// The same, live, with rates and latencies, and keys to drain a backend.
    Top(TopArgs),
    /// Live connections, the oldest first; or end some of them.
    Sessions(SessionsArgs),
    /// Give a backend no new connections; those it has end by the pool's `drain`.
    Drain(BackendArgs),
    /// Take a backend into service again.
    Ready(BackendArgs),
    /// As drain, in another word: somebody works on it.
    Maintenance(BackendArgs),
    /// Give a backend another weight, until it is given one again.
    Weight(WeightArgs),
    /// Add or remove a backend.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Completions of a shell, to be sourced or installed.
    Completions(CompletionsArgs),
    /// The man page: lbd man | man -l -
    Man,
    /// Read the configuration again and apply it, or say what that would change.
    Reload(ReloadArgs),
    /// Say where a client would go now, and why not elsewhere.
    Why(WhyArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Address to listen on; the default is 127.0.0.1:8080, or any port when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<std::net::SocketAddr>,
    /// The policy to begin with.
    #[arg(long, value_name = "POLICY", default_value = "round_robin")]
    policy: String,
    /// End by itself after this time.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

/// Does what the arguments ask for. Exit codes: 0 done, 1 failed while running, 2 wrong usage,
/// 78 bad configuration.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe behind `lbd --help` is no failure of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.command {
        Some(Command::Demo(args)) => {
            let DemoArgs {
                bind,
                policy,
                seconds,
            } = args;
            finish(demo::run(DemoOptions {
                bind,
                policy,
                seconds,
            }))
        }
        Some(Command::Completions(args)) => papers::completions(&args, Cli::command()),
        Some(Command::Man) => papers::man(Cli::command()),
        Some(Command::Status(args)) => remote::status(&args),
        Some(Command::Top(args)) => top::run(&args),
        Some(Command::Sessions(args)) => remote::sessions(&args),
        Some(Command::Drain(args)) => remote::set_state(&args, WantedState::Drain),
        Some(Command::Ready(args)) => remote::set_state(&args, WantedState::Ready),
        Some(Command::Maintenance(args)) => remote::set_state(&args, WantedState::Maintenance),
        Some(Command::Weight(args)) => remote::set_weight(&args),
        Some(Command::Backend(command)) => remote::backend(&command),
        Some(Command::Reload(args)) => remote::reload(&args),
        Some(Command::Why(args)) => why::why(&args),
        None => match cli.run.config.clone() {
            Some(config) => with_config(config, &cli.run),
            None => ExitCode::from(2),
        },
    }
}

fn with_config(config: PathBuf, args: &RunArgs) -> ExitCode {
    let read = {
        let config = config.clone();
        move || load(&config, &|name| std::env::var(name).ok())
    };
    let settings: Settings = match read() {
        Ok(settings) => settings,
        Err(mistakes) => {
            // Nobody left to tell when stderr is closed; the exit code still does.
            let _ = writeln!(io::stderr(), "{mistakes}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check {
        for warning in warnings(&settings) {
            let _ = writeln!(io::stderr(), "{}: warning: {warning}", config.display());
        }
        let (listeners, pools) = (settings.listeners.len(), settings.pools.len());
        return say(&format!(
            "{}: ok ({listeners} {}, {pools} {})\n",
            config.display(),
            plural(listeners, "listener"),
            plural(pools, "pool"),
        ));
    }
    if args.print_effective {
        let changes = remote::changes_of_running(&settings);
        return say(&(print_effective(&settings) + &changes));
    }
    finish(life::run(settings, read))
}

/// Whether whoever reads our output sees colours (<https://no-color.org>).
fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}

fn wrong_usage(what: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "lbd: {what}");
    ExitCode::from(2)
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

fn say(text: &str) -> ExitCode {
    finish(io::stdout().write_all(text.as_bytes()))
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lbd: {error}");
            ExitCode::FAILURE
        }
    }
}
