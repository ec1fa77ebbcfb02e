use super::*;

const SHAPE: ModelShape = ModelShape { layers: 32, query_heads_per_kv_head: 1 };

fn tensor(name: &str, shape: &[usize]) -> TensorDesc {
    TensorDesc { name: name.to_owned(), shape: shape.to_vec(), source: DType::Bf16 }
}

/// A `plm` of `layers` layers and this width, deliberately not in llama.cpp's order.
fn plm(layers: usize, width: usize) -> Vec<TensorDesc> {
    let mut tensors = Vec::new();
    for layer in (0..layers).rev() {
        for (part, rows, cols) in [
            ("ffn_up", 4 * width, width),
            ("ffn_down", width, 4 * width),
            ("attn_q", 2 * width, width),
            ("attn_kv_b", 2 * width, 512),
            ("attn_kv_a_mqa", 576, width),
            ("attn_output", width, width),
        ] {
            tensors.push(tensor(&format!("blk.{layer}.{part}.weight"), &[rows, cols]));
        }
        tensors.push(tensor(&format!("blk.{layer}.attn_norm.weight"), &[width]));
    }
    tensors.push(tensor("token_embd.weight", &[1000, width]));
    tensors.push(tensor("output_norm.weight", &[width]));
    tensors
}

fn type_of(policy: &Policy, tensors: &[TensorDesc], name: &str) -> Assigned {
    let assigned = policy.assign(tensors, SHAPE).unwrap();
    let index = tensors.iter().position(|tensor| tensor.name == name).expect("named in the test");
    assigned[index].clone()
}

#[test]
fn layers_count_by_number_not_by_text() {
    // In text order blk.10 comes before blk.2, and Q4_K_S would favour the wrong layers.
    let mut names = ["blk.10.a", "blk.2.b", "token_embd", "blk.2.a", "output_norm"];
    names.sort_by(|a, b| quantizing_order(a, b));
    assert_eq!(names, ["output_norm", "token_embd", "blk.2.a", "blk.2.b", "blk.10.a"]);
}

#[test]
fn rows_that_do_not_fit_fall_back() {
    for (cols, chosen, expected) in [
        (512, DType::Q4K, DType::Q4K),
        (320, DType::Q2K, DType::Q4_0),
        (320, DType::Q3K, DType::Q4_0),
        (320, DType::Q4K, DType::Q5_0),
        (320, DType::Q5K, DType::Q5_1),
        (320, DType::Q6K, DType::Q8_0),
        (320, DType::Iq4Xs, DType::Iq4Nl),
        (320, DType::Tq1_0, DType::Q4_0),
        (320, DType::Iq1M, DType::Iq4Nl),
        (320, DType::Iq2Xs, DType::Iq4Nl),
        (320, DType::Iq3S, DType::Iq4Nl),
        (320, DType::Q2_0, DType::Q2_0),
        (352, DType::Q2_0, DType::Q4_0),
        (320, DType::Q1_0, DType::Q4_0),
        (352, DType::Nvfp4, DType::Mxfp4),
        (328, DType::Iq2S, DType::F16),
        (320, DType::Iq4Nl, DType::Iq4Nl),
        (328, DType::Q4_0, DType::F16),
        (328, DType::Q6K, DType::F16),
        (7, DType::F32, DType::F32),
    ] {
        assert_eq!(fitting(chosen, cols, Mixtures::Current), expected, "{chosen} {cols}");
    }
    for chosen in [DType::Q2K, DType::Q3K] {
        assert_eq!(fitting(chosen, 320, Mixtures::March2025), DType::Iq4Nl, "{chosen}");
    }
}

#[test]
fn a_narrow_tied_embedding() {
    // 320 is whole blocks of Q4_0, so the embedding becomes Q6_K and falls back from there.
    let tensors = plm(2, 320);
    let embedding = type_of(&Policy::preset(FileType::Q4_0), &tensors, "token_embd.weight");
    assert_eq!(embedding.dtype, DType::Q8_0);
    // And 320 is not whole super-blocks: Q8_0 from the start where the base type is a ternary one.
    let embedding = type_of(&Policy::preset(FileType::Tq2_0), &tensors, "token_embd.weight");
    assert_eq!((embedding.dtype, embedding.fallback_from), (DType::Q8_0, None));
}

