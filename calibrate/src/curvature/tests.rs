//! The layers equal the evaluator's, and their gradients equal differences of their results.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::*;
use plmconv_validate::network::Products;
use plmconv_validate::{Evaluator, Options, Point, Sequence, Site};

fn tiny() -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-plm");
    Model::open(folder).expect("the fixture is a PLM")
}

fn windows(count: usize, len: usize) -> Vec<Vec<u32>> {
    (0..count).map(|w| (0..len).map(|t| ((w * 977 + t * 131) % 4000) as u32).collect()).collect()
}

fn source<'a>(model: &'a Model, windows: &'a [Vec<u32>]) -> Source<'a> {
    Source { model, windows, seed: 1, scratch: scratch() }
}

/// The system's temporary folder; what is there has no name, so nothing is left.
fn scratch() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(std::env::temp_dir);
    &FOLDER
}

/// With products in f32 throughout.
fn exact_run<'a>(model: &'a Model, windows: &'a [Vec<u32>]) -> Run<'a> {
    let mut run = Run::new(model, windows).expect("valid windows");
    run.shape.products = Products::new(true);
    run
}

fn spill(run: &Run<'_>) -> Spill {
    Spill::new(scratch(), run.token_count() * run.shape.hidden).expect("a temporary file")
}

#[test]
fn layers_compute_what_the_evaluator_computes() {
    let model = tiny();
    let windows = windows(3, 24);
    let run = exact_run(&model, &windows);
    let mut spill = spill(&run);
    for index in 0..run.shape.layers {
        run.forward_layer(index, &mut spill).expect("finite");
    }
    let evaluator = Evaluator::load(&model, Options { exact: true, ..Options::default() }).expect("a PLM");
    for (w, window) in windows.iter().enumerate() {
        let mut expected = vec![Vec::new(); run.shape.layers];
        let mut observer = |site: Site, values: &[f32]| {
            if let (Some(layer), Point::LayerOutput) = (site.layer, site.point) {
                expected[layer] = values.to_vec();
            }
        };
        let mut batch = [Sequence { tokens: window, cache: None, wanted: 0..window.len() }];
        evaluator.hidden(&mut batch, Some(&mut observer)).expect("finite");
        for (layer, expected) in expected.iter().enumerate() {
            let mut ours = vec![0.0; expected.len()];
            spill.read(layer + 1, w * expected.len(), &mut ours).expect("written above");
            let peak = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in ours.iter().zip(expected) {
                assert!((a - b).abs() < 1e-4 * peak, "window {w}, layer {layer}: {a} {b}");
            }
        }
    }
}

#[test]
fn gradients_equal_differences() {
    let model = tiny();
    let windows = windows(2, 16);
    let run = exact_run(&model, &windows);
    let mut spill = spill(&run);
    run.forward_layer(0, &mut spill).expect("finite");
    let mut hidden = vec![0.0; run.token_count() * run.shape.hidden];
    spill.read(1, 0, &mut hidden).expect("written above");
    let weights = LayerWeights::load(&model, 1).expect("a layer");
    let wave = |seed: usize, at: usize| ((at * (2 * seed + 3)) as f32 * 0.37).sin();
    let result = |hidden: &[f32]| {
        let mut out = vec![0.0; hidden.len()];
        layer::forward(&run.shape, &weights, hidden, None).output(&run.shape.products, &weights, &mut out);
        out.iter().enumerate().map(|(i, x)| f64::from(x * wave(1, i))).sum::<f64>()
    };
    let mut gradient: Vec<f32> = (0..hidden.len()).map(|i| wave(1, i)).collect();
    let state = layer::forward(&run.shape, &weights, &hidden, None);
    let mut sites = layer::Sites::new(1, &weights);
    layer::backward(&run.shape, &weights, &state, &hidden, &mut gradient, &mut sites);
    for seed in 2..6 {
        let moved = |step: f32| -> Vec<f32> {
            hidden.iter().enumerate().map(|(i, x)| x + step * wave(seed, i)).collect()
        };
        let step = 2e-3;
        let difference = (result(&moved(step)) - result(&moved(-step))) / f64::from(2.0 * step);
        let along: f64 = gradient.iter().enumerate().map(|(i, g)| f64::from(g * wave(seed, i))).sum();
        assert!((difference - along).abs() < 2e-2 * along.abs().max(1.0), "{difference} {along}");
    }
}

