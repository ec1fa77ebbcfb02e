//! Text on stdout as it is written.

use std::io::Write;

use plmconv_formats::TextTokenizer;
use plmconv_formats::tokenizer::StreamDecoder;

/// Prints tokens as soon as their characters are whole.
pub struct Stream<'t> {
    decoder: StreamDecoder<'t>,
}

impl<'t> Stream<'t> {
    pub fn new(tokenizer: &'t TextTokenizer) -> Stream<'t> {
        Stream { decoder: tokenizer.stream() }
    }

    /// # Errors
    /// Stdout is closed.
    pub fn push(&mut self, token: u32) -> std::io::Result<()> {
        let text = self.decoder.push(token);
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Prints what is left, and a line end.
    pub fn finish(self) {
        let rest = self.decoder.finish();
        // Nobody is left to be told of a closed stdout.
        let _ = writeln!(std::io::stdout(), "{rest}");
    }
}
