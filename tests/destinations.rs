//! Where outputs go: nothing of the user's is lost, whatever is there, and whatever ends the run.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::signals::{signal, started, temporary_of};
use common::{copy_of_tiny_plm, fixtures, names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;
use tempfile::TempDir;

fn text() -> PathBuf {
    fixtures().join("text/own.txt")
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("tempdir")
}

fn export(model: &Path, output: &Path) -> Command {
    let mut command = plmconv();
    command.args(["quantize", "q4", "-q", "--to", "onnx"]).arg(model).arg("-o").arg(output);
    command
}

fn quantize(model: &Path, output: &Path) -> Command {
    let mut command = plmconv();
    command.args(["quantize", "q8", "-q"]).arg(model).arg("-o").arg(output);
    command
}

fn calibrate(text: &Path, output: &Path) -> Command {
    let mut command = plmconv();
    command
        .args(["calibrate", "-q", "--calibration-ctx", "64", "--calibration-chunks", "2", "--text"])
        .arg(text);
    command.arg(tiny_plm()).arg("-o").arg(output);
    command
}

fn reference(text: &Path, output: &Path) -> Command {
    let mut command = plmconv();
    command.args(["reference", "-q", "--ctx", "64", "--chunks", "2"]).arg(tiny_plm()).arg("--text").arg(text);
    command.arg("-o").arg(output);
    command
}

/// Every file below `folder` with its bytes; links with what they say.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_symlink() {
            let to = std::fs::read_link(&path).expect("a link");
            found.insert(path, to.into_os_string().into_encoded_bytes());
        } else if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            found.insert(path, bytes);
        }
    }
    found
}

/// Expects a refusal with and without `--force` that never advises it and leaves all below `folder` as it is.
fn refuses(folder: &Path, mut command: Command, said: &str) {
    let before = contents(folder);
    for _ in 0..2 {
        let refusal = predicate::str::contains(said).and(predicate::str::contains("--force").not());
        let code = predicate::in_iter([1, 2]);
        command.assert().failure().code(code).stderr(refusal);
        assert_eq!(contents(folder), before);
        command.arg("--force");
    }
}

#[test]
fn a_folder_that_is_no_export_is_never_replaced() {
    let dir = dir();
    let model = copy_of_tiny_plm(dir.path());
    refuses(dir.path(), export(&model, &model), "it is the input");
    refuses(dir.path(), export(&model, &dir.path().join("tiny-plm/../tiny-plm/")), "it is the input");
    refuses(dir.path(), export(&model, dir.path()), "it holds the input");
    symlink(&model, dir.path().join("link")).expect("link");
    refuses(dir.path(), export(&model, &dir.path().join("link")), "it is the input");
    refuses(dir.path(), export(&dir.path().join("link"), &model), "it is the input");
    std::fs::create_dir(model.join("sub")).expect("folder");
    std::fs::write(model.join("sub/notes.txt"), b"precious").expect("write");
    refuses(dir.path(), export(&model, &model.join("sub")), "it is a part of the input");
    let mut here = export(Path::new("."), Path::new("."));
    here.current_dir(&model);
    refuses(dir.path(), here, "it is the input");

    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("folder");
    std::fs::write(other.join("notes.txt"), b"precious").expect("write");
    refuses(dir.path(), export(&model, &other), "no ONNX graph");
    std::fs::write(dir.path().join("file"), b"precious").expect("write");
    refuses(dir.path(), export(&model, &dir.path().join("file")), "it is not a folder");
    refuses(dir.path(), export(&model, &dir.path().join("file/out")), "not a folder");
    refuses(dir.path(), export(&model, Path::new("/")), "it holds the input");
    refuses(dir.path(), export(&model, Path::new("/dev/null")), "a device");
}

