//! Text on stdout as it is written.

use std::io::Write;

use plmconv_formats::TextTokenizer;
use plmconv_formats::tokenizer::StreamDecoder;

use crate::terminal::{stdout_is_terminal, visible};

/// Prints tokens as soon as their characters are whole.
pub struct Stream<'t> {
    decoder: StreamDecoder<'t>,
    /// Control characters are made visible: a terminal would obey them.
    shown: bool,
}

impl<'t> Stream<'t> {
    pub fn new(tokenizer: &'t TextTokenizer) -> Stream<'t> {
        Stream { decoder: tokenizer.stream(), shown: stdout_is_terminal() }
    }

    /// # Errors
    /// Stdout is closed.
    pub fn push(&mut self, token: u32) -> std::io::Result<()> {
        let text = self.decoder.push(token);
        write(&text, self.shown)
    }

    /// Prints what is left, and a line end.
    pub fn finish(self) {
        let rest = self.decoder.finish();
        // Nobody is left to be told of a closed stdout.
        let _ = write(&format!("{rest}\n"), self.shown);
    }
}

fn write(text: &str, shown: bool) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(if shown { visible(text) } else { text.into() }.as_bytes())?;
    stdout.flush()
}
