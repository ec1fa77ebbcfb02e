//! What users hand over: folders as tools and interrupted downloads leave them, and things that are no model.

mod common;

use std::path::{Path, PathBuf};

use common::checkpoint::{Checkpoint, RawTensor, changed};
use common::{copy_of_tiny_plm, names, plmconv, tiny_plm};
use plmconv_formats::gguf::{Directory, GgufFile, Metadata, Value};
use safetensors::tensor::Dtype;
use tempfile::TempDir;

/// What a run of the program ended with.
struct Ended {
    code: i32,
    said: String,
}

fn run(args: &[&str], paths: &[&Path]) -> Ended {
    let output = plmconv().args(args).args(paths).timeout(std::time::Duration::from_secs(120)).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    Ended { code: output.status.code().expect("it ends in time"), said }
}

/// Converts a model to the GGUF's bytes.
fn converted(model: &Path) -> (Vec<u8>, String) {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let ended = run(&["convert", "--to", "gguf", "--dtype", "bf16"], &[model, "-o".as_ref(), &out]);
    assert_eq!(ended.code, 0, "{}: {}", model.display(), ended.said);
    (std::fs::read(out).expect("written"), ended.said)
}

/// Expects that a model is refused with these words, and nothing written.
#[track_caller]
fn refused(model: &Path, said: &[&str]) {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let ended = run(&["quantize", "q8"], &[model, "-o".as_ref(), &out]);
    assert_eq!(ended.code, 1, "{}", ended.said);
    for words in said {
        assert!(ended.said.contains(words), "`{words}` is not in: {}", ended.said);
    }
    assert!(names(dir.path()).is_empty());
}

fn tiny() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    (dir, folder)
}

fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let text = std::fs::read_to_string(path).expect("read");
    let mut json = serde_json::from_str(&text).expect("JSON");
    change(&mut json);
    std::fs::write(path, json.to_string()).expect("write");
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:07\nsize 12828224\n";

#[test]
fn the_one_file_is_read_beside_the_index_of_an_older_model() {
    let (_one, single) = changed(|_| ());
    let (expected, said) = converted(&single);
    assert!(!said.contains("warning"), "{said}");
    // Its shards are there, too, with other weights.
    let mut older = Checkpoint::odd();
    older.tensors.get_mut("model.norm.weight").expect("there").bytes[1] ^= 1;
    older.save_sharded(&single, true);
    let (found, said) = converted(&single);
    assert!(found == expected, "the one file is converted");
    assert!(said.contains("warning: ") && said.contains("model.safetensors.index.json: not used"), "{said}");
}

