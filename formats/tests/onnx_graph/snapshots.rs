//! Whole graphs as snapshots, variants by what differs.

use std::collections::HashSet;

use plmconv_formats::onnx::proto::{AttributeProto, ModelProto, NodeProto};
use plmconv_formats::onnx::{ExportSpec, Opset, Profile, QuantFormat, build};
use plmconv_formats::{DType, Model, Role, TensorKey};
use prost::Message;

use super::variants::{self, in_blocks, tiny_plm};

fn graph(model: &Model, spec: &ExportSpec) -> ModelProto {
    let export = build(model, spec).expect("builds");
    ModelProto::decode(export.model.as_slice()).expect("decodes")
}

fn nodes(proto: &ModelProto) -> &[NodeProto] {
    &proto.graph.as_ref().expect("a graph").node
}

/// `Op(inputs) {attributes} -> outputs`, without what every name repeats.
fn line(node: &NodeProto) -> String {
    let short = |name: &String| {
        let name = name.trim_end_matches("/output_0").replace("model.layers.", "layers.");
        name.trim_start_matches("/model/").replace("/constants/", "")
    };
    let list = |names: &[String]| names.iter().map(short).collect::<Vec<_>>().join(", ");
    let attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(" ")) };
    let operator = node.op_type.as_deref().unwrap_or_default();
    format!("{} = {operator}({}){attributes}", list(&node.output), list(&node.input))
}

fn attribute(a: &AttributeProto) -> String {
    let value = match (a.i, a.f) {
        (Some(i), _) => i.to_string(),
        (None, Some(f)) => f.to_string(),
        (None, None) => format!("{:?}", a.ints),
    };
    format!("{}={value}", a.name.as_deref().unwrap_or_default())
}

/// The lines of the nodes whose names begin with one of `scopes`.
fn lines(proto: &ModelProto, scopes: &[&str]) -> String {
    let inside = |node: &&NodeProto| {
        let name = node.name.as_deref().unwrap_or_default();
        scopes.iter().any(|scope| name.starts_with(scope))
    };
    nodes(proto).iter().filter(inside).map(line).collect::<Vec<_>>().join("\n")
}

/// Everything but the layers after the first.
const FRAME_AND_FIRST_LAYER: [&str; 7] = [
    "/model/shape",
    "/model/mask",
    "/model/rotary_emb",
    "/model/embed_tokens",
    "/model/layers.0/",
    "/model/norm",
    "/lm_head",
];
const ATTENTION: [&str; 1] = ["/model/layers.0/self_attn"];

#[test]
fn latent_float() {
    let model = tiny_plm();
    let proto = graph(&model, &ExportSpec::new(Profile::Latent, Opset::V21));
    insta::assert_snapshot!(lines(&proto, &FRAME_AND_FIRST_LAYER));
}

#[test]
fn attention_of_the_other_profiles_and_opsets() {
    let model = tiny_plm();
    for (name, profile, opset) in [
        ("genai_21", Profile::Genai, Opset::V21),
        ("hf_21", Profile::Hf, Opset::V21),
        ("latent_23", Profile::Latent, Opset::V23),
        ("genai_23", Profile::Genai, Opset::V23),
        ("hf_23", Profile::Hf, Opset::V23),
    ] {
        let proto = graph(&model, &ExportSpec::new(profile, opset));
        insta::assert_snapshot!(name, lines(&proto, &ATTENTION));
    }
}

#[test]
fn blocks() {
    let model = tiny_plm();
    let spec = ExportSpec::new(Profile::Hf, Opset::V21);
    let scopes = ["/model/embed_tokens", "/model/layers.0/mlp", "/lm_head"];
    let nbits = graph(&model, &in_blocks(&model, spec.clone(), 4, false));
    insta::assert_snapshot!("nbits", lines(&nbits, &scopes));
    let qdq = ExportSpec { quant_format: QuantFormat::Qdq, ..spec };
    let qdq = graph(&model, &in_blocks(&model, qdq, 4, true));
    insta::assert_snapshot!("qdq", lines(&qdq, &scopes));
}

#[test]
fn half_precision_accumulates_norms_in_f32_and_keeps_squares_in_range() {
    let model = tiny_plm();
    let spec = ExportSpec {
        float: DType::F16,
        ffn_shift: vec![3; 6],
        ..ExportSpec::new(Profile::Latent, Opset::V21)
    };
    insta::assert_snapshot!(
        "f16",
        lines(&graph(&model, &spec), &["/model/layers.0/post", "/model/layers.0/mlp"])
    );
    let items = build(&model, &spec).expect("builds").items;
    let exponent = |role| {
        let key = TensorKey::in_layer(0, role);
        items.iter().find(|item| item.key == key).map(|item| item.exponent)
    };
    assert_eq!((exponent(Role::FfnUp), exponent(Role::FfnDown)), (Some(-3), Some(6)));
}

