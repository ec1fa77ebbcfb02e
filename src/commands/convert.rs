//! `plmconv convert MODEL --to gguf|onnx|safetensors`

use anyhow::Result;
use plmconv_calibrate::Rounding;

use super::write;
use crate::checkpoint::CheckpointPlan;
use crate::error::{At, Place};
use crate::input::open_model;
use crate::onnx::OnnxDraft;
use crate::plan::Draft;
use crate::resolve::{ConvertRequest, ConvertTarget};
use crate::target::AnyTarget;

pub fn run(request: ConvertRequest) -> Result<()> {
    let ConvertRequest { model, target, inputs, run } = request;
    let model = open_model(&model, run.console)?;
    match target {
        ConvertTarget::Checkpoint(target) => {
            let plan = CheckpointPlan::new(model, &target).at(Place::Model)?;
            write::run_checkpoint(&plan, &inputs, run)
        }
        ConvertTarget::Runtime(AnyTarget::Gguf(target)) => {
            let plan = || Draft::new(model, target, false)?.finish(Rounding::default(), None);
            let plan = run.pool()?.install(plan).at(Place::GgufMetadata)?;
            write::run(&plan, &inputs, run)
        }
        ConvertTarget::Runtime(AnyTarget::Onnx(target)) => {
            let plan = || OnnxDraft::new(model, target)?.finish(Rounding::default(), None);
            let plan = run.pool()?.install(plan).at(Place::Model)?;
            write::run_onnx(&plan, &inputs, run)
        }
    }
}
