//! `edit`

use std::path::PathBuf;

use clap::Args;

/// Change a GGUF's metadata; its tensors stay as they are
#[derive(Debug, Args)]
#[command(after_help = "\
VALUE has the type of the value that is there; TYPE:VALUE gives it another one (u8 to i64, f32, f64, bool, str). What is
new and has no type is a string. Of a set of shards name the first: all are written again.

Examples: plmconv edit model.gguf --set general.name='My model' --remove general.url
          plmconv edit model.gguf --chat-template template.jinja -o fixed.gguf
          plmconv inspect model.gguf --key tokenizer.chat_template")]
pub struct EditArgs {
    /// A GGUF file of any architecture
    pub file: PathBuf,
    /// Set a value; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Take a value out; repeatable
    #[arg(long, value_name = "KEY")]
    pub remove: Vec<String>,
    /// Take the chat template from this file
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// File to write [default: FILE itself, which is replaced when the new one is complete]
    #[arg(short, long, value_name = "OUT", alias = "outfile")]
    pub output: Option<PathBuf>,
    /// Replace OUT if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Say what would change and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print neither progress nor warnings, only errors
    #[arg(short, long)]
    pub quiet: bool,
}
