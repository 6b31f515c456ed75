//! What packages bring along: completions for shells, and the man page.

use std::io;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::say;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut command, "lbd", &mut out);
    say(&String::from_utf8_lossy(&out))
}

pub fn man(command: Command) -> ExitCode {
    match page(command) {
        Ok(page) => say(&String::from_utf8_lossy(&page)),
        Err(error) => super::finish(Err(error)),
    }
}

/// What there is to know besides the options.
const SECTIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "EXIT STATUS",
        &[
            ("0", "done"),
            ("1", "failed while running"),
            ("2", "wrong usage"),
            ("78", "bad configuration"),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "TERM, INT",
                "accept nothing more, let sessions end up to drain_timeout, then exit; a second one ends at once",
            ),
            (
                "HUP",
                "read the configuration again and reopen the log files",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/lbd/lb.toml",
                "the configuration that the service reads",
            ),
            (
                "/run/lbd/admin.sock",
                "the admin socket, unless [admin] names another",
            ),
        ],
    ),
];

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    list(&mut commands, &command, "lbd");
    commands.to_writer(&mut out)?;
    for (title, entries) in SECTIONS {
        let mut section = Roff::new();
        section.control("SH", [title]);
        for (what, means) in entries {
            section.control("TP", []);
            section.text([bold(*what)]);
            section.text([roman(*means)]);
        }
        section.to_writer(&mut out)?;
    }
    Ok(out)
}

/// Every command with its usage and options, those of commands among them.
fn list(out: &mut Roff, command: &Command, prefix: &str) {
    for sub in command.get_subcommands() {
        let name = format!("{prefix} {}", sub.get_name());
        let about = sub.get_about().map(ToString::to_string);
        let arguments = sub.get_positionals().map(|one| {
            let names = one.get_value_names().unwrap_or_default();
            names
                .iter()
                .map(|name| format!(" {name}"))
                .collect::<String>()
        });
        out.control("SS", [&*format!("{name}{}", arguments.collect::<String>())]);
        out.text([roman(about.unwrap_or_default())]);
        for option in sub.get_opts() {
            let Some(long) = option.get_long() else {
                continue;
            };
            let value = option.get_value_names().unwrap_or_default();
            let takes = option.get_action().takes_values();
            let value = value
                .iter()
                .filter(|_| takes)
                .map(|name| format!(" {name}"));
            out.control("TP", []);
            out.text([bold(format!("--{long}{}", value.collect::<String>()))]);
            let help = option.get_help().map(ToString::to_string);
            out.text([roman(help.unwrap_or_default())]);
        }
        list(out, sub, &name);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    fn commands() -> Vec<String> {
        let command = Cli::command();
        let names = command
            .get_subcommands()
            .map(|one| one.get_name().to_owned());
        names.collect()
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lbd", &mut out);
            let text = String::from_utf8(out).unwrap();
            for name in commands() {
                assert!(text.contains(&name), "{shell} does not know {name}");
            }
        }
    }

    #[test]
    fn the_man_page_has_every_command_and_what_else_is_to_be_known() {
        let text = String::from_utf8(page(Cli::command()).unwrap()).unwrap();
        for name in commands() {
            let title = format!("lbd {name}").replace('-', "\\-");
            assert!(text.contains(&title), "no {name} in {text}");
        }
        for title in ["EXIT STATUS", "SIGNALS", "FILES", "COMMANDS", "OPTIONS"] {
            assert!(text.contains(title), "no {title}");
        }
        assert!(text.contains("lbd backend add"));
    }
}
