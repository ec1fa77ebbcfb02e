//! Plots as SVG. The page's style sheet finds their colours by value and replaces them by its own, which know of
//! light and dark; the values here are what is seen without one.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Bin, LayerReport, Stretch};

const SIZE: (u32, u32) = (860, 280);
/// `--accent` of the page.
const BLUE: RGBColor = RGBColor(46, 111, 187);
/// `--bad` of the page.
const RED: RGBColor = RGBColor(207, 34, 46);
const GREY: RGBColor = RGBColor(128, 128, 128);
/// Height of letters, in the plot's own pixels.
const LETTERS: u32 = 15;

/// Number of tokens over the logarithm of their divergence; `mean` and its `limit` are marked.
pub fn histogram(bins: &[Bin], mean: f64, limit: f64) -> Result<String> {
    let bins = shown(bins, mean, limit);
    let (first, last) = (bins[0].from.log10(), bins[bins.len() - 1].to.log10());
    let top = bins.iter().map(|b| b.tokens).max().unwrap_or(0).max(1) as f64 * 1.15;
    draw((first..last, 0.0..top), ("KL divergence of a token (nats)", "tokens"), power, |chart| {
        chart.draw_series(bins.iter().map(|b| {
            let corners = [(b.from.log10() + 0.02, 0.0), (b.to.log10() - 0.02, b.tokens as f64)];
            Rectangle::new(corners, BLUE.filled())
        }))?;
        // One name is below the other, as the lines may be close.
        let marks = [("mean", mean, GREY, 0.98), ("limit of the mean", limit, RED, 0.88)];
        for (name, value, colour, height) in marks {
            let x = value.log10();
            if (first..last).contains(&x) {
                chart.draw_series([PathElement::new([(x, 0.0), (x, top)], colour.stroke_width(2))])?;
                let place = (x + 0.03, top * height);
                chart.draw_series([Text::new(name, place, ("sans-serif", LETTERS).into_font())])?;
            }
        }
        Ok(())
    })
}

/// The bins from the first to the last that holds tokens or a mark, and one on each side.
fn shown(bins: &[Bin], mean: f64, limit: f64) -> &[Bin] {
    let holds = |b: &Bin| b.tokens > 0 || [mean, limit].iter().any(|x| (b.from..b.to).contains(x));
    let first = bins.iter().position(holds).unwrap_or(0);
    let last = bins.iter().rposition(holds).unwrap_or(bins.len() - 1);
    &bins[first.saturating_sub(1)..(last + 2).min(bins.len())]
}

/// Mean divergence of each stretch.
pub fn along_text(stretches: &[Stretch]) -> Result<String> {
    let end = stretches.last().map_or(1, |s| s.first + s.tokens) as f64;
    let top = top(stretches.iter().map(|s| s.mean));
    let plot = draw(
        (0.0..end, 0.0..top),
        ("scored token", "mean KL divergence"),
        |x| mark(*x, end),
        |chart| {
            // A line from one stretch to the next, with gaps where there is no number.
            let point = |s: &Stretch| (s.first as f64 + s.tokens as f64 / 2.0, s.mean);
            for stretches in stretches.split(|s| !is_drawn(s.mean)) {
                chart.draw_series(LineSeries::new(stretches.iter().map(point), BLUE.stroke_width(2)))?;
            }
            Ok(())
        },
    )?;
    let missing = stretches.iter().filter(|s| !is_drawn(s.mean)).map(|s| format!("from token {}", s.first));
    Ok(plot + &not_drawn(missing))
}

/// Relative squared error of the residual stream after each layer.
pub fn layers(layers: &[LayerReport]) -> Result<String> {
    let top = top(layers.iter().map(|l| l.relative_error));
    let end = layers.len() as f64 - 0.5;
    let plot = draw(
        (-0.5..end, 0.0..top),
        ("layer", "relative squared error"),
        |x| mark(*x, end),
        |chart| {
            chart.draw_series(layers.iter().filter(|l| is_drawn(l.relative_error)).map(|l| {
                let x = l.layer as f64;
                Rectangle::new([(x - 0.4, 0.0), (x + 0.4, l.relative_error)], BLUE.filled())
            }))?;
            Ok(())
        },
    )?;
    let missing = layers.iter().filter(|l| !is_drawn(l.relative_error)).map(|l| format!("layer {}", l.layer));
    Ok(plot + &not_drawn(missing))
}