#[test]
fn overrides_search_and_the_first_wins() {
    let mut policy = Policy::preset(FileType::Q4_0);
    policy.overrides =
        ["blk\\.[01]\\.ffn_down=q8_0", "FFN_=q5_1"].map(|o| parse_override(o).unwrap()).to_vec();
    let tensors = plm(3, 512);
    assert_eq!(type_of(&policy, &tensors, "blk.1.ffn_down.weight").dtype, DType::Q8_0);
    assert_eq!(type_of(&policy, &tensors, "blk.2.ffn_down.weight").dtype, DType::Q5_1);
    assert_eq!(type_of(&policy, &tensors, "blk.2.attn_q.weight").dtype, DType::Q4_0);
    let reason = type_of(&policy, &tensors, "blk.2.ffn_up.weight").reason;
    assert_eq!(reason, Reason::Override("FFN_".to_owned()));
}

#[test]
fn overrides_also_change_a_float_preset() {
    let mut policy = Policy::preset(FileType::F16);
    policy.overrides = vec![parse_override("ffn_down=q8_0").unwrap()];
    let tensors = plm(2, 512);
    assert_eq!(type_of(&policy, &tensors, "blk.1.ffn_down.weight").dtype, DType::Q8_0);
    assert_eq!(type_of(&policy, &tensors, "blk.1.ffn_up.weight").dtype, DType::F16);
    assert_eq!(type_of(&policy, &tensors, "blk.1.attn_norm.weight").dtype, DType::F32);
}

#[test]
fn a_pattern_that_matches_nothing_quantizable_is_an_error() {
    for pattern in ["ffn_gate=q8_0", "attn_norm=f16"] {
        let mut policy = Policy::preset(FileType::Q4_0);
        policy.overrides = vec![parse_override(pattern).unwrap()];
        let error = policy.assign(&plm(2, 512), SHAPE).unwrap_err();
        assert!(matches!(error, Error::UnmatchedPattern { .. }), "{error}");
    }
}

#[test]
fn overrides_are_checked_when_parsed() {
    assert!(matches!(parse_override("ffn_down"), Err(Error::MalformedOverride { .. })));
    assert!(matches!(parse_override("=q8_0"), Err(Error::MalformedOverride { .. })));
    assert!(matches!(parse_override("ffn_down="), Err(Error::MalformedOverride { .. })));
    assert!(matches!(parse_override("(=q8_0"), Err(Error::BadPattern { .. })));
    let error = parse_override("ffn_down=q80").unwrap_err().to_string();
    assert!(error.contains("q8_0"), "{error}");
}

#[test]
fn the_embedding_type_wins_over_everything() {
    let mut policy = Policy::preset(FileType::Q8_0);
    policy.token_embedding_type = Some(DType::Q5_0);
    policy.overrides = vec![parse_override("token_embd=f16").unwrap()];
    let embedding = type_of(&policy, &plm(2, 512), "token_embd.weight");
    assert_eq!((embedding.dtype, embedding.reason), (DType::Q5_0, Reason::TokenEmbedding));
}

#[test]
fn leading_dimensions_of_one_make_no_matrix() {
    let tensors = [tensor("blk.0.attn_q.weight", &[1, 256]), tensor("blk.0.attn_k_b.weight", &[4, 8, 256])];
    let assigned = Policy::preset(FileType::Q8_0).assign(&tensors, SHAPE).unwrap();
    assert_eq!([assigned[0].dtype, assigned[1].dtype], [DType::F32, DType::Q8_0]);
}

#[test]
fn importance_moves_the_first_layers_of_q4_0_to_q4_1() {
    let tensors = plm(32, 512);
    let mut policy = Policy::preset(FileType::Q4_0);
    policy.has_importance = true;
    for (layer, expected) in [(0, DType::Q4_1), (3, DType::Q4_1), (4, DType::Q4_0), (10, DType::Q4_0)] {
        let name = format!("blk.{layer}.ffn_down.weight");
        assert_eq!(type_of(&policy, &tensors, &name).dtype, expected, "{name}");
    }
}

/// An output matrix of its own: rare for a `plm`, but the mixtures know it.
#[test]
fn an_untied_embedding_has_a_type_of_its_own() {
    let mut tensors = plm(8, 512);
    tensors.push(tensor("output.weight", &[1000, 512]));
    for (file_type, embedding, output) in [
        (FileType::Iq1S, DType::Q2K, DType::Q5K),
        (FileType::Iq2Xs, DType::Q2K, DType::Q5K),
        (FileType::Iq2M, DType::Iq3S, DType::Q5K),
        (FileType::Iq3Xxs, DType::Iq3S, DType::Q5K),
        (FileType::Iq3M, DType::Iq3S, DType::Q6K),
        (FileType::Q2_0, DType::Q4K, DType::Q6K),
        (FileType::Q1_0, DType::Q1_0, DType::Q6K),
    ] {
        let policy = Policy { has_importance: true, ..Policy::preset(file_type) };
        let of = |name| type_of(&policy, &tensors, name).dtype;
        assert_eq!([of("token_embd.weight"), of("output.weight")], [embedding, output], "{file_type}");
    }
}