#[test]
fn an_earlier_export_is_replaced_until_something_else_is_in_it() {
    let dir = dir();
    let out = dir.path().join("out");
    for profile in ["latent", "genai", "hf"] {
        export(&tiny_plm(), &out).args(["--force", "--profile", profile]).assert().success();
        export(&tiny_plm(), &out).assert().code(1).stderr(predicate::str::contains("--force"));
        export(&tiny_plm(), &out).args(["--force", "--profile", profile]).assert().success();
        assert_eq!(names(dir.path()), ["out"]);
    }
    for name in ["notes.txt", "onnx/model_q8.onnx", "sub/x"] {
        let other = out.join(name);
        std::fs::create_dir_all(other.parent().expect("a folder")).expect("folder");
        std::fs::write(&other, b"precious").expect("write");
        refuses(dir.path(), export(&tiny_plm(), &out), "not replaced");
        std::fs::remove_file(&other).expect("remove");
        let _ = std::fs::remove_dir(out.join("sub"));
    }
    symlink(text(), out.join("LICENSE")).expect("link");
    refuses(dir.path(), export(&tiny_plm(), &out), "`LICENSE`");
    std::fs::remove_file(out.join("LICENSE")).expect("remove");
    export(&tiny_plm(), &out).arg("--force").assert().success();
    // An empty folder holds nothing that could be lost.
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("folder");
    export(&tiny_plm(), &empty).assert().code(1).stderr(predicate::str::contains("--force"));
    export(&tiny_plm(), &empty).arg("--force").assert().success();
    assert!(empty.join("model_q4.onnx").exists() || empty.join("model.onnx").exists());
}

#[test]
fn what_is_no_regular_file_is_never_replaced_by_one() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let pipe = path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("bind");
    std::fs::create_dir(path("folder")).expect("folder");
    symlink("/dev/null", path("link")).expect("link");
    let cases = [
        (pipe.clone(), "it is a pipe"),
        (path("socket"), "it is a socket"),
        (path("folder"), "it is a folder"),
        (path("new/"), "it is the name of a folder"),
        (path("link"), "it is a device"),
        ("/dev/null".into(), "it is a device"),
        ("/dev/stdout".into(), "it is"),
    ];
    for (output, said) in &cases {
        for command in [quantize(&tiny_plm(), output), calibrate(&text(), output), reference(&text(), output)]
        {
            let mut command = command;
            for _ in 0..2 {
                let refusal = predicate::str::contains(*said).and(predicate::str::contains("--force").not());
                command.assert().code(1).stderr(refusal);
                command.arg("--force");
            }
        }
    }
    assert!(std::fs::metadata("/dev/null").expect("there").file_type().is_char_device());
    assert!(std::fs::metadata(&pipe).expect("there").file_type().is_fifo());
    assert_eq!(names(dir.path()), ["folder", "link", "pipe", "socket"]);
}

#[test]
fn a_link_is_followed_and_stays() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("big")).expect("folder");
    quantize(&tiny_plm(), &dir.path().join("want.gguf")).assert().success();
    let want = std::fs::read(dir.path().join("want.gguf")).expect("written");
    // Relative, by two links, and to a file that is not there yet.
    symlink("big/target.gguf", dir.path().join("one")).expect("link");
    symlink(dir.path().join("one"), dir.path().join("two")).expect("link");
    for (name, force) in [("two", false), ("one", true)] {
        let link = dir.path().join(name);
        quantize(&tiny_plm(), &link).args(force.then_some("--force")).assert().success();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(dir.path().join("big/target.gguf")).expect("written"), want);
        assert_eq!(names(&dir.path().join("big")), ["target.gguf"]);
    }
    quantize(&tiny_plm(), &dir.path().join("one"))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("exists"));
    symlink("big/export", dir.path().join("folder")).expect("link");
    export(&tiny_plm(), &dir.path().join("folder")).assert().success();
    export(&tiny_plm(), &dir.path().join("folder")).arg("--force").assert().success();
    assert!(dir.path().join("folder").is_symlink());
    assert_eq!(names(&dir.path().join("big")), ["export", "target.gguf"]);
    symlink("nowhere/x.gguf", dir.path().join("lost")).expect("link");
    quantize(&tiny_plm(), &dir.path().join("lost"))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("nowhere"));
}

