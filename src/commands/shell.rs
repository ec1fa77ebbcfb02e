//! `types`, `completions` and `man`: pages about plmconv itself.

use anyhow::Result;

use crate::args::completions;
use crate::report::{print_page, types};
use crate::resolve::ShellRequest;

pub fn run(request: &ShellRequest) -> Result<()> {
    match request {
        ShellRequest::Types { json } => types::print(*json)?,
        ShellRequest::Completions(shell) => print_page(&completions(*shell)),
        ShellRequest::Manual(page) => print_page(page),
    }
    Ok(())
}
