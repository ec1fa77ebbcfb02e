//! Values that are not finite are found on the way, with the layer's name.

mod common;

use std::ops::Range;
use std::sync::Arc;

use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Role, TensorKey};
use plmconv_validate::{Error, Evaluator, Options, Point, Sequence};

/// Another source with one row of NaN.
#[derive(Debug)]
struct Poisoned(Arc<dyn RowSource>, usize);

impl RowSource for Poisoned {
    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> plmconv_formats::Result<()> {
        self.0.read_rows(rows.clone(), out)?;
        if rows.contains(&self.1) {
            let start = (self.1 - rows.start) * self.row_bytes();
            out[start..start + self.row_bytes()].fill(0xff);
        }
        Ok(())
    }
}

fn run(key: TensorKey, row: usize, exact: bool) -> Error {
    let mut model = common::tiny_plm();
    let tensor = model.tensors.iter_mut().find(|t| t.key == key).expect("the tensor");
    tensor.source = Arc::new(Poisoned(tensor.source.clone(), row));
    let evaluator = Evaluator::load(&model, Options { exact, ..Options::default() }).expect("loads");
    let tokens: Vec<u32> = (1..40).collect();
    let batch = &mut [Sequence { tokens: &tokens, wanted: 30..32, cache: None }];
    evaluator.forward(batch).expect_err("NaN is an error")
}

#[test]
fn the_layer_is_named() {
    for exact in [true, false] {
        for role in [Role::Query, Role::KvA, Role::KvB, Role::AttentionOutput, Role::FfnUp, Role::FfnDown] {
            match run(TensorKey::in_layer(3, role), 5, exact) {
                Error::NonFinite { site, .. } => assert_eq!(site.layer, Some(3), "{role:?}"),
                other => panic!("{role:?}, exact {exact}: {other}"),
            }
        }
    }
}

#[test]
fn an_embedding_row_is_found_where_it_is_read() {
    let key = TensorKey::global(Role::TokenEmbedding);
    assert!(matches!(run(key, 2, true), Error::NonFinite { site, token: 1 } if site.layer == Some(0)));
    assert!(matches!(run(key, 4000, true), Error::NonFiniteLogits { row: 0 }));
    assert!(matches!(run(key, 4000, false), Error::NonFiniteLogits { row: 0 }));
}

#[test]
fn the_message_says_where() {
    let message = run(TensorKey::in_layer(2, Role::FfnUp), 0, true).to_string();
    assert!(message.contains("layer 2"), "{message}");
    let site = plmconv_validate::Site::in_layer(1, Point::FfnUp);
    assert_eq!(site.to_string(), "in layer 1, after the up projection");
}