#[test]
fn the_interface() {
    let model = tiny_plm();
    let mut found = String::new();
    for (profile, num_logits_to_keep) in
        [(Profile::Latent, false), (Profile::Genai, false), (Profile::Hf, true)]
    {
        let spec = ExportSpec { num_logits_to_keep, ..ExportSpec::new(profile, Opset::V21) };
        let proto = graph(&model, &spec);
        let graph = proto.graph.as_ref().expect("a graph");
        found += &format!("{}\n", profile.name());
        let of_first_layer = |name: &str| !(1..6).any(|layer| name.contains(&format!(".{layer}.")));
        for (side, ports) in [("in ", &graph.input), ("out", &graph.output)] {
            for port in ports.iter().filter(|p| of_first_layer(p.name.as_deref().unwrap_or_default())) {
                let tensor = port.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).expect("a tensor");
                let dims = tensor.shape.iter().flat_map(|s| &s.dim);
                let dims = dims
                    .map(|d| d.dim_param.clone().unwrap_or_else(|| d.dim_value.unwrap_or(-1).to_string()));
                let dims: Vec<String> = dims.collect();
                let name = port.name.as_deref().unwrap_or_default();
                found += &format!("  {side} {name} {:?} [{}]\n", tensor.elem_type, dims.join(", "));
            }
        }
    }
    insta::assert_snapshot!(found);
}

/// What has to hold of every graph.
fn check(model: &Model, spec: &ExportSpec) {
    let export = build(model, spec).expect("builds");
    let proto = ModelProto::decode(export.model.as_slice()).expect("decodes");
    let graph = proto.graph.as_ref().expect("a graph");

    let mut known: HashSet<&str> = HashSet::from([""]);
    known.extend(graph.input.iter().filter_map(|i| i.name.as_deref()));
    known.extend(graph.initializer.iter().filter_map(|i| i.name.as_deref()));
    let mut used: HashSet<&str> = graph.output.iter().filter_map(|o| o.name.as_deref()).collect();
    let mut names = HashSet::new();
    for node in &graph.node {
        assert!(names.insert(node.name.as_deref()), "two nodes are called {:?}", node.name);
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{:?} reads {input} before it is there", node.name);
            used.insert(input);
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is written twice");
        }
    }
    for initializer in graph.initializer.iter().filter_map(|i| i.name.as_deref()) {
        assert!(used.contains(initializer), "{initializer} is read by nothing");
    }
    for output in graph.output.iter().filter_map(|o| o.name.as_deref()) {
        assert!(known.contains(output), "{output} is written by nothing");
    }

    // Every layer is the first one with another number.
    let layer = |n: usize| {
        let mut text = lines(&proto, &[&format!("/model/layers.{n}/")]);
        for (number, name) in [(n, "this"), (n - 1, "previous")] {
            for (before, after) in
                [("layers.", "/"), ("layers.", "."), ("past_key_values.", "."), ("present.", ".")]
            {
                text = text.replace(&format!("{before}{number}{after}"), &format!("{before}{name}{after}"));
            }
        }
        text
    };
    let second = layer(1);
    assert!(second.contains("layers.this/") && second.contains("layers.previous/"));
    for n in 2..6 {
        assert_eq!(layer(n), second, "layer {n}");
    }
}

#[test]
fn every_variant_is_whole_and_in_topological_order() {
    let model = tiny_plm();
    for spec in variants::all(&model) {
        check(&model, &spec);
    }
}

#[test]
fn places_do_not_overlap_and_files_stay_within_their_limit() {
    let model = tiny_plm();
    let spec = ExportSpec { max_data_bytes: 1 << 20, ..ExportSpec::new(Profile::Hf, Opset::V21) };
    let export = build(&model, &in_blocks(&model, spec, 8, true)).expect("builds");
    assert!(export.data_bytes.len() > 1);
    let graph = ModelProto::decode(export.model.as_slice()).expect("decodes").graph.expect("a graph");
    let mut places: Vec<(String, u64, u64)> = Vec::new();
    for tensor in graph.initializer.iter().filter(|t| !t.external_data.is_empty()) {
        let value = |key: &str| {
            let entry = tensor.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            entry.and_then(|e| e.value.clone()).expect("there")
        };
        let number = |key: &str| value(key).parse::<u64>().expect("a number");
        places.push((value("location"), number("offset"), number("length")));
    }
    places.sort();
    for pair in places.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 + pair[0].2 <= pair[1].1, "{pair:?}");
    }
    // One tensor larger than the limit has a file of its own.
    let largest = places.iter().map(|p| p.2).max().expect("some");
    assert!(export.data_bytes.iter().all(|&bytes| bytes <= largest.max(1 << 20)));
}