#[test]
fn an_input_is_never_replaced_by_whatever_name() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let model = copy_of_tiny_plm(dir.path());
    std::fs::copy(text(), path("text")).expect("copy");
    let gguf = path("m.gguf");
    quantize(&tiny_plm(), &gguf).arg("--tensor-type").arg(".=f16").assert().success();
    std::fs::hard_link(&gguf, path("hard.gguf")).expect("link");
    symlink("m.gguf", path("soft.gguf")).expect("link");
    for name in ["m.gguf", "tiny-plm/../m.gguf", "hard.gguf", "soft.gguf"] {
        refuses(dir.path(), quantize(&gguf, &path(name)), "exists and belongs to the input");
        refuses(dir.path(), quantize(&path("soft.gguf"), &path(name)), "exists and belongs to the input");
    }
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        refuses(dir.path(), quantize(&model, &model.join(name)), "belongs to the input");
    }
    refuses(dir.path(), calibrate(&path("text"), &path("text")), "belongs to the input");
    refuses(dir.path(), reference(&path("text"), &path("text")), "belongs to the input");
    let mut command = quantize(&tiny_plm(), &path("text"));
    command.arg("--calibrate").arg(path("text"));
    refuses(dir.path(), command, "belongs to the input");
    let mut command = quantize(&tiny_plm(), &path("text"));
    command.arg("--validate").arg(path("text"));
    refuses(dir.path(), command, "belongs to the input");
    let imatrix = path("imatrix.gguf");
    std::fs::copy(fixtures().join("golden/imatrix.gguf"), &imatrix).expect("copy");
    let mut command = quantize(&tiny_plm(), &imatrix);
    command.arg("--imatrix").arg(&imatrix);
    refuses(dir.path(), command, "belongs to the input");

    quantize(&tiny_plm(), &path("s.gguf")).args(["--split-max-size", "3M"]).assert().success();
    let first = names(dir.path()).into_iter().find(|name| name.starts_with("s-00001")).expect("a shard");
    let last = first.replace("s-00001", "s-00002");
    let mut command = quantize(&path(&first), &path(&last));
    command.arg("--allow-requantize");
    refuses(dir.path(), command, "belongs to the input");
    // Onto itself by the name of the whole set, with the same and with another number of shards.
    for size in ["3M", "2M"] {
        let mut command = quantize(&path(&first), &path("s.gguf"));
        command.args(["--allow-requantize", "--split-max-size", size]);
        let before = contents(dir.path());
        command.arg("--force").assert().code(2).stderr(predicate::str::contains("belongs to the input"));
        assert_eq!(contents(dir.path()), before);
    }

    let stats = path("stats.gguf");
    calibrate(&text(), &stats).assert().success();
    let before = contents(dir.path());
    let mut merge = plmconv();
    merge.args(["calibrate", "--force", "--merge"]).arg(&stats).arg("-o").arg(&stats);
    merge.assert().code(2).stderr(predicate::str::contains("belongs to the input"));
    for flag in ["--html", "--junit", "--markdown"] {
        for target in [&gguf, &path("text"), &model.join("config.json")] {
            let mut command = plmconv();
            command.arg("validate").arg(&gguf).arg("--against").arg(&model).arg("--text").arg(path("text"));
            command
                .arg(flag)
                .arg(target)
                .assert()
                .code(2)
                .stderr(predicate::str::contains("belongs to the input"));
        }
    }
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn what_the_run_measures_itself_replaces_no_file_of_the_user() {
    let dir = dir();
    let (out, beside) = (dir.path().join("out.gguf"), dir.path().join("out.gguf.statistics"));
    let mut command = quantize(&tiny_plm(), &out);
    command.args(["--calibration-ctx", "64", "--calibration-chunks", "2", "--calibrate"]).arg(text());
    std::fs::write(&beside, b"my notes").expect("write");
    command.assert().success();
    assert_eq!(std::fs::read(&beside).expect("read"), b"my notes");
    // Statistics that took hours are no leftover either, even with --force.
    std::fs::remove_file(&beside).expect("remove");
    calibrate(&text(), &beside).args(["--seed", "7"]).assert().success();
    let measured = std::fs::read(&beside).expect("read");
    command.arg("--force").assert().success();
    assert_eq!(std::fs::read(&beside).expect("read"), measured);
    assert_eq!(names(dir.path()), ["out.gguf", "out.gguf.statistics"]);
}

