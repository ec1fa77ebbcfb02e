//! The few command line options of the programs here.

use std::num::NonZeroUsize;
use std::str::FromStr;

/// The arguments not yet taken.
#[derive(Debug)]
pub struct Options {
    arguments: Vec<String>,
    usage: &'static str,
}

impl Options {
    pub fn from_env(usage: &'static str) -> Self {
        Self::new(std::env::args().skip(1).collect(), usage)
    }

    pub fn new(arguments: Vec<String>, usage: &'static str) -> Self {
        Self { arguments, usage }
    }

    /// Takes `name VALUE`, where given.
    ///
    /// # Errors
    /// A sentence, if the value is missing or does not parse.
    pub fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(index) = self.arguments.iter().position(|argument| argument == name) else {
            return Ok(None);
        };
        if index + 1 >= self.arguments.len() {
            return Err(format!("{name} needs a value\n{}", self.usage));
        }
        let value = self.arguments.remove(index + 1);
        self.arguments.remove(index);
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("{name} cannot be `{value}`\n{}", self.usage)),
        }
    }

    /// Takes `name`; whether it was given.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.arguments.len();
        self.arguments.retain(|argument| argument != name);
        self.arguments.len() < before
    }

    /// Takes `--threads N`; the number of cores by default.
    ///
    /// # Errors
    /// Those of [`Options::value`].
    pub fn threads(&mut self) -> Result<usize, String> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(self.value("--threads")?.unwrap_or_else(cores))
    }

    /// What is left: exactly `N` arguments that are no options.
    ///
    /// # Errors
    /// The usage, if there are others.
    pub fn positional<const N: usize>(self) -> Result<[String; N], String> {
        if let Some(unknown) = self.arguments.iter().find(|argument| argument.starts_with("--")) {
            return Err(format!("unknown option {unknown}\n{}", self.usage));
        }
        self.arguments.try_into().map_err(|_| self.usage.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        Options::new(line.split_whitespace().map(str::to_owned).collect(), "usage")
    }

    #[test]
    fn options_may_stand_anywhere() {
        let mut given = options("in --threads 3 out --pure q8_0");
        assert_eq!(given.threads(), Ok(3));
        assert!(given.flag("--pure"));
        assert!(!given.flag("--other"));
        assert_eq!(given.positional(), Ok(["in", "out", "q8_0"].map(str::to_owned)));
    }

    #[test]
    fn defects_are_named() {
        assert!(options("in --ctx").value::<usize>("--ctx").is_err());
        assert!(options("in --ctx many").value::<usize>("--ctx").is_err());
        assert!(options("in --ctxx 3").positional::<1>().is_err());
        assert!(options("in").positional::<2>().is_err());
    }
}
