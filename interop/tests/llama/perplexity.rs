//! The measure of perplexity that benches compare with is right: on the golden sequences it gives what the golden
//! logits give.

use plmconv_interop::golden::Golden;
use plmconv_interop::perplexity::{PerplexityOptions, perplexity};

use super::Workspace;

/// Sum and count of `-ln p` over the scored positions of windows of `n_ctx`, in double precision.
fn expected(golden: &Golden) -> (f64, usize) {
    let mut nll = Vec::new();
    for (tokens, logits) in golden.sequences.iter().zip(&golden.logits) {
        let rows: Vec<&[f32]> = logits.chunks_exact(golden.vocab_size).collect();
        for position in tokens.len() / 2..tokens.len() - 1 {
            let row = rows[position];
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let next = usize::try_from(tokens[position + 1]).expect("ids are not negative");
            nll.push(sum.ln() - f64::from(row[next]));
        }
    }
    (nll.iter().sum(), nll.len())
}

#[test]
fn perplexity_of_the_f32_file_is_that_of_the_golden_logits() {
    let workspace = Workspace::new();
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let (sum, count) = expected(&golden);
    let model = workspace.load_tiny_plm("f32");
    let n_ctx = golden.sequences[0].len();
    let tokens = golden.sequences.concat();
    // Both windows in one batch, one by one, and each in parts.
    for n_batch in [2 * n_ctx, n_ctx, n_ctx / 4 - 1] {
        let options = PerplexityOptions { n_ctx, n_batch, threads: 1, ..PerplexityOptions::default() };
        let found = perplexity(&model, &tokens, options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.tokens_scored, count);
        assert_eq!(found.tokens_evaluated, tokens.len());
        let mean = sum / count as f64;
        assert!(
            (found.mean_nll - mean).abs() < 1e-4,
            "{} with batches of {n_batch}, not {mean}",
            found.mean_nll
        );
    }
}