/// The work itself would fail on this text, so a refusal that names the output came before.
#[test]
fn the_destination_is_checked_before_the_work() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("latin"), b"caf\xe9").expect("write");
    std::fs::write(path("there"), b"mine").expect("write");
    let before = contents(dir.path());
    for (output, said) in
        [("there", "there already exists"), ("no/such/out", "no/such: no such file or folder")]
    {
        let expect = |mut command: Command| {
            command.assert().code(1).stderr(predicate::str::contains(said));
        };
        expect(calibrate(&path("latin"), &path(output)));
        expect(reference(&path("latin"), &path(output)));
        for flag in ["--calibrate", "--validate"] {
            let mut command = quantize(&tiny_plm(), &path(output));
            command.arg(flag).arg(path("latin"));
            expect(command);
        }
    }
    let mut command = export(&tiny_plm(), &path("there"));
    command.arg("--calibrate").arg(path("latin"));
    command.assert().code(1).stderr(predicate::str::contains("it is not a folder"));
    for flag in ["--html", "--junit", "--markdown"] {
        let mut command = plmconv();
        command
            .args(["validate", "no-candidate", "--against", "no-reference"])
            .arg("--text")
            .arg(path("latin"));
        command
            .arg(flag)
            .arg(path("no/report"))
            .assert()
            .code(1)
            .stderr(predicate::str::contains("no: no such file"));
    }
    assert_eq!(contents(dir.path()), before);
}

fn split(output: &Path, size: &str) -> Command {
    let mut command = quantize(&tiny_plm(), output);
    command.args(["--split-max-size", size]);
    command
}

fn set_id(shard: &Path) -> Option<String> {
    let bytes = std::fs::read(shard).expect("readable");
    let at = bytes.windows(12).position(|window| window == b"split.set_id")?;
    String::from_utf8(bytes[at + 24..at + 88].to_vec()).ok()
}

/// Splits a set below a fresh folder; returns its shards.
fn set(dir: &Path, file_type: &str, size: &str) -> Vec<PathBuf> {
    std::fs::create_dir_all(dir).expect("folder");
    let mut command = plmconv();
    command.args(["quantize", file_type, "-q", "--split-max-size", size]).arg(tiny_plm()).arg("-o");
    command.arg(dir.join("m.gguf")).assert().success();
    names(dir).into_iter().map(|name| dir.join(name)).collect()
}

#[test]
fn a_set_carries_an_id_by_which_a_mixture_is_told() {
    let dir = dir();
    let one = set(&dir.path().join("one"), "q8_0", "2M");
    let again = set(&dir.path().join("again"), "q8_0", "2M");
    let other = set(&dir.path().join("other"), "q8_0", "2M");
    assert!(one.len() >= 3);
    let id = set_id(&one[0]).expect("an id");
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0'), "{id}");
    assert!(one.iter().all(|shard| set_id(shard).as_ref() == Some(&id)));
    assert!(
        one.iter().zip(&again).all(|(a, b)| std::fs::read(a).expect("a") == std::fs::read(b).expect("b"))
    );

    // Another source of the same shapes: every shard's directory is the same, the weights are not.
    let model = copy_of_tiny_plm(dir.path());
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("read");
    let end = bytes.len() - 200_000;
    bytes[end..end + 512].fill(0);
    std::fs::write(&weights, bytes).expect("write");
    for shard in &other {
        std::fs::remove_file(shard).expect("remove");
    }
    split(&dir.path().join("other/m.gguf"), "2M").arg("--tensor-type").arg(".=q8_0").assert().success();
    let mut command = plmconv();
    command.args(["quantize", "q8_0", "-q", "--force", "--split-max-size", "2M"]).arg(&model).arg("-o");
    command.arg(dir.path().join("other/m.gguf")).assert().success();
    assert_ne!(set_id(&other[0]), Some(id));
    for mixed in 0..one.len() {
        let folder = dir.path().join(format!("mixed{mixed}"));
        std::fs::create_dir(&folder).expect("folder");
        for (number, shard) in one.iter().enumerate() {
            let from = if number == mixed { &other[number] } else { shard };
            std::fs::copy(from, folder.join(shard.file_name().expect("a name"))).expect("copy");
        }
        let first = folder.join(one[0].file_name().expect("a name"));
        plmconv()
            .arg("inspect")
            .arg(&first)
            .assert()
            .code(1)
            .stderr(predicate::str::contains("not of the same set"));
    }
    GgufFile::open(&one[0]).expect("whole");
}

/// The same bytes as another tool might have written them: without an id.
fn without_id(shard: &Path) {
    let bytes = std::fs::read(shard).expect("readable");
    let at = bytes.windows(12).position(|window| window == b"split.set_id").expect("an id");
    let mut other = bytes;
    other[at..at + 12].copy_from_slice(b"other.set_id");
    std::fs::write(shard, other).expect("write");
}

