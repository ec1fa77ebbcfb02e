//! Where something failed, in the user's terms.

use std::fmt;

use anyhow::Result;

/// What the user had named, or what was being done, when something failed. The same error (no such file, no leave to
/// write) needs another hint at another place; a place also implies which flags the user can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A model that is read.
    Model,
    /// A LoRA adapter that is read.
    Adapter,
    /// A model whose GGUF metadata is made.
    GgufMetadata,
    /// A converted or quantized model.
    Output,
    /// A text to measure on or to calibrate with.
    Text,
    /// Windows of a text that a model runs on.
    Windows,
    /// The same for the check after quantizing.
    CheckWindows,
    /// A chat template in a file.
    Template,
    /// A prompt that is continued.
    Prompt,
    /// Statistics that are read.
    Statistics,
    /// Statistics that are written.
    StatisticsOutput,
    /// An importance matrix.
    Imatrix,
    /// Stored outputs that are read.
    Reference,
    /// Stored outputs that are written.
    ReferenceOutput,
    /// A file of tensor types.
    TensorTypes,
    /// A model whose types are taken over.
    Like,
    /// A report beside the one on stdout.
    Report,
}

/// Says nothing itself: the sentence is the error's, the place only chooses the hint.
impl fmt::Display for Place {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Tells where a result comes from.
pub trait At<T> {
    /// With the place of its error, unless what failed inside knew a nearer one.
    fn at(self, place: Place) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> At<T> for Result<T, E> {
    fn at(self, place: Place) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            if error.is::<Place>() { error } else { error.context(place) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::UsageError;

    #[test]
    fn the_nearest_place_counts_and_nothing_is_hidden() {
        let failed = || -> Result<()> { Err(UsageError::new("no").into()) };
        let error = failed().at(Place::Text).at(Place::Model).expect_err("failed");
        assert_eq!(error.downcast_ref(), Some(&Place::Text));
        assert!(error.is::<UsageError>());
        assert_eq!(crate::error::sentence(&error), "no");
    }
}
