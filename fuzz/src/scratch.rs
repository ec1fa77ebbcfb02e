//! A folder in memory, the same in every run of a process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of this process.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let folder = base.join(format!("plmconv-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a scratch folder");
        folder
    })
}

/// Writes a file of the folder.
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::create_dir_all(path.parent().expect("it stands in the folder")).expect("a folder");
    std::fs::write(&path, bytes).expect("writable");
    path
}

/// Removes files of a subfolder, which is then empty.
pub fn empty(name: &str) -> PathBuf {
    let path = folder().join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("removable");
    }
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// Several files in one input: each begins with a line `=== name`; names not in `known` are left out.
pub fn sections<'a>(input: &'a [u8], known: &[&'static str]) -> Vec<(&'static str, &'a [u8])> {
    let mark = b"=== ";
    // Lines first: to look for the mark at every byte takes longer than what is fuzzed.
    let lines = input.split_inclusive(|&byte| byte == b'\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, line))
    });
    let starts: Vec<usize> = lines.filter(|(_, line)| line.starts_with(mark)).map(|(at, _)| at).collect();
    let mut found: Vec<(&'static str, &[u8])> = Vec::new();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(input.len());
        let section = &input[start + mark.len()..end];
        let line = section.iter().position(|&byte| byte == b'\n').unwrap_or(section.len());
        let name = known.iter().find(|name| name.as_bytes() == &section[..line]);
        if let Some(name) = name
            && !found.iter().any(|(other, _)| other == name)
        {
            found.push((*name, section.get(line + 1..).unwrap_or_default()));
        }
    }
    found
}

/// The input that [`sections`] takes apart.
pub fn joined(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        if !out.is_empty() && !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        out.extend(format!("=== {name}\n").bytes());
        out.extend_from_slice(bytes);
    }
    out
}
