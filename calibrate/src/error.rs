//! One variant per defect; each names the file or the matrix.

use std::fmt;
use std::path::PathBuf;

use crate::statistics::VERSION;

/// What can go wrong between a text and the types and roundings that follow from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error(transparent)]
    Format(#[from] plmconv_formats::Error),
    /// Values that cannot be encoded or decoded, or a factor that does not exist.
    #[error(transparent)]
    Quant(#[from] plmconv_quant::Error),
    /// A model that cannot be run.
    #[error(transparent)]
    Validate(#[from] plmconv_validate::Error),

    /// The run was told to stop.
    #[error("interrupted; {0}")]
    Interrupted(Leftover),
    /// Kept work that cannot be trusted.
    #[error("{}: damaged, or not kept by an interrupted run: {detail}", path.display())]
    DamagedWork {
        /// The kept file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Kept work of another run.
    #[error("{}: kept by a run on another model, or with other arguments or statistics", path.display())]
    ForeignWork {
        /// The kept file.
        path: PathBuf,
    },

    /// The model cannot be calibrated.
    #[error("the statistics for calibration cannot be taken from a model with {what}")]
    NotMeasurable {
        /// The part that is not supported.
        what: &'static str,
    },
    /// There is no window, or windows differ in length.
    #[error("calibration needs windows of one length, and at least one")]
    Windows,
    /// The text is shorter than one window.
    #[error("the calibration text has less than one window of {window} tokens")]
    TextTooShort {
        /// Tokens of a window.
        window: usize,
    },
    /// The model is to write less than one window.
    #[error("a text of {tokens} tokens that the model writes is less than one window of {window}")]
    OwnTextTooShort {
        /// Tokens the model is to write.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// The position to go on from has another number of layers or tokens.
    #[error("calibration cannot go on from there: that position is of another model or text")]
    ForeignPosition,
    /// NaN or infinity.
    #[error("calibration: {what} of layer {layer} are not finite")]
    NotFinite {
        /// Where it was seen; the number of layers stands for the output head.
        layer: usize,
        /// Activations, gradients or logits.
        what: &'static str,
    },
    /// The temporary file that holds the layers' inputs.
    #[error("calibration: the temporary file for activations: {0}")]
    Spill(#[source] std::io::Error),
    /// A written file that does not read back; it does not get its name.
    #[error("what was written does not read back: {0}")]
    ReadBack(Box<Error>),

    /// A GGUF without the keys of statistics.
    #[error("{}: not written by plmconv calibrate", path.display())]
    NotStatistics {
        /// The file.
        path: PathBuf,
    },
    /// Statistics whose meaning has changed since.
    #[error("{}: statistics of version {version}, not {VERSION}", path.display())]
    StatisticsVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: usize,
    },
    /// Statistics of matrices that other layouts have.
    #[error("{}: statistics of the layout {layout}, not plm", path.display())]
    StatisticsLayout {
        /// The file.
        path: PathBuf,
        /// Its layout.
        layout: String,
    },
    /// Statistics of another model.
    #[error("{}: statistics of another model", path.display())]
    ForeignStatistics {
        /// The file.
        path: PathBuf,
    },
    /// A matrix whose statistics have another size than it.
    #[error("{}: `{matrix}` has another shape", path.display())]
    StatisticsShape {
        /// The file.
        path: PathBuf,
        /// GGUF name of the matrix.
        matrix: String,
    },
    /// A matrix without statistics.
    #[error("the statistics have nothing for `{matrix}`")]
    NoStatistics {
        /// GGUF name of the matrix.
        matrix: String,
    },
    /// Types are to be measured where nothing is known of the matrices.
    #[error("types are chosen by statistics, and there are none")]
    NothingToMeasureBy,
    /// No files to add up.
    #[error("nothing to merge")]
    NothingToMerge,
    /// Statistics that cannot be added up.
    #[error("{}: `{key}` differs from that of the first", path.display())]
    MergedKey {
        /// The file that differs.
        path: PathBuf,
        /// The metadata's key.
        key: &'static str,
    },
    /// Statistics that cannot be added up.
    #[error("{}: `{tensor}` is missing or of another shape", path.display())]
    MergedTensor {
        /// The file that differs.
        path: PathBuf,
        /// The tensor that the first file has.
        tensor: String,
    },

    /// An importance matrix of another model.
    #[error(
        "{}: none of its {entries} entries is of a matrix of this model (the first is `{first}`)",
        path.display()
    )]
    ForeignImatrix {
        /// The file.
        path: PathBuf,
        /// Its entries.
        entries: usize,
        /// The first one's name.
        first: String,
    },
    /// Importance of a matrix of another size.
    #[error("`{matrix}` has {cols} columns, its importance {found} values")]
    ImportanceLength {
        /// GGUF name of the matrix.
        matrix: String,
        /// Its columns.
        cols: usize,
        /// Values of its importance.
        found: usize,
    },
    /// No choice of types is small enough.
    #[error("{limit} is too small: this model takes at least {smallest}")]
    BudgetTooSmall {
        /// The limit as the user may have written it.
        limit: String,
        /// The smallest one that fits, in the limit's own terms.
        smallest: String,
    },
    /// An error while one matrix was worked on.
    #[error("{doing} `{matrix}`")]
    Matrix {
        /// What was being done.
        doing: &'static str,
        /// GGUF name of the matrix.
        matrix: String,
        /// What went wrong.
        source: Box<Error>,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Says which matrix an error is of.
    pub(crate) fn with_matrix(doing: &'static str, matrix: &str) -> impl FnOnce(Error) -> Error {
        move |source| Error::Matrix { doing, matrix: matrix.into(), source: Box::new(source) }
    }
}

/// What an interrupted run leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing.
    #[default]
    Nothing,
    /// What was finished, for a run that goes on.
    Kept(PathBuf),
    /// Nothing, since other work has the place where it would be kept.
    InTheWay(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Nothing => f.write_str("nothing was written"),
            Leftover::Kept(path) => write!(f, "what was finished is kept in {}", path.display()),
            Leftover::InTheWay(path) => {
                write!(f, "nothing was written: {} is there already and not of this run", path.display())
            }
        }
    }
}
