//! Pictures as SVG that is written by hand: no fonts of its own, no dependencies, legible on light and dark pages.

use std::fmt::Write as _;

pub(crate) const OURS: &str = "#2463c4";
pub(crate) const ETCD: &str = "#d9822b";
pub(crate) const INK: &str = "#24292f";
pub(crate) const PALE: &str = "#d8dee4";

/// Size of a picture, and the margins of what is drawn in it, in pixels.
pub(crate) const WIDTH: f64 = 760.0;
pub(crate) const HEIGHT: f64 = 400.0;
pub(crate) const LEFT: f64 = 84.0;
pub(crate) const RIGHT: f64 = 24.0;
pub(crate) const TOP: f64 = 64.0;
pub(crate) const BOTTOM: f64 = 72.0;

/// The next of 1, 2, 4, 5 or 8 times a power of ten.
pub(crate) fn nice_above(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|nice| *nice >= value).unwrap_or(value)
}

pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An SVG that is being drawn.
pub(crate) struct Canvas(String);

impl Canvas {
    pub(crate) fn new(title: &str, subtitle: &str, height: f64) -> Self {
        let mut canvas = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{title}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ));
        canvas.text(LEFT - 60.0, 26.0, "start", 17.0, title);
        canvas.text(LEFT - 60.0, 46.0, "start", 12.0, subtitle);
        canvas
    }

    /// Who has which colour, at the top right.
    pub(crate) fn legend(&mut self, sides: &[(&str, &str)]) {
        for (index, (who, colour)) in sides.iter().rev().enumerate() {
            let left = WIDTH - RIGHT - 70.0 - index as f64 * 110.0;
            self.rectangle(left, 14.0, 14.0, 14.0, colour);
            self.text(left + 20.0, 26.0, "start", 13.0, who);
        }
    }

    pub(crate) fn grid_line(&mut self, y: f64, label: &str) {
        self.line((LEFT, y), (WIDTH - RIGHT, y), PALE, 1.0);
        self.text(LEFT - 8.0, y + 4.0, "end", 12.0, label);
    }

    pub(crate) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _infallible = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.polyline(&[from, to], colour, width);
    }

    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _infallible = writeln!(
            self.0,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width:.1}\"/>"
        );
    }

    /// The text is ours: it has no characters that XML reserves.
    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, text: &str) {
        let _infallible = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{INK}\">{text}</text>"
        );
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_numbers_are_grouped() {
        assert_eq!([nice_above(1.0), nice_above(31_000.0), nice_above(81_000.0)], [1.0, 40_000.0, 100_000.0]);
        assert_eq!([thousands(7.0), thousands(1_234.0), thousands(1_234_567.0)], ["7", "1,234", "1,234,567"]);
    }
}
