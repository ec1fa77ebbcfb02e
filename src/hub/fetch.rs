//! Fetching a model into the cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use plmconv_formats::sha256;

use super::cache::Cache;
use super::client::{Client, FileInfo};
use super::settings::Settings;
use super::{HubError, HubName, Wanted};
use crate::interrupt;
use crate::progress::{Console, Unit};
use crate::report::human_bytes;

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;
/// Digits of a SHA-256, which the etag of a large file is.
const DIGEST: usize = 64;

/// Fetches what is wanted and not there yet; returns its snapshot. The revision's ref is written last, so that a snapshot
/// which was interrupted is not taken for a whole one.
///
/// # Errors
/// A hub that cannot be reached, has no such model or does not show it; a download that ends early.
pub fn fetch(
    name: &HubName,
    wanted: Wanted,
    cache: &Cache,
    settings: &Settings,
    console: Console,
) -> Result<PathBuf, HubError> {
    let client = Client::new(settings, name)?;
    let repository = client.repository()?;
    let commit = &repository.commit;
    let all: Vec<&str> = repository.files.iter().map(String::as_str).collect();
    let files = wanted.of(&all);
    if let Some(missing) = wanted.missing(&files) {
        return Err(HubError::Incomplete { name: name.to_string(), missing });
    }
    let infos = files.iter().map(|file| client.info(commit, file)).collect::<Result<Vec<_>, _>>()?;
    let absent = |info: &&FileInfo| !is_there(cache, info);
    let bytes: u64 = infos.iter().filter(absent).map(|info| info.size).sum();
    let snapshot = cache.snapshot_of(commit);
    console.note(&format!("{name}: fetching {} to {}", human_bytes(bytes), snapshot.display()));
    let bar = console.bar(bytes, Unit::Bytes, "fetching");
    let fetching = Fetching { name, client: &client, cache, commit, bar: &bar };
    for (file, info) in files.iter().zip(&infos) {
        fetching.file(file, info)?;
        cache.link(commit, file, &info.etag)?;
    }
    bar.finish_and_clear();
    cache.set_ref(&name.revision, commit)?;
    Ok(snapshot)
}

fn is_there(cache: &Cache, info: &FileInfo) -> bool {
    std::fs::metadata(cache.blob(&info.etag)).is_ok_and(|found| found.len() == info.size)
}

/// A download that runs.
struct Fetching<'a> {
    name: &'a HubName,
    client: &'a Client<'a>,
    cache: &'a Cache,
    commit: &'a str,
    bar: &'a ProgressBar,
}

impl Fetching<'_> {
    /// Gets a file's data, from where an earlier run stopped.
    fn file(&self, file: &str, info: &FileInfo) -> Result<(), HubError> {
        let _lock = self.cache.lock(&info.etag)?;
        if is_there(self.cache, info) {
            return Ok(());
        }
        let path = self.cache.incomplete(&info.etag);
        let opened = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path);
        let mut output = opened.map_err(HubError::io(&path))?;
        let mut done = output.seek(SeekFrom::End(0)).map_err(HubError::io(&path))?;
        self.bar.inc(done.min(info.size));
        // Connections break; as long as each brings something, another one is made.
        loop {
            let before = done;
            match self.some(file, info, &path, &mut output, &mut done) {
                Ok(()) => break,
                Err(HubError::Interrupted { .. }) if done > before => {}
                Err(error) => return Err(error),
            }
        }
        output.sync_all().map_err(HubError::io(&path))?;
        self.check(file, info, &path)?;
        std::fs::rename(&path, self.cache.blob(&info.etag)).map_err(HubError::io(&path))
    }

    /// Gets what one connection brings.
    fn some(
        &self,
        file: &str,
        info: &FileInfo,
        path: &Path,
        output: &mut File,
        done: &mut u64,
    ) -> Result<(), HubError> {
        if *done > info.size {
            self.restart(path, output, done)?;
        }
        if *done == info.size {
            return Ok(());
        }
        let interrupted = |done: u64, detail: String| HubError::Interrupted {
            name: self.name.to_string(),
            file: file.into(),
            done,
            size: info.size,
            detail,
        };
        let (mut data, from) = self.client.data(self.commit, file, *done).map_err(|error| match error {
            HubError::Unreachable { detail, .. } => interrupted(*done, detail),
            error => error,
        })?;
        if from != *done {
            self.restart(path, output, done)?;
        }
        let mut chunk = vec![0; CHUNK];
        while *done < info.size {
            if interrupt::is_pending() {
                return Err(HubError::Stopped);
            }
            let count = match data.read(&mut chunk) {
                Ok(0) => return Err(interrupted(*done, "the connection was closed".into())),
                Ok(count) => count,
                Err(error) => return Err(interrupted(*done, error.to_string())),
            };
            // Bytes past the end would not belong to it.
            let count = count.min((info.size - *done) as usize);
            output.write_all(&chunk[..count]).map_err(HubError::io(path))?;
            *done += count as u64;
            self.bar.inc(count as u64);
        }
        Ok(())
    }

    fn restart(&self, path: &Path, output: &mut File, done: &mut u64) -> Result<(), HubError> {
        output.set_len(0).and_then(|()| output.rewind()).map_err(HubError::io(path))?;
        self.bar.set_position(self.bar.position().saturating_sub(*done));
        *done = 0;
        Ok(())
    }

    /// Compares a file with its digest, where the hub tells one. What is damaged is not gone on with.
    fn check(&self, file: &str, info: &FileInfo, path: &Path) -> Result<(), HubError> {
        let is_digest = info.etag.len() == DIGEST && info.etag.chars().all(|c| c.is_ascii_hexdigit());
        if !is_digest {
            return Ok(());
        }
        let found = sha256::of_file(path).map_err(|error| HubError::Io {
            path: path.into(),
            source: std::io::Error::other(error.to_string()),
        })?;
        if found.eq_ignore_ascii_case(&info.etag) {
            return Ok(());
        }
        std::fs::remove_file(path).map_err(HubError::io(path))?;
        let detail = format!("SHA-256 {found}, not {}", info.etag);
        Err(HubError::Damaged { name: self.name.to_string(), file: file.into(), detail })
    }
}