#[test]
fn inner_layers_of_iq3_xs_have_fewer_bits() {
    let policy = Policy { has_importance: true, ..Policy::preset(FileType::Iq3Xs) };
    let tensors = plm(32, 512);
    for (layer, expected) in [(3, DType::Iq3S), (4, DType::Iq3Xxs), (27, DType::Iq3Xxs), (28, DType::Iq3S)] {
        let name = format!("blk.{layer}.ffn_up.weight");
        assert_eq!(type_of(&policy, &tensors, &name).dtype, expected, "{name}");
    }
}

/// Whatever falls back needs no importance any more.
#[test]
fn narrow_models_of_low_presets_fall_back() {
    let mut policy = Policy::preset(FileType::Iq2Xxs);
    let tensors = plm(32, 320);
    let error = policy.assign(&tensors, SHAPE).unwrap_err();
    assert!(matches!(error, Error::NeedsImportance { .. }), "{error}");
    policy.has_importance = true;
    for (part, expected) in [
        ("attn_q", DType::Iq4Nl),
        ("attn_kv_b", DType::Q2K),
        ("ffn_up", DType::Iq4Nl),
        ("ffn_down", DType::Iq2Xxs),
    ] {
        assert_eq!(type_of(&policy, &tensors, &format!("blk.20.{part}.weight")).dtype, expected, "{part}");
    }
    assert_eq!(type_of(&policy, &tensors, "token_embd.weight").dtype, DType::Q8_0);
}

/// The file that the makers of PLM published: 290 tensors, 97 of them F32, 176 Q4_K and 17 Q6_K.
#[test]
fn the_published_file_has_the_mixture_of_march_2025() {
    let policy = Policy { mixtures: Mixtures::March2025, ..Policy::preset(FileType::Q4KM) };
    let mut tensors = plm(32, 2048);
    for layer in 0..32 {
        // The one in the list stands for attn_norm.
        for norm in ["attn_kv_a_norm", "ffn_norm"] {
            tensors.push(tensor(&format!("blk.{layer}.{norm}.weight"), &[2048]));
        }
    }
    let assigned = policy.assign(&tensors, SHAPE).unwrap();
    let count = |dtype| assigned.iter().filter(|assigned| assigned.dtype == dtype).count();
    assert_eq!((tensors.len(), count(DType::F32), count(DType::Q4K), count(DType::Q6K)), (290, 97, 176, 17));
    // Today's gives attn_kv_b more bits as well.
    let assigned = Policy::preset(FileType::Q4KM).assign(&tensors, SHAPE).unwrap();
    assert_eq!(assigned.iter().filter(|assigned| assigned.dtype == DType::Q6K).count(), 33);
}

#[test]
fn types_by_name_replace_the_mixture_and_are_complete() {
    let tensors = plm(2, 512);
    let mut types: BTreeMap<String, DType> =
        tensors.iter().map(|tensor| (tensor.name.clone(), DType::Q5_1)).collect();
    types.insert("blk.1.attn_q.weight".into(), DType::Q8_0);
    let mut policy = Policy { by_name: Some(types.clone()), ..Policy::preset(FileType::Q4KM) };
    assert_eq!(type_of(&policy, &tensors, "blk.1.attn_q.weight").dtype, DType::Q8_0);
    assert_eq!(type_of(&policy, &tensors, "token_embd.weight").dtype, DType::Q5_1);
    assert_eq!(type_of(&policy, &tensors, "output_norm.weight").dtype, DType::F32);
    policy.overrides = vec![parse_override("attn_q=q6_k").unwrap()];
    assert_eq!(type_of(&policy, &tensors, "blk.1.attn_q.weight").dtype, DType::Q6K);
    types.remove("blk.0.ffn_up.weight");
    let incomplete = Policy { by_name: Some(types), ..Policy::preset(FileType::Q4KM) };
    let error = incomplete.assign(&tensors, SHAPE).unwrap_err();
    assert!(matches!(&error, Error::UnnamedTensor { tensor } if tensor == "blk.0.ffn_up.weight"), "{error}");
}
