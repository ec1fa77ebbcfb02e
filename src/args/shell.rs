//! What plmconv says of itself: its types, completions and manual pages.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// List the types that a model can be quantized to
#[derive(Debug, Args)]
pub struct TypesArgs {
    /// Write the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// Print a script that completes plmconv's arguments in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples: plmconv completions bash > ~/.local/share/bash-completion/completions/plmconv
          plmconv completions zsh > ~/.zfunc/_plmconv
          plmconv completions fish > ~/.config/fish/completions/plmconv.fish")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Print a manual page
#[derive(Debug, Args)]
#[command(after_help = "\
Example: plmconv man quantize | man -l -")]
pub struct ManArgs {
    /// The command that the page is about [default: plmconv itself]
    pub command: Option<String>,
}

/// The script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "plmconv", &mut out);
    out
}

/// The page of a command, or of the program, in roff. None if there is no such command.
///
/// # Errors
/// None that writing into memory can have.
pub fn manual(command: Option<&str>) -> std::io::Result<Option<Vec<u8>>> {
    let mut program = Cli::command();
    program.build();
    let page = match command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(found) => found.clone().version(super::VERSION),
            None => return Ok(None),
        },
    };
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out)?;
    Ok(Some(out))
}
