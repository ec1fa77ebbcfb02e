//! Plots as SVG. Colours of lines and texts come from the page's style sheet where it sets them.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Bin, LayerReport, Stretch};

const SIZE: (u32, u32) = (860, 280);
const BLUE: RGBColor = RGBColor(46, 111, 187);
const GREY: RGBColor = RGBColor(128, 128, 128);

/// Number of tokens over the logarithm of their divergence.
pub fn histogram(bins: &[Bin]) -> Result<String> {
    let (first, last) = (bins[0].from.log10(), bins[bins.len() - 1].to.log10());
    let most = bins.iter().map(|b| b.tokens).max().unwrap_or(0) as f64;
    draw(
        (first..last, 0.0..most.max(1.0) * 1.08),
        ("KL divergence of a token (nats)", "tokens"),
        power,
        |chart| {
            chart.draw_series(bins.iter().map(|b| {
                let corners = [(b.from.log10() + 0.02, 0.0), (b.to.log10() - 0.02, b.tokens as f64)];
                Rectangle::new(corners, BLUE.filled())
            }))?;
            Ok(())
        },
    )
}

/// Mean divergence of each stretch.
pub fn along_text(stretches: &[Stretch]) -> Result<String> {
    let end = stretches.last().map_or(1, |s| s.first + s.tokens) as f64;
    let top = stretches.iter().map(|s| s.mean).fold(0.0, f64::max).max(1e-12) * 1.1;
    draw(
        (0.0..end, 0.0..top),
        ("scored token", "mean KL divergence"),
        |x| format!("{x}"),
        |chart| {
            let points = stretches.iter().map(|s| (s.first as f64 + s.tokens as f64 / 2.0, s.mean));
            chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2)))?;
            Ok(())
        },
    )
}

/// Relative squared error of the residual stream after each layer.
pub fn layers(layers: &[LayerReport]) -> Result<String> {
    let top = layers.iter().map(|l| l.relative_error).fold(0.0, f64::max).max(1e-12) * 1.1;
    let end = layers.len() as f64 - 0.5;
    draw(
        (-0.5..end, 0.0..top),
        ("layer", "relative squared error"),
        |x| format!("{x}"),
        |chart| {
            chart.draw_series(layers.iter().map(|l| {
                let x = l.layer as f64;
                Rectangle::new([(x - 0.4, 0.0), (x + 0.4, l.relative_error)], BLUE.filled())
            }))?;
            Ok(())
        },
    )
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;
type DrawError = DrawingAreaErrorKind<std::io::Error>;

fn draw(
    ranges: (std::ops::Range<f64>, std::ops::Range<f64>),
    names: (&str, &str),
    x_label: impl Fn(&f64) -> String,
    series: impl FnOnce(&mut Chart<'_, '_>) -> Result<(), DrawError>,
) -> Result<String> {
    let mut svg = String::new();
    let drawn = (|| {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(ranges.0, ranges.1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .x_desc(names.0)
            .y_desc(names.1)
            .x_label_formatter(&|x| x_label(x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        series(&mut chart)?;
        area.present()
    })();
    drawn.map_err(|e: DrawError| anyhow!("drawing a plot: {e}"))?;
    Ok(svg)
}

fn power(exponent: &f64) -> String {
    format!("1e{exponent:.0}")
}

fn short(value: f64) -> String {
    if value == 0.0 || (0.01..1e5).contains(&value) { format!("{value}") } else { format!("{value:.1e}") }
}
