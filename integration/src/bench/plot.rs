//! Plots as SVG inside a page: rates as bars with their samples, ratios with their intervals.

use std::fmt::Write as _;

use super::result::Samples;
use super::sums::{Ratio, Spread};

/// A ratio with what it is to reach.
pub(super) struct Mark<'a> {
    pub(super) name: &'a str,
    pub(super) ratio: Ratio,
    pub(super) target: f64,
    /// The class of its colour.
    pub(super) kind: &'static str,
}

/// A bar up to the median of each series, its samples as dots, from the least to the most as a line.
pub(super) fn bars(series: &[Samples]) -> String {
    let most = series.iter().flat_map(|one| &one.mpps).fold(0.0, |most: f64, rate| most.max(*rate));
    let axis = Axis::up_to(most);
    let height = ROW * count(series.len()) + 34.0;
    let mut svg = open(height, "Millions of frames a second");
    axis.grid(&mut svg, height - 30.0, number);
    for (row, Samples { name, mpps }) in series.iter().enumerate() {
        let y = ROW * count(row) + ROW / 2.0 + 4.0;
        let Spread { median, min, max } = Spread::of(mpps);
        let (left, right) = (axis.at(min), axis.at(max));
        let kind = if name == "limit" { "bar limit" } else { "bar" };
        let _ = write!(
            svg,
            "<text class=name x={x} y={text} text-anchor=end>{name}</text>\
             <rect class=\"{kind}\" x={LEFT} y={top} width={width:.1} height=20 rx=3><title>{name}: median {median:.2}, {min:.2} to {max:.2} M/s</title></rect>\
             <path class=whisker d=\"M{left:.1} {y}H{right:.1}M{left:.1} {a}v8M{right:.1} {a}v8\"/>",
            x = LEFT - 10.0,
            text = y + 4.5,
            top = y - 10.0,
            width = axis.at(median) - LEFT,
            a = y - 4.0,
        );
        for (turn, rate) in mpps.iter().enumerate() {
            // Beside each other where they would cover each other.
            let aside = [-5.0, 0.0, 5.0][turn % 3];
            let _ = write!(
                svg,
                "<circle class=dot cx={:.1} cy={:.1} r=3><title>round {}: {rate:.2} M/s</title></circle>",
                axis.at(*rate),
                y + aside,
                turn + 1
            );
        }
        let _ = write!(svg, "<text class=value x={:.1} y={}>{median:.1}</text>", axis.at(max) + 8.0, y + 4.5);
    }
    svg + "</svg>"
}

/// A line from the lower to the upper end of each interval, a dot at the median, a tick where it is to get to.
pub(super) fn intervals(marks: &[Mark<'_>]) -> String {
    let ends = marks.iter().flat_map(|mark| [mark.ratio.ci95[1], mark.target]);
    let axis = Axis::up_to(ends.fold(1.0, f64::max).min(FARTHEST));
    let height = THIN * count(marks.len()) + 34.0;
    let mut svg = open(height, "Ratios with their intervals and targets");
    axis.grid(&mut svg, height - 30.0, |value| format!("{}×", number(value)));
    let one = axis.at(1.0);
    let _ = write!(svg, "<path class=one d=\"M{one:.1} 0V{}\"/>", height - 30.0);
    for (row, Mark { name, ratio, target, kind }) in marks.iter().enumerate() {
        let y = THIN * count(row) + THIN / 2.0 + 2.0;
        let ([low, high], median) = (ratio.ci95, ratio.median);
        let _ = write!(
            svg,
            "<text class=name x={x} y={text} text-anchor=end>{name}</text>\
             <path class=target d=\"M{goal:.1} {top}v16\"><title>target {target}</title></path>\
             <g class={kind}><title>{name}: {median:.3} ({low:.3} to {high:.3}), target {target}</title>\
             <path class=span d=\"M{left:.1} {y}H{right:.1}\"/><circle cx={middle:.1} cy={y} r=4.5 /></g>",
            x = LEFT - 10.0,
            text = y + 4.0,
            goal = axis.at(*target),
            top = y - 8.0,
            left = axis.at(low),
            right = axis.at(high),
            middle = axis.at(median),
        );
    }
    svg + "</svg>"
}

/// From 0 on, to the right.
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    fn up_to(most: f64) -> Self {
        let most = most.max(f64::MIN_POSITIVE);
        // Steps of 1, 2 or 5 times a power of ten, so that there are at most eight.
        let power = 10f64.powf((most / 8.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| most / step <= 8.0);
        let step = step.unwrap_or(most);
        Self { end: (most / step).ceil() * step, step }
    }

    /// Where a value is, in the picture; what lies beyond the end is at the end.
    fn at(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (value / self.end).clamp(0.0, 1.0)
    }

    fn grid(&self, svg: &mut String, bottom: f64, name: impl Fn(f64) -> String) {
        let mut value = 0.0;
        while value <= self.end + self.step / 2.0 {
            let x = self.at(value);
            let text = name(value);
            let _ = write!(
                svg,
                "<path class=grid d=\"M{x:.1} 0V{bottom}\"/><text class=tick x={x:.1} y={y} text-anchor=middle>{text}</text>",
                y = bottom + 18.0
            );
            value += self.step;
        }
    }
}

fn open(height: f64, what: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=img aria-label=\"{what}\" xmlns=\"http://www.w3.org/2000/svg\">"
    )
}

/// As short as it can be said.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "there are not so many rows")]
const fn count(rows: usize) -> f64 {
    rows as f64
}

const WIDTH: f64 = 960.0;
/// Where names end and bars begin.
const LEFT: f64 = 190.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 60.0;
const ROW: f64 = 36.0;
const THIN: f64 = 24.0;
/// What goes farther is shown at the end of the axis.
const FARTHEST: f64 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_few_round_steps_and_holds_everything() {
        for most in [0.03, 0.9, 1.0, 7.3, 64.0, 118.2, 999.0] {
            let axis = Axis::up_to(most);
            let steps = axis.end / axis.step;
            assert!(axis.end >= most && (1.0..=9.0).contains(&steps), "{most}: {} by {}", axis.end, axis.step);
            assert!(axis.at(0.0) == LEFT && axis.at(most) <= WIDTH - RIGHT);
        }
        assert_eq!((number(0.5), number(20.0), number(1.25)), ("0.5".into(), "20".into(), "1.25".into()));
    }

    #[test]
    fn every_sample_is_a_dot() {
        let series = [("one", vec![1.0, 2.0, 3.0]), ("other", vec![4.0])];
        let series = series.map(|(name, mpps)| Samples { name: name.to_owned(), mpps });
        let svg = bars(&series);
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect").count()), (4, 2));
    }
}
