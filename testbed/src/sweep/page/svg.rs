//! Charts as SVG: a frame with axes, and what is drawn into it.

use super::scale::Scale;
use std::fmt::Write;

/// Room around the frame, in pixels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;
/// Colours of the palette, and ways to dash a line once they are used up.
const COLOURS: usize = 6;
const DASHES: usize = 3;
const SHAPES: usize = 5;

/// One side of a chart.
pub(super) struct Axis {
    pub(super) scale: Scale,
    /// With its unit.
    pub(super) label: String,
    /// How a tick is written.
    pub(super) tick: fn(f64) -> String,
}

/// A chart under way.
pub(super) struct Plot {
    width: f64,
    height: f64,
    x: Scale,
    y: Scale,
    body: String,
}

/// Text for HTML and XML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The look of the nth series: classes of the style sheet.
pub(super) fn look(n: usize) -> String {
    format!("c{} d{}", n % COLOURS, n / COLOURS % DASHES)
}

impl Plot {
    /// Draws frame, grid, ticks and labels.
    pub(super) fn new((width, height): (f64, f64), title: &str, x: &Axis, y: &Axis) -> Plot {
        let mut plot = Plot {
            width,
            height,
            x: x.scale,
            y: y.scale,
            body: String::new(),
        };
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        plot.text((LEFT, 18.0), "title", "start", title);
        for tick in y.scale.ticks() {
            let at = plot.at_y(tick);
            plot.add(&format!(
                r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#
            ));
            plot.text((LEFT - 6.0, at + 4.0), "tick", "end", &(y.tick)(tick));
        }
        for tick in x.scale.ticks() {
            let at = plot.at_x(tick);
            let end = bottom + 4.0;
            plot.add(&format!(
                r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{bottom}" y2="{end}"/>"#
            ));
            plot.text((at, bottom + 17.0), "tick", "middle", &(x.tick)(tick));
        }
        plot.add(&format!(
            r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>"#
        ));
        let middle = f64::midpoint(LEFT, right);
        plot.text((middle, height - 8.0), "label", "middle", &x.label);
        let middle = f64::midpoint(TOP, bottom);
        plot.add(&format!(
            r#"<text class="label" text-anchor="middle" transform="translate(14 {middle:.1}) rotate(-90)">{}</text>"#,
            escaped(&y.label)
        ));
        plot
    }

    fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.width - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - self.y.place(value) * (bottom - TOP)
    }

    fn text(&mut self, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
        self.add(&format!(
            r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{}</text>"#,
            escaped(text)
        ));
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (x, y) in points {
            // Writing to a String can't fail.
            let _ = write!(path, "{:.1},{:.1} ", self.at_x(*x), self.at_y(*y));
        }
        self.add(&format!(
            r#"<polyline class="line {class}" points="{}"/>"#,
            path.trim_end()
        ));
    }

    /// From the least to the most.
    pub(super) fn whisker(&mut self, class: &str, x: f64, (low, high): (f64, f64)) {
        let (x, low, high) = (self.at_x(x), self.at_y(low), self.at_y(high));
        let (left, right) = (x - 3.0, x + 3.0);
        self.add(&format!(
            r#"<path class="whisker {class}" d="M{x:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}H{right:.1}M{left:.1} {high:.1}H{right:.1}"/>"#
        ));
    }

    /// A point with a text that shows when it is pointed at.
    pub(super) fn marker(&mut self, class: &str, shape: usize, (x, y): (f64, f64), tip: &str) {
        let (x, y) = (self.at_x(x), self.at_y(y));
        self.add(&marker(class, shape, (x, y), tip));
    }

    /// A cross at the upper edge: a point that there is no value of.
    pub(super) fn cross(&mut self, x: f64, tip: &str) {
        let (x, y) = (self.at_x(x), TOP + 8.0);
        self.add(&format!(
            r#"<path class="cross" d="M{:.1} {:.1}l8 8m0 -8l-8 8"><title>{}</title></path>"#,
            x - 4.0,
            y - 4.0,
            escaped(tip)
        ));
    }

    /// The whole element.
    pub(super) fn finish(self) -> String {
        element((self.width, self.height), &self.body)
    }
}

/// An SVG element as wide as it says, or as the page allows.
pub(super) fn element((width, height): (f64, f64), body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\">\n{body}</svg>\n"
    )
}

fn marker(class: &str, shape: usize, (x, y): (f64, f64), tip: &str) -> String {
    let path = match shape % SHAPES {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
        1 => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
        2 => format!("M{x:.1} {:.1}l4.5 8h-9z", y - 5.0),
        3 => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
        _ => format!("M{x:.1} {:.1}l-4.5 -8h9z", y + 5.0),
    };
    format!(
        r#"<path class="marker {class}" d="{path}"><title>{}</title></path>"#,
        escaped(tip)
    )
}

/// What a legend shows of a series: line, marker and name.
pub(super) fn key(class: &str, shape: usize, name: &str) -> String {
    let line = format!("<polyline class=\"line {class}\" points=\"1,8 33,8\"/>\n");
    let body = line + &marker(class, shape, (17.0, 8.0), name) + "\n";
    format!(
        "<li>{}{}</li>\n",
        element((34.0, 16.0), &body),
        escaped(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(largest: f64) -> Axis {
        Axis {
            scale: Scale::linear(largest),
            label: "a & b".to_owned(),
            tick: |value| format!("{value}"),
        }
    }

    #[test]
    fn values_are_drawn_where_the_axes_say() {
        let mut plot = Plot::new((478.0, 276.0), "<t>", &axis(100.0), &axis(100.0));
        plot.line("c0", &[(0.0, 0.0), (105.0, 105.0)]);
        plot.marker("c0", 0, (52.5, 52.5), "middle");
        let svg = plot.finish();
        assert!(svg.contains(r#"points="62.0,230.0 462.0,30.0""#), "{svg}");
        assert!(svg.contains(r#"d="M258.0 130.0"#), "{svg}");
        assert!(
            svg.contains("&lt;t&gt;") && svg.contains("a &amp; b"),
            "{svg}"
        );
    }

    #[test]
    fn looks_repeat_late() {
        let mut looks: Vec<String> = (0..COLOURS * DASHES).map(look).collect();
        looks.sort_unstable();
        looks.dedup();
        assert_eq!(looks.len(), COLOURS * DASHES);
    }
}