#[test]
fn another_number_of_shards_replaces_the_earlier_set_if_it_is_ours() {
    let dir = dir();
    let out = dir.path().join("m.gguf");
    split(&out, "2M").assert().success();
    let old = names(dir.path());
    split(&out, "3M").assert().code(1).stderr(predicate::str::contains("already exists"));
    assert_eq!(names(dir.path()), old);
    split(&out, "3M").arg("--force").assert().success();
    let new = names(dir.path());
    assert!(new.len() < old.len() && new.iter().all(|name| !old.contains(name)), "{new:?}");
    GgufFile::open(dir.path().join(&new[0])).expect("whole");
    // One that another tool wrote is neither in the way nor ours to remove; nor is one of another name.
    new.iter().for_each(|name| without_id(&dir.path().join(name)));
    split(&dir.path().join("mm.gguf"), "3M").assert().success();
    split(&out, "2M").assert().success();
    split(&out, "2M").arg("--force").assert().success();
    let left = names(dir.path());
    assert!(old.iter().chain(&new).all(|name| left.contains(name)), "{left:?}");
    assert_eq!(left.len(), old.len() + 2 * new.len());
    GgufFile::open(dir.path().join(&new[0])).expect("whole without an id");
}

#[test]
fn a_set_that_was_being_put_in_place_is_told_and_finished() {
    let dir = dir();
    let out = dir.path().join("m.gguf");
    split(&out, "2M").assert().success();
    let shards = names(dir.path());
    // As a run leaves it that is killed after its second rename.
    let workspace = dir.path().join(format!(".plmconv-{}.killed.tmp", shards[0]));
    std::fs::create_dir(&workspace).expect("folder");
    std::fs::write(workspace.join(".commit"), b"[]").expect("write");
    for name in [&shards[0], shards.last().expect("shards")] {
        std::fs::rename(dir.path().join(name), workspace.join(name)).expect("rename");
    }
    let first = dir.path().join(&shards[0]);
    plmconv()
        .arg("inspect")
        .arg(&first)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("was being put in place"));
    split(&out, "2M").assert().code(1).stderr(predicate::str::contains("already exists"));
    assert_eq!(names(dir.path()), shards);
    GgufFile::open(&first).expect("whole");
}

#[test]
fn the_umask_decides_who_may_read_and_a_replaced_file_keeps_its_permissions() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let mode = |name: &str| std::fs::metadata(path(name)).expect("there").permissions().mode() & 0o777;
    let under = |umask: &str, command: &Command| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\"")).arg(command.get_program());
        shell.args(command.get_args()).assert().success();
    };
    for (umask, file, folder) in [("077", 0o600, 0o700), ("002", 0o664, 0o775), ("022", 0o644, 0o755)] {
        under(umask, quantize(&tiny_plm(), &path("q.gguf")).arg("--force"));
        under(umask, split(&path("s.gguf"), "2M").arg("--force"));
        under(umask, export(&tiny_plm(), &path("onnx")).arg("--force"));
        under(umask, calibrate(&text(), &path("stats.gguf")).arg("--force"));
        under(umask, reference(&text(), &path("r.safetensors")).arg("--force"));
        let mut command = plmconv();
        command.arg("validate").arg(path("q.gguf")).arg("--against").arg(path("r.safetensors"));
        under(umask, command.arg("--html").arg(path("report.html")));
        let all = names(dir.path());
        for name in &all {
            assert_eq!(mode(name), if name == "onnx" { folder } else { file }, "{name} under {umask}");
            assert_eq!(
                std::fs::metadata(path(name)).expect("there").uid(),
                std::fs::metadata(dir.path()).expect("there").uid()
            );
        }
        assert_eq!(mode("onnx/config.json"), file);
        for name in &all {
            let path = path(name);
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.expect("removable");
        }
    }
    quantize(&tiny_plm(), &path("q.gguf")).assert().success();
    std::fs::set_permissions(path("q.gguf"), std::fs::Permissions::from_mode(0o640)).expect("chmod");
    quantize(&tiny_plm(), &path("q.gguf")).arg("--force").assert().success();
    assert_eq!(mode("q.gguf"), 0o640);
}

