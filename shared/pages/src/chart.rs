//! Small charts in SVG. Each has a text that says the same, for readers who do not see it.

use askama::Template;

/// Width of a chart, in units of its view box.
const WIDTH: f64 = 300.0;

/// Height of a chart, likewise.
const HEIGHT: f64 = 60.0;

/// Bars over time, the oldest first.
#[derive(Template)]
#[template(path = "bars.html")]
pub struct Bars<'c> {
    /// Title.
    pub title: &'c str,
    /// Sentence with the same content.
    pub summary: &'c str,
    /// Highest value, with its unit.
    pub highest: &'c str,
    bars: Vec<Bar>,
}

struct Bar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl<'c> Bars<'c> {
    /// Creates a chart of these values.
    #[must_use]
    pub fn new(title: &'c str, summary: &'c str, highest: &'c str, values: &[u64]) -> Self {
        let most = values.iter().copied().max().unwrap_or_default();
        Self {
            title,
            summary,
            highest,
            bars: bars(values, most),
        }
    }
}

/// Returns the bars of these values, of which `most` fills the height.
fn bars(values: &[u64], most: u64) -> Vec<Bar> {
    let step = WIDTH / values.len().max(1) as f64;
    let shown = values.iter().enumerate().filter(|(_, value)| **value > 0);
    let bars = shown.map(|(number, value)| {
        // A small value is still visible.
        let height = round((*value as f64 / most.max(1) as f64 * HEIGHT).max(1.5));
        Bar {
            x: round(number as f64 * step),
            y: round(HEIGHT - height),
            width: round((step - 1.0).max(1.0)),
            height,
        }
    });
    bars.collect()
}

/// Lines over time, the oldest first; `None` is a gap.
#[derive(Template)]
#[template(path = "lines.html")]
pub struct Lines<'c> {
    /// Title.
    pub title: &'c str,
    /// Sentence with the same content.
    pub summary: &'c str,
    /// Highest value, with its unit.
    pub highest: &'c str,
    lines: Vec<Series<'c>>,
}

struct Series<'c> {
    name: &'c str,
    number: usize,
    /// Points of each part without a gap, as SVG writes them.
    parts: Vec<String>,
}

impl<'c> Lines<'c> {
    /// Creates a chart of these lines, each with its name.
    #[must_use]
    pub fn new(
        title: &'c str,
        summary: &'c str,
        highest: &'c str,
        lines: &[(&'c str, Vec<Option<u64>>)],
    ) -> Self {
        let values = lines.iter().flat_map(|(_, values)| values);
        let most = values.flatten().copied().max().unwrap_or_default().max(1) as f64;
        let lines = lines
            .iter()
            .enumerate()
            .map(|(number, (name, values))| Series {
                name,
                number,
                parts: parts(values, most),
            });
        Self {
            title,
            summary,
            highest,
            lines: lines.collect(),
        }
    }
}

fn parts(values: &[Option<u64>], most: f64) -> Vec<String> {
    let step = WIDTH / values.len().max(1) as f64;
    let mut parts = vec![String::new()];
    for (number, value) in values.iter().enumerate() {
        match value {
            Some(value) => {
                let (x, y) = (
                    round((number as f64 + 0.5) * step),
                    round(HEIGHT - 1.0 - *value as f64 / most * (HEIGHT - 2.0)),
                );
                if let Some(part) = parts.last_mut() {
                    // A single point is a short line.
                    if part.is_empty() {
                        part.push_str(&format!("{},{y} ", round(x - 1.0)));
                    }
                    part.push_str(&format!("{x},{y} "));
                }
            }
            None if parts.last().is_some_and(|part| !part.is_empty()) => parts.push(String::new()),
            None => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Horizontal bars with names.
#[derive(Template)]
#[template(path = "ranking.html")]
pub struct Ranking<'c> {
    /// Title.
    pub title: &'c str,
    /// Text without values.
    pub empty: &'c str,
    rows: Vec<RankedRow<'c>>,
}

struct RankedRow<'c> {
    name: &'c str,
    value: u64,
    width: f64,
}

impl<'c> Ranking<'c> {
    /// Creates a chart of these values, which are in order.
    #[must_use]
    pub fn new(title: &'c str, empty: &'c str, rows: &[(&'c str, u64)]) -> Self {
        let most = rows
            .iter()
            .map(|(_, value)| *value)
            .max()
            .unwrap_or_default()
            .max(1) as f64;
        let rows = rows.iter().map(|(name, value)| RankedRow {
            name,
            value: *value,
            width: round((*value as f64 / most * 100.0).max(1.0)),
        });
        Self {
            title,
            empty,
            rows: rows.collect(),
        }
    }
}

/// Bars over time in rows with names and sums, all on one scale.
#[derive(Template)]
#[template(path = "rows_of_bars.html")]
pub struct RowsOfBars<'c> {
    /// Title.
    pub title: &'c str,
    /// Text without rows.
    pub empty: &'c str,
    /// Highest value, with its unit.
    pub highest: &'c str,
    rows: Vec<RowOfBars<'c>>,
}

struct RowOfBars<'c> {
    name: &'c str,
    sum: u64,
    bars: Vec<Bar>,
}

impl<'c> RowsOfBars<'c> {
    /// Creates a chart of these rows, each with its name and its values, the oldest first.
    #[must_use]
    pub fn new(
        title: &'c str,
        empty: &'c str,
        highest: &'c str,
        rows: &[(&'c str, Vec<u64>)],
    ) -> Self {
        let values = rows.iter().flat_map(|(_, values)| values);
        let most = values.copied().max().unwrap_or_default();
        let rows = rows.iter().map(|(name, values)| RowOfBars {
            name,
            sum: values.iter().sum(),
            bars: bars(values, most),
        });
        Self {
            title,
            empty,
            highest,
            rows: rows.collect(),
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_drawn() {
        let bars = Bars::new("Requests", "3 requests", "2 a minute", &[0, 1, 2])
            .render()
            .unwrap();
        assert_eq!(bars.matches("<rect").count(), 2);
        assert!(bars.contains("3 requests"), "{bars}");

        let values = vec![Some(1), None, Some(2), Some(4)];
        let lines = Lines::new("Time", "s", "4 ms", &[("p50", values)])
            .render()
            .unwrap();
        assert_eq!(lines.matches("<polyline").count(), 2, "{lines}");

        let rows = [("token", vec![0, 2, 1]), ("signature", vec![4, 0, 0])];
        let rows = RowsOfBars::new("Refusals", "none", "4 a minute", &rows)
            .render()
            .unwrap();
        assert_eq!(rows.matches("<rect").count(), 3, "{rows}");
        assert!(rows.contains("<td>3</td>"), "{rows}");

        let ranking = Ranking::new("Refusals", "none", &[("<b>", 2)])
            .render()
            .unwrap();
        assert!(ranking.contains("&#60;b&#62;"), "{ranking}");
        assert!(
            Ranking::new("Refusals", "none", &[])
                .render()
                .unwrap()
                .contains("none")
        );
    }
}
