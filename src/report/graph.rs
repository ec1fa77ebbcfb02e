//! An ONNX graph: its interface and its operators.

use std::collections::{BTreeMap, HashMap};

use plmconv_formats::onnx::{OnnxFile, Port, Profile};
use serde::Serialize;

use super::Table;

/// A graph, for machines.
#[derive(Serialize)]
pub struct GraphJson<'a> {
    profile: Option<&'static str>,
    ir_version: u64,
    producer: &'a str,
    opsets: &'a BTreeMap<String, i64>,
    inputs: Vec<PortJson<'a>>,
    outputs: Vec<PortJson<'a>>,
    nodes: usize,
    operators: &'a BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct PortJson<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    element: &'static str,
    shape: &'a [String],
}

impl<'a> GraphJson<'a> {
    pub fn new(file: &'a OnnxFile) -> GraphJson<'a> {
        let port =
            |p: &'a Port| PortJson { name: p.name.as_str(), element: p.element, shape: p.shape.as_slice() };
        GraphJson {
            profile: file.profile().map(Profile::name),
            ir_version: file.ir_version,
            producer: &file.producer,
            opsets: &file.opsets,
            inputs: file.inputs.iter().map(port).collect(),
            outputs: file.outputs.iter().map(port).collect(),
            nodes: file.operators.values().sum(),
            operators: &file.operators,
        }
    }
}

/// Prints what a reader of the graph looks for first.
pub fn print(file: &OnnxFile) {
    let profile = file.profile().map_or("none of plmconv's", Profile::name);
    let opsets: Vec<String> = file.opsets.iter().map(|(domain, n)| format!("{domain} {n}")).collect();
    say!("profile {profile}, opset {}, IR version {}", opsets.join(", "), file.ir_version);
    if !file.producer.is_empty() {
        say!("written by {}", file.producer);
    }
    for (title, ports) in [("inputs", &file.inputs), ("outputs", &file.outputs)] {
        say!("\n{title}");
        let mut rows = Table::new(&[], &[]);
        for (name, port) in by_layer(ports) {
            let shape = if port.shape.is_empty() { "scalar".into() } else { port.shape.join(" x ") };
            rows.add_row([&format!("  {name}"), port.element, &shape]);
        }
        rows.print();
    }
    let mut operators: Vec<_> = file.operators.iter().collect();
    operators.sort_by_key(|&(name, &count)| (std::cmp::Reverse(count), name));
    let counts: Vec<String> = operators.iter().map(|(name, count)| format!("{count} {name}")).collect();
    say!("\n{} nodes: {}", file.operators.values().sum::<usize>(), counts.join(", "));
}

/// Ports of the same kind in every layer as one: `present.{0..31}.latent`.
fn by_layer(ports: &[Port]) -> Vec<(String, &Port)> {
    let mut kinds: Vec<(String, &Port, Vec<&str>)> = Vec::new();
    let mut places: HashMap<(String, &str, &[String]), usize> = HashMap::new();
    for port in ports {
        let layer = port.name.split('.').find(|part| part.parse::<u32>().is_ok());
        let kind = layer.map(|layer| port.name.replacen(&format!(".{layer}."), ".{}.", 1));
        let kind = kind.unwrap_or_else(|| port.name.clone());
        let place = match layer {
            Some(_) => *places.entry((kind.clone(), port.element, &port.shape)).or_insert(kinds.len()),
            None => kinds.len(),
        };
        match kinds.get_mut(place) {
            Some((.., layers)) => layers.extend(layer),
            None => kinds.push((kind, port, layer.into_iter().collect())),
        }
    }
    let named = kinds.into_iter().map(|(kind, port, layers)| match layers.as_slice() {
        [first, .., last] => (kind.replace("{}", &format!("{{{first}..{last}}}")), port),
        _ => (port.name.clone(), port),
    });
    named.collect()
}
