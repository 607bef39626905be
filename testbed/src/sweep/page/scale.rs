//! Axes: from values to a share of the axis, and where its ticks are.

/// A range of values, linear or logarithmic.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From 0 to a little more than the largest value.
    pub(super) fn linear(largest: f64) -> Scale {
        let largest = if largest.is_finite() && largest > 0.0 {
            largest
        } else {
            1.0
        };
        Scale {
            low: 0.0,
            high: largest * 1.05,
            logarithmic: false,
        }
    }

    /// Around all positive values, a little wider than they are.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = values
            .filter(|value| value.is_finite() && *value > 0.0)
            .fold((f64::MAX, 0.0f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
        Scale {
            low: low / 1.1,
            high: (high * 1.1).max(low * 2.0),
            logarithmic: true,
        }
    }

    /// 0 at the low end and 1 at the high end; what lies outside, at the edge.
    pub(super) fn place(self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round numbers, no more than a reader takes in.
    pub(super) fn ticks(self) -> Vec<f64> {
        if self.logarithmic {
            self.decades()
        } else {
            self.steps()
        }
    }

    fn steps(self) -> Vec<f64> {
        let raw = (self.high - self.low) / 6.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
        let step = step.into_iter().find(|step| *step >= raw).unwrap_or(raw);
        let first = (self.low / step).ceil();
        (0..20)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|tick| *tick <= self.high)
            .collect()
    }

    /// Powers of ten, with 2 and 5 between them where there is room.
    fn decades(self) -> Vec<f64> {
        let span = (self.high / self.low).log10();
        let parts: &[f64] = if span <= 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let (first, last) = (self.low.log10().floor(), self.high.log10().ceil());
        let every = ((last - first) / 10.0).ceil().max(1.0);
        let count = ((last - first) / every) as i32;
        (0..=count)
            .flat_map(|n| {
                let power = 10f64.powf(first + f64::from(n) * every);
                parts.iter().map(move |part| part * power)
            })
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(seen: &[f64], wanted: &[f64]) {
        let same = |(a, b): (&f64, &f64)| (a - b).abs() <= b.abs() * 1e-9;
        assert!(
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(same),
            "{seen:?} instead of {wanted:?}"
        );
    }

    #[test]
    fn linear_ticks_are_round() {
        near(
            &Scale::linear(100.0).ticks(),
            &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0],
        );
        near(&Scale::linear(1.7).ticks(), &[0.0, 0.5, 1.0, 1.5]);
        near(&Scale::linear(0.003).ticks(), &[0.0, 0.001, 0.002, 0.003]);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Scale::linear(bad).ticks().len() > 2);
        }
    }

    #[test]
    fn logarithmic_ticks_thin_out() {
        let ticks = |values: &[f64]| Scale::logarithmic(values.iter().copied()).ticks();
        near(&ticks(&[1.0, 30.0]), &[1.0, 2.0, 5.0, 10.0, 20.0]);
        near(&ticks(&[100.0, 1e6]), &[100.0, 1e3, 1e4, 1e5, 1e6]);
        assert!(ticks(&[1.0, 1e30]).len() <= 11);
        near(&ticks(&[]), &[1.0, 2.0, 5.0, 10.0]);
        assert!(!ticks(&[5.0]).is_empty());
    }

    #[test]
    fn places_are_shares_of_the_axis() {
        let linear = Scale::linear(100.0);
        assert_eq!((linear.place(-5.0), linear.place(0.0)), (0.0, 0.0));
        assert!((linear.place(52.5) - 0.5).abs() < 1e-12);
        assert_eq!(linear.place(1e9), 1.0);
        let log = Scale::logarithmic([1.0, 100.0].into_iter());
        assert!((log.place(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(log.place(0.0), 0.0);
    }
}
