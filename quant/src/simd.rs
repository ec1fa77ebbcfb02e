//! Which vector instructions this process uses: chosen once at run time, never at compile time.
//!
//! A [`Level`] other than `Generic` carries a token that only this module can make, and makes only after the
//! CPU was asked. Holding the level is therefore the proof that kernels for it may run, and safe code cannot
//! reach an instruction the CPU lacks.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI. F includes what [`Avx2`] proves. CPUs of 2017 that lack VNNI
/// run the AVX2 kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(());

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neon(());

impl Avx2 {
    /// The token, if this CPU has the instructions.
    pub fn detect() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(Avx2(()));
        }
        None
    }
}

impl Avx512 {
    /// The token, if this CPU has the instructions.
    pub fn detect() -> Option<Avx512> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Some(Avx512(()));
        }
        None
    }
}

impl Neon {
    /// The token, if this CPU has the instructions.
    pub fn detect() -> Option<Neon> {
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Some(Neon(()));
        }
        None
    }
}

/// The instructions a kernel may use. Every level gives the same bytes; they differ in speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust for the target's baseline: the reference every other level is compared with.
    Generic,
    /// 8 lanes of f32.
    Avx2(Avx2),
    /// 16 lanes of f32.
    Avx512(Avx512),
    /// 4 lanes of f32.
    Neon(Neon),
}

/// A loop written once in plain Rust, which [`Level::run`] has compiled for every instruction set. Lanes must not share
/// a sum, and nothing is fused unless it says so, so every level gives the same bits.
pub trait Loop {
    /// What it computes.
    type Output;

    /// To be marked `#[inline(always)]`: the compiler uses an instruction set only inside of the function that allows
    /// it.
    fn run(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512<L: Loop>(work: L) -> L::Output {
    work.run()
}

static CHOSEN: OnceLock<Level> = OnceLock::new();

impl Level {
    /// All names, on whatever CPU.
    pub const NAMES: [&str; 4] = ["generic", "neon", "avx2", "avx512"];

    /// The level of this process: the fastest of this CPU, unless another was [chosen](Level::choose) before.
    pub fn detect() -> Level {
        *CHOSEN.get_or_init(|| Level::available().last().unwrap_or(Level::Generic))
    }

    /// Makes this the level of the process. False if that was settled before.
    pub fn choose(self) -> bool {
        CHOSEN.set(self).is_ok()
    }

    /// Every level this CPU can run, slowest first; `Generic` is always among them.
    pub fn available() -> impl Iterator<Item = Level> {
        let levels = [
            Some(Level::Generic),
            Neon::detect().map(Level::Neon),
            Avx2::detect().map(Level::Avx2),
            Avx512::detect().map(Level::Avx512),
        ];
        levels.into_iter().flatten()
    }

    /// Runs a loop, compiled for this level's instructions.
    #[inline]
    pub fn run<L: Loop>(self, work: L) -> L::Output {
        match self {
            // SAFETY: the token is the proof that the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => unsafe { run_avx512(work) },
            // NEON is in aarch64's baseline, so the compiler uses it without being asked.
            _ => work.run(),
        }
    }

    /// `generic`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Generic => "generic",
            Level::Avx2(_) => "avx2",
            Level::Avx512(_) => "avx512",
            Level::Neon(_) => "neon",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a name is not a level of this CPU.
#[allow(missing_docs, reason = "each variant has its message")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("unknown instruction set `{0}`; there are generic, neon, avx2 and avx512")]
    Unknown(String),
    #[error("this CPU does not have `{0}`")]
    Unsupported(String),
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Level, LevelError> {
        if let Some(level) = Level::available().find(|level| level.name().eq_ignore_ascii_case(name)) {
            return Ok(level);
        }
        let known = Level::NAMES.into_iter().any(|known| known.eq_ignore_ascii_case(name));
        let name = name.to_owned();
        Err(if known { LevelError::Unsupported(name) } else { LevelError::Unknown(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_level_round_trips_through_its_name() {
        for level in Level::available() {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
    }

    #[test]
    fn generic_is_always_available_and_detection_picks_an_available_level() {
        assert_eq!(Level::available().next(), Some(Level::Generic));
        assert!(Level::available().any(|level| level == Level::detect()));
    }

    #[test]
    fn a_foreign_or_unknown_name_is_refused() {
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        assert_eq!(foreign.parse::<Level>(), Err(LevelError::Unsupported(foreign.to_owned())));
        assert_eq!("sse9".parse::<Level>(), Err(LevelError::Unknown("sse9".to_owned())));
    }
}
