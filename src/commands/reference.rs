//! `plmconv reference MODEL --text FILE -o REF.safetensors`

use anyhow::Result;
use plmconv_validate::reference::{MODEL_DIGEST, ReferenceOptions, TEXT_DIGEST, write_reference};

use crate::error::{At, Place};
use crate::evaluation::{OpenModel, TOKENIZER_DIGEST, model_digest, text_digest, tokens_of};
use crate::progress::{Unit, follow};
use crate::report;
use crate::resolve::{EvaluatorRequest, ReferenceRequest};

pub fn run(request: &ReferenceRequest) -> Result<()> {
    let ReferenceRequest { model, text, output, overwrite, top_k, json, evaluator } = request;
    let EvaluatorRequest { options, console, .. } = *evaluator;
    let open = OpenModel::open(model, console)?;
    let tokens = tokens_of(&open.tokenizer, &text.text, console)?;
    let windows = text.windows(&tokens, &open.tokenizer)?;
    let loaded = open.load(options)?;
    let options = ReferenceOptions {
        top_k: *top_k,
        metadata: vec![
            (MODEL_DIGEST.into(), model_digest(&loaded.model)?),
            (TEXT_DIGEST.into(), text_digest(&text.text)),
            (TOKENIZER_DIGEST.into(), loaded.tokenizer.digest()),
            ("plmconv.version".into(), env!("CARGO_PKG_VERSION").into()),
        ],
        overwrite: *overwrite,
    };
    // From here on it is run from memory.
    loaded.model.check_unchanged()?;
    let bar = console.bar(windows.count() as u64, Unit::Items, "running");
    let perplexity = write_reference(&loaded.evaluator, &windows, output, &options, |p| follow(&bar, p))
        .at(Place::ReferenceOutput)?;
    bar.finish_and_clear();
    report::stored::print(output, &windows, perplexity, *json)
}
