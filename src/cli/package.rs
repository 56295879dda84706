//! `ramferry completions` and `ramferry man`: what a package installs besides the program.

use std::path::PathBuf;
use std::{fs, io};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::error::{Error, Kind, Result};

use super::Cli;
use super::output::print;

const NAME: &str = "ramferry";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(ramferry completions bash)
  ramferry completions zsh > ~/.zfunc/_ramferry
  ramferry completions fish > ~/.config/fish/completions/ramferry.fish")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry man | man -l -
  ramferry man /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write the pages of the program and of all its commands into this directory
    dir: Option<PathBuf>,
}

/// Prints the completion script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the program's man page, or writes those of its commands too.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let failed = |error: io::Error| Error::new(Kind::Failed, error).in_stage("man");
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(failed)?;
        return print(&String::from_utf8_lossy(&page));
    };
    fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command with all its options, and the names of the commands above it.
    fn walk(command: &clap::Command, name: &str, check: &mut dyn FnMut(&str, &clap::Command)) {
        check(name, command);
        for subcommand in command.get_subcommands() {
            if !subcommand.is_hide_set() && subcommand.get_name() != "help" {
                walk(
                    subcommand,
                    &format!("{name}-{}", subcommand.get_name()),
                    check,
                );
            }
        }
    }

    fn built() -> clap::Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    #[test]
    fn every_command_and_option_has_a_man_page() {
        let folder = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
        let mut pages = 0;
        walk(&built(), NAME, &mut |name, command| {
            let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let Some(long) = arg.get_long() else { continue };
                let escaped = format!("\\-\\-{}", long.replace('-', "\\-"));
                assert!(page.contains(&escaped), "{name}: --{long}");
            }
            pages += 1;
        });
        assert!(pages > 20, "{pages}");
    }

    #[test]
    fn every_command_and_option_is_completed_in_every_shell() {
        for shell in [
            Shell::Bash,
            Shell::Zsh,
            Shell::Fish,
            Shell::Elvish,
            Shell::PowerShell,
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            walk(&built(), NAME, &mut |name, command| {
                assert!(script.contains(command.get_name()), "{shell}: {name}");
                let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
                for long in shown.filter_map(clap::Arg::get_long) {
                    assert!(script.contains(long), "{shell}: {name} --{long}");
                }
            });
        }
    }
}
