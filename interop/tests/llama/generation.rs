//! The file that the first command of the README writes runs.

use plmconv_interop::llama::{Batch, Level};
use plmconv_interop::speed::{SpeedOptions, speed};

use super::{Workspace, context};

#[test]
fn a_q4_file_continues_a_text() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q4");
    assert!(model.description().contains("Q4_K - Medium"), "q4 is {}", model.description());
    let mut context = context(&model);
    let prompt = model.tokenize("The film was released in", true, false).expect("plain text");
    let generated = context.generate_greedy(&prompt, 32).expect("the context has room for 37 tokens");

    // One token at a time through the cache gives what computing everything at once gives. Where the two likeliest
    // are closer than the rounding of different kernels, either is right.
    let whole: Vec<_> = prompt.iter().chain(&generated).copied().collect();
    let logits = context.logits_of(&whole).expect("the context has room for 37 tokens");
    let vocab = model.vocab_size();
    for (index, &token) in generated.iter().enumerate() {
        let row = &logits[(prompt.len() + index - 1) * vocab..][..vocab];
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let taken = row[usize::try_from(token).expect("ids are not negative")];
        assert!(best - taken < 0.05, "token {index} has logit {taken}, the likeliest {best}");
    }
    let text = model.detokenize(&generated).expect("tokens of the vocabulary");
    assert!(text.chars().filter(|letter| letter.is_ascii_lowercase()).count() > 32, "it writes `{text}`");
}

#[test]
fn llama_cpp_has_nothing_to_complain_about() {
    let workspace = Workspace::new();
    let file = workspace.tiny_plm("q4_k_m", &[]);
    let (_, lines) = plmconv_interop::llama::capture(|| {
        let model = super::load(&file);
        context(&model).logits_of(&[1, 2, 3]).expect("three tokens fit")
    });
    assert!(lines.iter().any(|line| line.text.contains("plm")), "the log was not caught");
    let complaints: Vec<_> = lines
        .iter()
        .filter(|line| line.level >= Level::Warning)
        // That a context is shorter than the model's is our choice.
        .filter(|line| !line.text.contains("n_ctx_seq (256) < n_ctx_train"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_cache_holds_keys_and_values_of_each_head() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q8_0");
    let mut context = context(&model);
    // 6 layers, 4 heads of 96 (keys) and 64 (values), two bytes each.
    let token = 6 * 4 * (96 + 64) * 2;
    let logged = context.kv_cache_bytes().expect("llama.cpp logs the size of its cache");
    assert!((logged - 256.0 * f64::from(token)).abs() < 0.01 * 1024.0 * 1024.0, "{logged} bytes");
    let mut bytes = |count: i32| {
        context.logits_of(&(1..=count).collect::<Vec<_>>()).expect("few tokens fit");
        context.sequence_state_bytes()
    };
    let (short, long) = (bytes(10), bytes(30));
    // Beside keys and values, a cell's position and sequence are saved: some bytes.
    let each = (long - short) / 20;
    assert!((token as usize..token as usize + 32).contains(&each), "{each} bytes a token");
}

#[test]
fn forgotten_tokens_leave_no_trace() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("f32");
    let mut context = context(&model);
    let expected = context.logits_of(&[10, 20, 30, 40]).expect("four tokens fit");
    context.logits_of(&[10, 20, 300, 400, 500]).expect("five tokens fit");
    assert!(context.forget_from(2));
    let mut batch = Batch::default();
    batch.push(30, 2, 0, false);
    batch.push(40, 3, 0, true);
    context.decode(&mut batch).expect("two tokens fit");
    let found = context.logits().expect("the last token's were asked for");
    let last = &expected[3 * model.vocab_size()..];
    let worst = last.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-3, "logits differ by {worst}");
}

#[test]
fn speed_is_measured_at_each_depth_once() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q8_0");
    let options = SpeedOptions {
        depths: vec![40, 0, 40],
        prompt: 20,
        generate: 3,
        n_batch: 16,
        threads: 1,
        flash_attention: false,
        compute_depths: true,
    };
    let measured = speed(&model, &options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(measured.speeds.iter().map(|speed| speed.depth).collect::<Vec<_>>(), [0, 40]);
    assert!(measured.speeds.iter().all(|speed| speed.prompt > 0.0 && speed.generate > 0.0));
    assert!(measured.kv_cache_bytes.is_some());
}
