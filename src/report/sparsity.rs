//! How sparse the FFN's activations are.

use std::path::Path;

use anyhow::Result;
use plmconv_validate::sparsity::{ALMOST_ALWAYS, LayerSparsity, Sparsity};
use serde_json::json;

use super::{Table, finite, print_document};

/// Prints a line per layer and the whole.
pub fn print(path: &Path, sparsity: &Sparsity, json: bool) -> Result<()> {
    let layers = sparsity.layers();
    let neurons: usize = layers.iter().map(|l| l.neurons).sum();
    let zeros = layers.iter().map(|l| l.zeros * l.neurons as f64).sum::<f64>() / neurons.max(1) as f64;
    let never: usize = layers.iter().map(|l| l.never).sum();
    let almost_always: usize = layers.iter().map(|l| l.almost_always).sum();
    if json {
        let lines: Vec<_> = layers.iter().map(line_json).collect();
        return print_document(
            "sparsity",
            &json!({
                "path": path.display().to_string(),
                "tokens": sparsity.tokens(),
                "almost_always_above": ALMOST_ALWAYS,
                "zeros": zeros,
                "neurons": neurons,
                "never": never,
                "almost_always": almost_always,
                "layers": lines,
            }),
        );
    }
    say!("{}", path.display());
    say!("FFN activations after squared ReLU, over {} tokens\n", sparsity.tokens());
    let mut rows =
        Table::new(&["layer", "neurons", "zeros", "never fire", "almost always"], &[0, 1, 2, 3, 4]);
    for l in &layers {
        rows.add_row([
            l.layer.to_string(),
            l.neurons.to_string(),
            percent(l.zeros),
            l.never.to_string(),
            l.almost_always.to_string(),
        ]);
    }
    rows.add_row([
        "all".into(),
        neurons.to_string(),
        percent(zeros),
        never.to_string(),
        almost_always.to_string(),
    ]);
    rows.print();
    say!("\nalmost always: for more than {:.0} % of the tokens", ALMOST_ALWAYS * 100.0);
    Ok(())
}

fn line_json(l: &LayerSparsity) -> serde_json::Value {
    json!({
        "layer": l.layer,
        "neurons": l.neurons,
        "zeros": l.zeros,
        "never": l.never,
        "almost_always": l.almost_always,
    })
}

fn percent(share: f64) -> String {
    finite(share * 100.0, |percent| format!("{percent:.2} %"))
}
