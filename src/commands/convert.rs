//! `plmconv convert MODEL --to gguf|onnx|safetensors`, `plmconv convert ADAPTER --to gguf-lora --base MODEL`

use anyhow::Result;
use plmconv_calibrate::Rounding;

use super::write;
use crate::checkpoint::CheckpointPlan;
use crate::error::{At, Place};
use crate::input::open_model;
use crate::onnx::OnnxDraft;
use crate::plan::{Draft, Plan};
use crate::resolve::{ConvertRequest, ConvertTarget};
use crate::target::AnyTarget;

pub fn run(request: ConvertRequest) -> Result<()> {
    let ConvertRequest { model, target, inputs, run } = request;
    let open = || open_model(&model, run.console);
    match target {
        ConvertTarget::Adapter { target, base } => {
            let plan = Plan::of_adapter(&model.path, &base, &target)?;
            write::run(&plan, &inputs, run)
        }
        ConvertTarget::Checkpoint(target) => {
            let plan = CheckpointPlan::new(open()?, &target).at(Place::Model)?;
            write::run_checkpoint(&plan, &inputs, run)
        }
        ConvertTarget::Runtime(AnyTarget::Gguf(target)) => {
            let model = open()?;
            let plan = || Draft::new(model, target, false)?.finish(Rounding::default(), None);
            let plan = run.pool()?.install(plan).at(Place::GgufMetadata)?;
            write::run(&plan, &inputs, run)
        }
        ConvertTarget::Runtime(AnyTarget::Onnx(target)) => {
            let model = open()?;
            let plan = || OnnxDraft::new(model, target)?.finish(Rounding::default(), None);
            let plan = run.pool()?.install(plan).at(Place::Model)?;
            write::run_onnx(&plan, &inputs, run)
        }
    }
}