/// True for what an axis can hold. Beyond that a number says nothing, and the axis' own sums overflow.
fn is_drawn(value: f64) -> bool {
    value.is_finite() && value.abs() < 1e30
}

/// The upper end of an axis.
fn top(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|value| is_drawn(*value)).fold(1e-12, f64::max) * 1.1
}

/// A line under a plot that says what is not in it.
fn not_drawn(mut places: impl Iterator<Item = String>) -> String {
    let Some(first) = places.next() else { return String::new() };
    let more = match places.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("<p>not finite, so not drawn: {first}{more}</p>")
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
    let end = ranges.1.end;
    let drawn = (|| {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(52)
            .y_label_area_size(88)
            .build_cartesian_2d(ranges.0, ranges.1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style(("sans-serif", LETTERS))
            .axis_desc_style(("sans-serif", LETTERS))
            .x_desc(names.0)
            .y_desc(names.1)
            .x_label_formatter(&|x| x_label(x))
            .y_label_formatter(&|y| mark(*y, end))
            .draw()?;
        series(&mut chart)?;
        area.present()
    })();
    drawn.map_err(|e: DrawError| anyhow!("drawing a plot: {e}"))?;
    Ok(svg)
}

/// Whole powers of ten; marks between them have no name.
fn power(exponent: &f64) -> String {
    if (exponent - exponent.round()).abs() < 1e-6 { format!("1e{exponent:.0}") } else { String::new() }
}

/// A mark of an axis that ends at `end`: all of an axis in one form, without the digits that rounding leaves.
fn mark(value: f64, end: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !(0.01..1e5).contains(&end) {
        return format!("{value:.1e}");
    }
    let digits = format!("{value:.6}");
    digits.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_said() {
        let layer = |layer, relative_error| LayerReport { layer, relative_error, added: 0.0 };
        let some = layers(&[layer(0, 0.5), layer(1, f64::INFINITY), layer(2, f64::NAN)]).expect("drawn");
        assert!(some.contains("not drawn: layer 1 and 1 more") && some.contains("<svg"));
        let none = layers(&[layer(0, f64::NAN), layer(1, 1e300), layer(2, f64::MAX)]).expect("drawn");
        assert!(none.contains("not drawn: layer 0 and 2 more"));
        let stretch = |first, mean| Stretch { first, tokens: 2, mean, max: mean };
        let line = along_text(&[stretch(0, 0.1), stretch(2, f64::NAN), stretch(4, 0.2)]).expect("drawn");
        assert!(line.contains("not drawn: from token 2"));
        assert!(along_text(&[]).is_ok() && layers(&[layer(0, 0.0)]).is_ok());
        let bins = [Bin { from: 1e-3, to: 1e-2, tokens: 3 }, Bin { from: 1e-2, to: 1e-1, tokens: 0 }];
        assert!(histogram(&bins, f64::NAN, f64::INFINITY).is_ok());
        assert!(histogram(&bins, 0.0, -1.0).is_ok());
    }

    #[test]
    fn marks_have_no_digits_of_rounding() {
        assert_eq!(mark(0.060000000000000005, 0.09), "0.06");
        assert_eq!([mark(0.0, 1e-4), mark(2e-5, 1e-4)], ["0", "2.0e-5"]);
        assert_eq!([mark(0.008, 0.012), mark(0.01, 0.012)], ["0.008", "0.01"]);
        assert_eq!(mark(20000.0, 30000.0), "20000");
    }

    #[test]
    fn only_the_filled_part_of_the_axis_is_shown() {
        let bin = |i: i32, tokens| Bin { from: 10f64.powi(i), to: 10f64.powi(i + 1), tokens };
        let bins: Vec<_> = (-8..2).map(|i| bin(i, usize::from(i == -4))).collect();
        assert_eq!((power(&-3.0), power(&-2.5)), ("1e-3".into(), String::new()));
        let shown = shown(&bins, 2e-4, 2e-2);
        assert_eq!((shown[0].from, shown[shown.len() - 1].from), (1e-5, 1e-1));
        let svg = histogram(&bins, 2e-4, 2e-2).expect("drawn");
        assert!(svg.contains("limit of the mean"));
        // Colours that the style sheet replaces.
        assert!(svg.contains("#2E6FBB") && svg.contains("#CF222E"));
    }
}