#[test]
fn a_missing_shard_is_named() {
    for indexed in [true, false] {
        let dir = tempfile::tempdir().expect("tempdir");
        Checkpoint::odd().save_sharded(dir.path(), indexed);
        std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).expect("there");
        refused(
            dir.path(),
            &["model-00002-of-00002.safetensors is missing", "hint: the download may have stopped"],
        );
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_not_an_absent_file() {
    let files = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "model.safetensors",
    ];
    for name in files {
        let (_dir, folder) = tiny();
        let path = folder.join(name);
        if name == "chat_template.jinja" {
            edit_json(&folder.join("tokenizer_config.json"), |config| {
                config.as_object_mut().expect("an object").remove("chat_template");
            });
        }
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink("../../blobs/0123abcd", &path).expect("link");
        refused(&folder, &[name, "a link to ../../blobs/0123abcd, which is not there", "hint: a download"]);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_a_device_or_a_folder_is_no_config() {
    let (_dir, folder) = tiny();
    let path = folder.join("config.json");
    let replace = |with: &dyn Fn()| {
        let _ = std::fs::remove_file(&path);
        with();
    };
    replace(&|| std::os::unix::fs::symlink("/dev/zero", &path).expect("link"));
    refused(&folder, &["config.json: a device, not a regular file"]);
    replace(&|| {
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
    });
    refused(&folder, &["config.json: a pipe, not a regular file"]);
    replace(&|| std::fs::create_dir(&path).expect("create"));
    refused(&folder, &["config.json: a folder, not a regular file"]);
    std::fs::remove_dir(&path).expect("remove");
    std::fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    refused(&folder, &["config.json: 1099511627776 bytes are more than such a file can have"]);
}

#[test]
fn a_pointer_of_git_lfs_is_told_whatever_it_stands_for() {
    for name in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"] {
        let (_dir, folder) = tiny();
        std::fs::write(folder.join(name), POINTER).expect("write");
        refused(&folder, &[name, "a git-lfs pointer", "git lfs pull"]);
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, POINTER).expect("write");
    refused(&path, &["a git-lfs pointer"]);
    let ended = run(&["inspect"], &[&path]);
    assert!(ended.code == 1 && ended.said.contains("git-lfs"), "{}", ended.said);
    std::fs::write(&path, "<!DOCTYPE html><html>").expect("write");
    refused(&path, &["an HTML page"]);
}

#[test]
fn a_model_card_never_stops_a_conversion() {
    let (_dir, folder) = tiny();
    let readme = folder.join("README.md");
    for (card, warning) in [
        (&b"---\nlicense: mit\ndescription: a: b\n---\n"[..], "not YAML"),
        (b"---\nlicense: mit\nauthor: Ren\xe9\n---\n", "Latin-1"),
        (b"---\nlicense: mit\nname: [a, b]\n---\n", "`name` is not a text"),
        (POINTER.as_bytes(), "git-lfs"),
    ] {
        std::fs::write(&readme, card).expect("write");
        let (_, said) = converted(&folder);
        assert!(said.contains("warning: ") && said.contains(warning), "{warning}: {said}");
    }
}

#[test]
fn json_is_read_as_python_writes_it() {
    let (_dir, folder) = tiny();
    let (expected, _) = converted(&folder);
    let insert = |name: &str, text: &str| {
        let path = folder.join(name);
        let json = std::fs::read_to_string(&path).expect("read");
        let json = json.trim_start().strip_prefix('{').expect("an object").to_string();
        std::fs::write(path, format!("\u{feff}{{{text},\r\n{json}")).expect("write");
    };
    insert("config.json", r#""time_step_limit": [0.0, Infinity], "x": NaN, "y": -Infinity, "z": 1e999"#);
    insert("tokenizer_config.json", r#""longest": Infinity"#);
    insert("generation_config.json", r#""max_time": Infinity"#);
    insert("tokenizer.json", r#""x": NaN"#);
    let (found, said) = converted(&folder);
    assert!(found == expected, "the same file");
    assert!(!said.contains("warning"), "{said}");

    let out = folder.join("../onnx");
    let ended = run(&["convert", "--to", "onnx"], &[&folder, "-o".as_ref(), &out]);
    assert_eq!(ended.code, 0, "{}", ended.said);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let text = std::fs::read(out.join(name)).expect("written");
        serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn what_is_wrong_with_json_is_located() {
    let (_dir, folder) = tiny();
    let path = folder.join("config.json");
    let json = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, "{\n  \"a\": NaN, oops\n}").expect("write");
    refused(&folder, &["config.json: ", "at line 2, column 13"]);
    std::fs::write(&path, json.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
        .expect("write");
    refused(&folder, &["config.json: not UTF-8: it is UTF-16"]);
    std::fs::write(&path, json).expect("write");
    edit_json(&path, |config| config["rms_norm_eps"] = serde_json::Value::Null);
    refused(&folder, &["`rms_norm_eps` is null"]);
}

#[test]
fn doubles_are_rounded() {
    let in_type = |dtype: Dtype, encode: fn(f32) -> Vec<u8>| {
        changed(move |checkpoint| {
            for tensor in checkpoint.tensors.values_mut() {
                let count = tensor.shape.iter().product::<usize>();
                let values = (0..count).map(|i| (i % 1000) as f32 * 0.001 + 0.1);
                *tensor = RawTensor {
                    dtype,
                    bytes: values.flat_map(encode).collect(),
                    shape: tensor.shape.clone(),
                };
            }
        })
    };
    let (_a, doubles) = in_type(Dtype::F64, |x| (f64::from(x) + 1e-12).to_le_bytes().to_vec());
    let (_b, floats) = in_type(Dtype::F32, |x| x.to_le_bytes().to_vec());
    assert!(converted(&doubles).0 == converted(&floats).0, "the same file");
}

#[test]
fn names_that_a_wrapper_changed_are_read() {
    let (_dir, usual) = changed(|_| ());
    let (expected, _) = converted(&usual);
    let spellings: [fn(&str) -> String; 5] = [
        |name| name.strip_prefix("model.").unwrap_or(name).to_string(),
        |name| format!("base_model.model.{name}"),
        |name| format!("module.{name}"),
        |name| format!("_orig_mod.{name}"),
        |name| name.replace("model.layers.", "model._fsdp_wrapped_module.layers."),
    ];
    for spelling in spellings {
        let (_dir, folder) = changed(|checkpoint| {
            let tensors = std::mem::take(&mut checkpoint.tensors);
            checkpoint.tensors =
                tensors.into_iter().map(|(name, tensor)| (spelling(&name), tensor)).collect();
        });
        let (found, said) = converted(&folder);
        assert!(found == expected, "{}", spelling("model.norm.weight"));
        assert!(said.contains("warning: ") && said.contains("is read as"), "{said}");
    }
}

#[test]
fn a_head_may_be_a_copy_in_another_type_and_buffers_are_skipped() {
    let (_dir, usual) = changed(|_| ());
    let (expected, _) = converted(&usual);
    let (_dir, folder) = changed(|checkpoint| {
        let head = checkpoint.tensors.get_mut("lm_head.weight").expect("there");
        let (pairs, _) = head.bytes.as_chunks::<2>();
        head.bytes =
            pairs.iter().flat_map(|&b| half::bf16::from_le_bytes(b).to_f32().to_le_bytes()).collect();
        head.dtype = Dtype::F32;
        let buffer = RawTensor { dtype: Dtype::F32, shape: vec![16], bytes: vec![0; 64] };
        for name in ["model.rotary_emb.original_inv_freq", "model.layers.0.self_attn.masked_bias"] {
            checkpoint.tensors.insert(name.into(), buffer.clone());
        }
    });
    assert!(converted(&folder).0 == expected, "the same file");
}

#[test]
fn a_folder_that_is_no_checkpoint_is_told_what_it_is() {
    let (_dir, folder) = tiny();
    std::fs::remove_file(folder.join("model.safetensors")).expect("there");
    refused(&folder, &["no weights: there is no safetensors file"]);
    let with = |name: &str, said: &[&str]| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("create");
        std::fs::write(&path, "{}").expect("write");
        refused(&folder, said);
        std::fs::remove_file(path).expect("there");
    };
    with("pytorch_model.bin", &["weights of PyTorch (pytorch_model.bin)", "save_pretrained"]);
    std::fs::write(folder.join("model.safetensors"), b"PK\x03\x04 a file that PyTorch wrote").expect("write");
    refused(&folder, &["model.safetensors: a zip archive, as PyTorch's files are"]);
    std::fs::remove_file(folder.join("model.safetensors")).expect("there");
    with("pytorch_model-00001-of-00002.bin", &["weights of PyTorch"]);
    with("consolidated.00.pth", &["weights of PyTorch (consolidated.00.pth)"]);
    with("tf_model.h5", &["weights of TensorFlow"]);
    with("training_args.bin", &["no weights: there is no safetensors file"]);
    with("global_step100/mp_rank_00_model_states.pt", &["state of a training run", "zero_to_fp32.py"]);
    std::fs::remove_dir(folder.join("global_step100")).expect("empty");
    with("m-q4_k_m.gguf", &["a folder with a GGUF in it", "hint: name the file: ", "m-q4_k_m.gguf"]);
    with("onnx/model.onnx", &["an ONNX export", "the checkpoint that it was made from"]);
    with("adapter_config.json", &["a LoRA adapter", "--lora"]);
    std::fs::remove_file(folder.join("config.json")).expect("there");
    with("adapter_config.json", &["a LoRA adapter", "--lora"]);

    let run = tempfile::tempdir().expect("tempdir");
    refused(run.path(), &["an empty folder"]);
    for step in ["checkpoint-500", "checkpoint-1500"] {
        std::fs::create_dir(run.path().join(step)).expect("create");
        std::fs::copy(tiny_plm().join("config.json"), run.path().join(step).join("config.json"))
            .expect("copy");
    }
    refused(run.path(), &["the folder of a training run", "hint: name the folder: ", "checkpoint-1500"]);
}

#[test]
fn quantized_checkpoints_are_told_as_such() {
    let quantized = |method: &'static str, name: &'static str, dtype: Dtype, size: usize| {
        changed(move |checkpoint| {
            let weight = checkpoint.tensors.remove("model.layers.0.self_attn.o_proj.weight").expect("there");
            let bytes = vec![0; weight.shape.iter().product::<usize>() * size];
            let name = format!("model.layers.0.self_attn.o_proj.{name}");
            checkpoint.tensors.insert(name, RawTensor { dtype, bytes, shape: weight.shape });
            if !method.is_empty() {
                checkpoint.config["quantization_config"] = serde_json::json!({ "quant_method": method });
            }
        })
    };
    for (method, name, dtype, size) in [
        ("bitsandbytes", "weight", Dtype::I8, 1),
        ("bitsandbytes", "weight", Dtype::U8, 1),
        ("gptq", "qweight", Dtype::I32, 4),
        ("awq", "qweight", Dtype::I32, 4),
        ("fp8", "weight", Dtype::F8_E4M3, 1),
        ("compressed-tensors", "weight_packed", Dtype::I32, 4),
        ("hqq", "W_q", Dtype::U8, 1),
        ("torchao", "weight_qdata", Dtype::I8, 1),
        ("", "qweight", Dtype::I32, 4),
        ("", "weight", Dtype::F8_E5M2, 1),
    ] {
        let (_dir, folder) = quantized(method, name, dtype, size);
        refused(&folder, &["the checkpoint is already quantized", method, "start from the checkpoint"]);
    }
    // A merged fine-tune keeps the entry of the quantized model it was trained on.
    let (_dir, folder) = changed(|c| {
        c.config["quantization_config"] =
            serde_json::json!({"load_in_4bit": true, "quant_method": "bitsandbytes"})
    });
    assert!(converted(&folder).1.contains("`quantization_config` (bitsandbytes) is ignored"));
    let (_dir, folder) = changed(|c| {
        let weight = c.tensors["model.layers.0.self_attn.o_proj.weight"].clone();
        c.tensors.insert("model.layers.0.self_attn.o_proj.lora_A.default.weight".into(), weight);
    });
    refused(&folder, &["adapters that are not merged"]);
}

#[test]
fn a_file_that_is_no_model_is_told_what_it_is() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        refused(&tiny_plm().join(name), &["a file of the model whose folder is ", "hint: name the folder: "]);
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let refuse = |name: &str, bytes: &[u8], said: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("write");
        refused(&path, &[said]);
    };
    refuse("model.bin", b"PK\x03\x04rest", "weights of PyTorch");
    refuse("model.zip", b"PK\x03\x04rest", "a zip archive");
    refuse("model.tar.gz", b"\x1f\x8b\x08rest", "a gzip archive");
    refuse("model.onnx", b"\x08\x09rest", "an ONNX export");
    refuse("lone.safetensors", b"\x40\0\0\0\0\0\0\0{}", "a safetensors file without config.json");
    refuse("notes.txt", b"hello", "bad magic");
    refuse("big.gguf", b"GGUF\0\0\0\x03rest", "big-endian");
    let gguf_of = |kind: &str| {
        let metadata: Metadata =
            [("general.type".to_string(), Value::String(kind.into()))].into_iter().collect();
        Directory::new(&metadata, []).expect("lays out").head
    };
    refuse("imatrix.gguf", &gguf_of("imatrix"), "a GGUF with an importance matrix");
    refuse("lora.gguf", &gguf_of("adapter"), "a GGUF with a LoRA adapter");
}

#[test]
fn a_gguf_of_other_tools_is_read() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("tiny.gguf");
    let ended = run(&["convert", "--to", "gguf"], &[&tiny_plm(), "-o".as_ref(), &path]);
    assert_eq!(ended.code, 0, "{}", ended.said);
    let file = GgufFile::open(&path).expect("a GGUF");
    let (bytes, end) = (std::fs::read(&path).expect("read"), file.tensors[0].data.offset() as usize);

    // Integers of other widths, and a whole number where a float is usual.
    let mut metadata = file.metadata.clone();
    metadata.set("plm.block_count", Value::U64(6));
    metadata.set("plm.embedding_length", Value::I32(256));
    metadata.set("plm.rope.freq_base", Value::U32(100_000));
    // Cut inside of a character, as llama-quantize does.
    metadata.set("quantize.imatrix.file", Value::String("caf\u{e9}".into()));
    let entries = file
        .tensors
        .iter()
        .map(|t| (t.name.clone(), plmconv_formats::source::RowSource::dtype(&t.data), t.shape.clone()));
    let mut head = Directory::new(&metadata, entries).expect("lays out").head;
    let at = head.windows(5).position(|window| window == "caf\u{e9}".as_bytes()).expect("there");
    head[at + 4] = b'!';
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, [&head, &bytes[end..]].concat()).expect("write");
    let (_, said) = converted(&other);
    assert!(
        said.contains("warning: ") && said.contains("`quantize.imatrix.file`: bytes that are not UTF-8"),
        "{said}"
    );
}

#[test]
fn a_hint_fits_the_place_that_failed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let absent = dir.path().join("no/such");
    let tiny = tiny_plm();
    let model_hint = "a model is a Hugging Face folder";
    let ended = run(&["quantize", "q8"], &[&absent]);
    assert!(ended.said.contains(model_hint), "{}", ended.said);
    let others: [(&[&str], &[&Path]); 5] = [
        (&["quantize", "q8"], &[&tiny, "-o".as_ref(), &absent.join("x.gguf")]),
        (&["quantize", "q8"], &[&tiny, "--stats".as_ref(), &absent]),
        (&["quantize", "q8"], &[&tiny, "--imatrix".as_ref(), &absent]),
        (&["quantize", "q8"], &[&tiny, "--tensor-type-file".as_ref(), &absent]),
        (&["perplexity"], &[&tiny, "--text".as_ref(), &absent]),
    ];
    for (args, paths) in others {
        let ended = run(args, paths);
        assert!(ended.code != 0 && ended.said.contains("hint: "), "{paths:?}: {}", ended.said);
        assert!(
            !ended.said.contains(model_hint) && !ended.said.contains("MODEL"),
            "{paths:?}: {}",
            ended.said
        );
    }
    let ended = run(&["quantize", "q8", "PLM-Team/PLM-1.8B-Instruct"], &[]);
    assert!(ended.said.contains("ORGANIZATION/NAME on the hub"), "{}", ended.said);
    let ended = run(&["perplexity"], &[&tiny, "--text".as_ref(), dir.path()]);
    assert!(ended.said.contains("a folder, not a regular file"), "{}", ended.said);
    let ended = run(&["perplexity", "--text", "-"], &[&tiny]);
    assert!(ended.code == 2 && ended.said.contains("/dev/stdin"), "{}", ended.said);
}

#[test]
fn windows_are_chosen_by_the_command_s_own_flag() {
    let dir = tempfile::tempdir().expect("tempdir");
    let text = dir.path().join("short.txt");
    std::fs::write(&text, "too short").expect("write");
    let tiny = tiny_plm();
    let ended = run(&["perplexity"], &[&tiny, "--text".as_ref(), &text]);
    assert!(ended.said.contains("with --ctx"), "{}", ended.said);
    let out = dir.path().join("x.gguf");
    let ended = run(&["quantize", "q8"], &[&tiny, "-o".as_ref(), &out, "--validate".as_ref(), &text]);
    assert!(ended.said.contains("with --validate-ctx"), "{}", ended.said);
}