fn validate(candidate: &Path) -> Command {
    let mut command = plmconv();
    command.args(["validate", "-q", "--ctx", "64"]).arg(candidate).arg("--against").arg(tiny_plm());
    command.arg("--text").arg(text());
    command
}

#[test]
fn reports_are_whole_or_as_they_were() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let q8 = path("q8.gguf");
    quantize(&tiny_plm(), &q8).assert().success();
    for (flag, name) in [("--html", "r.html"), ("--junit", "r.xml"), ("--markdown", "r.md")] {
        std::fs::write(path(name), b"old").expect("write");
        // A run that fails leaves the old one.
        validate(&path("nowhere")).arg(flag).arg(path(name)).assert().code(1);
        assert_eq!(std::fs::read(path(name)).expect("there"), b"old");
        validate(&q8).arg(flag).arg(path(name)).assert().success();
        assert!(std::fs::metadata(path(name)).expect("there").len() > 100);
        // A pipe is written to.
        validate(&q8).arg(flag).arg("/dev/stderr").assert().success().stderr(predicate::str::contains("KL"));
    }
    assert_eq!(names(dir.path()), ["q8.gguf", "r.html", "r.md", "r.xml"]);
    let mut command = validate(&q8);
    command.arg("--html").arg(path("r.html")).arg("--markdown").arg(path("./r.html"));
    command.assert().code(2).stderr(predicate::str::contains("two reports"));
    validate(&q8)
        .arg("--html")
        .arg(dir.path())
        .assert()
        .code(1)
        .stderr(predicate::str::contains("it is a folder"));
}

fn checked(output: &Path, limit: &str) -> Command {
    let mut command = plmconv();
    command.args(["quantize", "q4_0", "-q", "--force"]).arg(tiny_plm()).arg("-o").arg(output);
    command.arg("--validate").arg(text()).args(["--validate-ctx", "64", "--max-kld", limit]);
    command
}

#[test]
fn a_rejected_file_leaves_the_old_one() {
    let dir = dir();
    let out = dir.path().join("out.gguf");
    quantize(&tiny_plm(), &out).assert().success();
    let old = std::fs::read(&out).expect("written");
    checked(&out, "1e-9").assert().code(3).stdout(predicate::str::contains("out.gguf.rejected"));
    assert_eq!(names(dir.path()), ["out.gguf", "out.gguf.rejected"]);
    assert_eq!(std::fs::read(&out).expect("there"), old);
    checked(&out, "0.1").assert().success().stdout(predicate::str::contains(".plmconv-").not());
    assert_ne!(std::fs::read(&out).expect("there"), old);

    // A set is validated as a set.
    let set = dir.path().join("set.gguf");
    split(&set, "2M").assert().success();
    let before = contents(dir.path());
    checked(&set, "1e-9").args(["--split-max-size", "2M"]).assert().code(3);
    let kept = |path: &PathBuf| {
        !path.display().to_string().contains("set") || !path.display().to_string().ends_with(".rejected")
    };
    assert_eq!(
        contents(dir.path()).into_iter().filter(|(path, _)| kept(path)).collect::<BTreeMap<_, _>>(),
        before
    );
    checked(&set, "0.1").args(["--split-max-size", "2M"]).assert().success();
}

const SIGNALS: [(&str, i32); 3] = [("-INT", 130), ("-TERM", 143), ("-HUP", 129)];

#[test]
fn a_signal_while_it_validates_leaves_the_old_file_alone() {
    let dir = dir();
    let out = dir.path().join("out.gguf");
    checked(&out, "0.1").assert().success();
    let written = std::fs::read(&out).expect("written");
    quantize(&tiny_plm(), &out).arg("--force").assert().success();
    let old = std::fs::read(&out).expect("written");
    // A long text, one thread: minutes of validation, which begins once all of the file is there.
    let long = dir.path().join("long.txt");
    std::fs::write(&long, std::fs::read_to_string(text()).expect("a text").repeat(200)).expect("write");
    for (name, code) in SIGNALS {
        let mut command = plmconv();
        command.args(["quantize", "q4_0", "-q", "-j", "1", "--force"]).arg(tiny_plm()).arg("-o").arg(&out);
        command.arg("--validate").arg(&long).args(["--validate-ctx", "64"]);
        let is_complete = || {
            let bytes = temporary_of(&dir.path().join("out.gguf")).and_then(|path| std::fs::read(path).ok());
            bytes.is_some_and(|bytes| bytes == written)
        };
        let mut child = started(&command, is_complete).expect("validates for long");
        signal(&child, name);
        assert_eq!(child.wait().expect("ends").code(), Some(code), "{name}");
        assert_eq!(std::fs::read(&out).expect("there"), old);
        assert_eq!(names(dir.path()), ["long.txt", "out.gguf"]);
    }
}

