//! `plmconv calibrate MODEL --text FILE -o STATS.gguf`, or with `--self N`

use std::time::Instant;

use anyhow::Result;
use plmconv_calibrate::Destination;
use plmconv_calibrate::statistics::{Statistics, merge};

use crate::error::{At, Place};
use crate::guidance::calibrate;
use crate::input::open_model;
use crate::report;
use crate::resolve::{CalibrateRequest, CalibrateTask};
use crate::run::thread_pool;

pub fn run(request: CalibrateRequest) -> Result<()> {
    let CalibrateRequest { task, output, overwrite, json, console } = request;
    let started = Instant::now();
    match task {
        CalibrateTask::Text { model, text, resume, threads } => {
            let model = open_model(&model, console)?;
            let text = text.read()?;
            let to = Destination { path: &output, overwrite, resume };
            thread_pool(threads)?
                .install(|| calibrate(&model, &text, to, console).at(Place::StatisticsOutput))?;
        }
        CalibrateTask::Merge(files) => merge(&files, &output, overwrite).at(Place::StatisticsOutput)?,
    }
    let statistics = Statistics::open(&output).at(Place::StatisticsOutput)?;
    report::calibration::print(&statistics, started.elapsed(), json)
}
