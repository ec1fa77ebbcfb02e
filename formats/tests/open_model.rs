//! Opening checkpoints: the tiny PLM as it is, and variants of it written into a temporary folder.

use plmconv_formats::{Model, Role, TensorKey};

fn fixture() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-plm")
}

#[test]
fn tiny_plm_opens() {
    let model = Model::open(fixture()).expect("opens");
    assert_eq!(model.config.kv_lora_rank, 256);
    assert_eq!(model.tensors.len(), 56);
    assert_eq!(model.parameter_count(), 6_411_008);
    let up = model.tensor(TensorKey::in_layer(5, Role::FfnUp)).expect("up_proj");
    assert_eq!(up.shape, [1024, 256]);
}