#[test]
fn a_signal_while_it_evaluates_leaves_nothing() {
    let dir = dir();
    let long = dir.path().join("long.txt");
    std::fs::write(&long, std::fs::read_to_string(text()).expect("a text").repeat(200)).expect("write");
    for (name, code) in SIGNALS {
        let mut command = plmconv();
        command.args(["reference", "-q", "-j", "1", "--top-k", "1"]).arg(tiny_plm()).arg("--text").arg(&long);
        command.arg("-o").arg(dir.path().join("ref"));
        let mut child =
            started(&command, || temporary_of(&dir.path().join("ref")).is_some()).expect("runs for long");
        signal(&child, name);
        assert_eq!(child.wait().expect("ends").code(), Some(code), "reference {name}");
        assert_eq!(names(dir.path()), ["long.txt"]);

        let mut command = plmconv();
        command.args(["validate", "-q", "-j", "1"]).arg(tiny_plm()).arg("--against").arg(tiny_plm());
        command.arg("--text").arg(&long).arg("--html").arg(dir.path().join("html"));
        let mut child =
            started(&command, || temporary_of(&dir.path().join("html")).is_some()).expect("runs for long");
        signal(&child, name);
        assert_eq!(child.wait().expect("ends").code(), Some(code), "validate {name}");
        assert_eq!(names(dir.path()), ["long.txt"]);
    }
}

#[test]
fn a_signal_that_whoever_started_the_run_ignores_stays_ignored() {
    let dir = dir();
    let calibrate = calibrate(&text(), &dir.path().join("stats"));
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("trap '' HUP; exec \"$0\" \"$@\"")
        .arg(calibrate.get_program())
        .args(calibrate.get_args());
    let mut child =
        started(&shell, || temporary_of(&dir.path().join("stats")).is_some()).expect("measures for a while");
    signal(&child, "-HUP");
    assert!(child.wait().expect("ends").success());
    assert_eq!(names(dir.path()), ["stats"]);
}

#[test]
fn leftovers_of_killed_runs_go_with_the_next() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let leave = || {
        std::fs::write(path(".plmconv-q.gguf.killed.tmp"), b"half").expect("write");
        for name in
            [".plmconv-out.killed.tmp", ".plmconv-out.killed.old.tmp", ".plmconv-m-00001-of-00009.gguf.x.tmp"]
        {
            std::fs::create_dir(path(name)).expect("folder");
            std::fs::write(path(name).join("model.onnx"), b"half").expect("write");
        }
        std::fs::write(path(".plmconv-m-00003-of-00009.gguf.x.tmp"), b"half").expect("write");
        std::fs::write(path(".plmconv-stats.killed.tmp"), b"half").expect("write");
        std::fs::write(path(".plmconv-ref.killed.tmp"), b"half").expect("write");
        std::fs::write(path(".plmconv-page.killed.tmp"), b"half").expect("write");
    };
    leave();
    quantize(&tiny_plm(), &path("q.gguf")).assert().success();
    export(&tiny_plm(), &path("out")).assert().success();
    split(&path("m.gguf"), "3M").assert().success();
    calibrate(&text(), &path("stats")).assert().success();
    reference(&text(), &path("ref")).assert().success();
    validate(&path("q.gguf")).arg("--html").arg(path("page")).assert().success();
    let left = names(dir.path());
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
    // A run that is refused clears away, too.
    leave();
    quantize(&tiny_plm(), &path("q.gguf")).assert().code(1);
    export(&tiny_plm(), &path("out")).assert().code(1);
    split(&path("m.gguf"), "3M").assert().code(1);
    calibrate(&text(), &path("stats")).assert().code(1);
    reference(&text(), &path("ref")).assert().code(1);
    validate(&path("q.gguf")).arg("--html").arg(path("page")).assert().success();
    assert_eq!(names(dir.path()), left);
}
