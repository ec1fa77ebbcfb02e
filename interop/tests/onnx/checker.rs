//! onnx's checker accepts every profile, type and opset.

use super::{Flags, Workspace, graph, python, run};

const FLOAT: [&str; 2] = ["f32", "f16"];
const KEPT: [Flags<'static>; 2] = [&[], &["--num-logits-to-keep"]];
const BLOCKS: [(&str, Flags<'static>); 6] = [
    ("q4", &[]),
    ("q4", &["--asymmetric", "--float-type", "f16"]),
    ("q4", &["--quant-format", "qdq"]),
    ("q4", &["--quant-format", "qdq", "--asymmetric", "--float-type", "f16"]),
    ("q8", &["--block-size", "16"]),
    ("q8", &["--quant-format", "qdq", "--asymmetric"]),
];

fn check(profile: &str) {
    let mut exports = Vec::new();
    for opset in ["21", "23"] {
        let common = ["--profile", profile, "--opset", opset];
        for dtype in FLOAT {
            for flags in KEPT {
                let workspace = Workspace::new();
                workspace.convert(dtype, &[&common[..], flags].concat());
                exports.push(workspace);
            }
        }
        for (file_type, flags) in BLOCKS {
            let workspace = Workspace::new();
            workspace.quantize(file_type, &[&common[..], flags].concat());
            exports.push(workspace);
        }
    }
    let mut command = python("check_onnx.py");
    command.args(exports.iter().map(|workspace| graph(&workspace.path("export"))));
    assert_eq!(run(&mut command).matches("ok ").count(), exports.len());
}

#[test]
fn latent() {
    check("latent");
}

#[test]
fn genai() {
    check("genai");
}

#[test]
fn hf() {
    check("hf");
}