#[test]
fn threads_change_nothing_and_all_sites_are_reported() {
    let model = tiny();
    let windows = windows(4, 32);
    let collect = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut sites = Vec::new();
        pool.install(|| {
            measure(source(&model, &windows), None, |event| {
                if let Event::Site(site) = event {
                    sites.push(site);
                }
                Ok(())
            })
        })
        .expect("finite");
        sites
    };
    let (one, three) = (collect(1), collect(3));
    let mut keys: Vec<_> = one.iter().map(|s| s.key).collect();
    keys.sort_unstable();
    let mut expected: Vec<_> = sites(6).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    for (a, b) in one.iter().zip(&three) {
        assert_eq!(a.inputs, b.inputs, "{}", a.key);
        assert_eq!(a.outputs, b.outputs, "{}", a.key);
        assert_eq!(a.tokens, 128);
        assert!(a.square_sums.iter().any(|&x| x > 0.0));
    }
}

#[test]
fn rounding_operands_to_16_bits_moves_no_statistics() {
    let model = tiny();
    let windows = windows(4, 32);
    let collect = |run: &Run<'_>| {
        let mut sites = Vec::new();
        // With this seed no token is drawn that lies between two sums so close to each other.
        let source = Source { seed: 4, ..source(&model, &windows) };
        measure_with(run, source, None, |event| {
            if let Event::Site(site) = event {
                sites.push(site);
            }
            Ok(())
        })
        .expect("finite");
        sites
    };
    let rounded = collect(&Run::new(&model, &windows).expect("valid windows"));
    let exact = collect(&exact_run(&model, &windows));
    let distance = |a: &[f32], b: &[f32]| {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let apart: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        (apart / b.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
    };
    for (a, b) in rounded.iter().zip(&exact) {
        let key = a.key;
        let outputs =
            |site: &'_ SiteMoments| site.outputs.as_ref().map_or(vec![1.0], |o| o.values().to_vec());
        for (a, b) in [
            (a.inputs.values().to_vec(), b.inputs.values().to_vec()),
            (outputs(a), outputs(b)),
            (a.square_sums.clone(), b.square_sums.clone()),
        ] {
            assert!(distance(&a, &b) < 3e-3, "{key}: {}", distance(&a, &b));
        }
    }
}

#[test]
fn going_on_gives_the_rest_of_the_same_statistics() {
    let model = tiny();
    let windows = windows(3, 32);
    let mut all = Vec::new();
    let mut position = None;
    measure(source(&model, &windows), None, |event| {
        match event {
            Event::Site(site) => all.push(site),
            Event::Boundary { layers_left: 3, gradient } => {
                position = Some(Position { layers_left: 3, gradient: gradient.to_vec() });
            }
            _ => {}
        }
        Ok(())
    })
    .expect("finite");
    let position = position.expect("reported");
    let mut rest = Vec::new();
    measure(source(&model, &windows), Some(&position), |event| {
        if let Event::Site(site) = event {
            rest.push(site);
        }
        Ok(())
    })
    .expect("finite");
    assert_eq!(rest.len(), 3 * 6);
    for (a, b) in all[all.len() - rest.len()..].iter().zip(&rest) {
        assert_eq!(a.key, b.key);
        assert_eq!(a.inputs, b.inputs, "{}", a.key);
        assert_eq!(a.outputs, b.outputs, "{}", a.key);
    }
    let other = measure(source(&model, &windows[1..]), Some(&position), |_| Ok(()));
    assert!(matches!(other, Err(Error::ForeignPosition)));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let model = tiny();
    let run = |windows: &[Vec<u32>]| measure(source(&model, windows), None, |_| Ok(()));
    assert!(matches!(run(&[]), Err(Error::Windows)));
    assert!(matches!(run(&[vec![1, 2], vec![1]]), Err(Error::Windows)));
    assert!(matches!(
        run(&[vec![1, 5000]]),
        Err(Error::Validate(EvaluatorError::TokenOutOfRange { token: 5000, .. }))
    ));
}
