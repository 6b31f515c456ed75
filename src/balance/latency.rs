//! How soon a backend answers, as `least_latency` goes by it: a peak-sensitive moving average.
//!
//! As Finagle's `PeakEwma` and tower's (which linkerd uses) keep it: with `dt` the time since the
//! last sample and `w = e^(-dt / 10 s)`, a sample `s` makes of the average `a`
//!
//! - `s`, when it lies above: what got slow is avoided at once,
//! - `a × w + s × (1 - w)`, when it lies below: trust comes back with time, not with many samples;
//!
//! and whoever reads it sees `a × w`: a backend that nobody chooses is asked again some time.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::live::Counters;
use crate::base::clock::Moment;

/// The constant of the decay, as Finagle's and linkerd's.
const DECAY: Duration = Duration::from_secs(10);

/// The time in which an average decays to its half, in microseconds: [`DECAY`] × ln 2.
const HALF_LIFE: u64 = 6_931_472;

/// The average in one word, that decays without being touched. What is stored is not the value but
/// the value times 2^(time / half-life): that product stays the same while time passes, and of two
/// backends the one with the lesser product has the lesser average at any time.
///
/// The product is a floating-point number with more exponent than `f64` has: above [`ORIGIN_BITS`]
/// lie 32 bits of mantissa, then the exponent, which grows by one each half-life. 0 = nothing known.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

/// What the average is made of; the greater replaces the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
enum Origin {
    /// Taken over from the others of its tier.
    Estimate = 1,
    /// The time to connect, of a backend that has not sent a byte yet: perhaps it never does,
    /// because its clients speak last.
    Connect = 2,
    FirstByte = 3,
}

/// One observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    Connect(Duration),
    FirstByte(Duration),
    /// It refused, broke off or did not answer: never makes the average better.
    Failure(Duration),
}

const ORIGIN_BITS: u32 = 2;
const MANTISSA_BITS: u32 = 32;
/// What an `f64` has more of.
const MANTISSA_CUT: u32 = 52 - MANTISSA_BITS;
/// Of times two thousand years ahead nothing is promised but that they do not overflow.
const HALF_LIVES_MAX: u64 = 1 << 28;

impl Latency {
    pub(super) fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    pub(super) fn twin(&self) -> Self {
        Latency(AtomicU64::new(self.load().0))
    }

    #[inline]
    pub(super) fn load(&self) -> Average {
        Average(self.0.load(Relaxed))
    }

    /// The average now; `None` when nothing is known.
    pub(super) fn at(&self, now: Moment) -> Option<Duration> {
        let average = self.load();
        average
            .is_known()
            .then(|| Duration::from_secs_f64(average.at(now) / 1e6))
    }

    /// Whether the backend has sent bytes before; until then it may be of those that never do.
    pub(super) fn has_answered(&self) -> bool {
        self.load().origin() == Some(Origin::FirstByte)
    }

    pub(super) fn observe(&self, sample: Sample, counters: &Counters, now: Moment) {
        let (Sample::Connect(took) | Sample::FirstByte(took) | Sample::Failure(took)) = sample;
        let took = took.as_micros() as f64;
        let origin = match sample {
            Sample::Connect(_) => Origin::Connect,
            Sample::FirstByte(_) => Origin::FirstByte,
            Sample::Failure(_) => self
                .load()
                .origin()
                .unwrap_or(Origin::Connect)
                .max(Origin::Connect),
        };
        if self.load().origin() > Some(origin) {
            return;
        }
        // Of samples that come at once all but the first find no time passed, and count as peaks.
        let before = counters.sampled_at.swap(now.as_micros(), Relaxed);
        let quiet = now.since(Moment::from_micros(before));
        let weight = (-quiet.as_secs_f64() / DECAY.as_secs_f64()).exp();
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let average = Average(word);
            let new = match average.origin().map(|known| known.cmp(&origin)) {
                Some(std::cmp::Ordering::Greater) => return None,
                Some(std::cmp::Ordering::Equal) => mixed(average.at(now), weight, took),
                _ => took,
            };
            let failed = matches!(sample, Sample::Failure(_)) && average.is_known();
            let new = if failed {
                new.max(average.at(now))
            } else {
                new
            };
            Some(Average::of(new, origin, now).0)
        });
    }

    /// Gives a backend of which nothing is known the average of others.
    pub(super) fn estimate(&self, others: Average) {
        let guess = others.0 >> ORIGIN_BITS << ORIGIN_BITS | Origin::Estimate as u64;
        let _ = self.0.compare_exchange(0, guess, Relaxed, Relaxed);
    }
}

/// `decayed` is the old average times `weight` already.
fn mixed(decayed: f64, weight: f64, sample: f64) -> f64 {
    // After minutes without a sample nothing is left of the old one.
    if weight < 1e-9 || sample * weight >= decayed {
        sample
    } else {
        decayed + sample * (1.0 - weight)
    }
}

/// One reading of a [`Latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Average(u64);

/// A moment as averages are compared at; what is less than a half-life is left out, being the same
/// for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch(u64);

impl Epoch {
    pub(super) fn of(now: Moment) -> Self {
        let half_lives = (now.as_micros() / HALF_LIFE).min(HALF_LIVES_MAX);
        Epoch(half_lives << MANTISSA_BITS)
    }
}

impl Average {
    fn of(micros: f64, origin: Origin, now: Moment) -> Self {
        // A millionth of a second at least, so that the product is above 1; four months at most.
        let product = micros.clamp(1.0, 1e13) * within_half_life(now).exp2();
        let number = (product.to_bits() >> MANTISSA_CUT) + Epoch::of(now).0;
        Average(number << ORIGIN_BITS | origin as u64)
    }

    #[inline]
    pub(super) fn is_known(self) -> bool {
        self.0 != 0
    }

    fn origin(self) -> Option<Origin> {
        match self.0 & ((1 << ORIGIN_BITS) - 1) {
            1 => Some(Origin::Estimate),
            2 => Some(Origin::Connect),
            3 => Some(Origin::FirstByte),
            _ => None,
        }
    }

    /// In some unit that is the same for all averages of one epoch. Nothing is left after a
    /// thousand half-lives, two hours.
    #[inline]
    pub(super) fn relative(self, epoch: Epoch) -> f64 {
        let number = (self.0 >> ORIGIN_BITS).saturating_sub(epoch.0);
        f64::from_bits(number << MANTISSA_CUT)
    }

    /// Microseconds.
    fn at(self, now: Moment) -> f64 {
        self.relative(Epoch::of(now)) / within_half_life(now).exp2()
    }

    /// Nearly the geometric mean of those that are known: one that fails does not shift it as it
    /// would shift the arithmetic one. `None` when there are none.
    pub(super) fn mean(averages: impl Iterator<Item = Average>) -> Option<Average> {
        let (mut sum, mut count) = (0_u128, 0_u128);
        for average in averages.filter(|average| average.is_known()) {
            sum += u128::from(average.0 >> ORIGIN_BITS);
            count += 1;
        }
        let mean = sum.checked_div(count)? as u64;
        Some(Average(mean << ORIGIN_BITS | Origin::Estimate as u64))
    }
}

/// Half-lives since the last whole one.
fn within_half_life(now: Moment) -> f64 {
    (now.as_micros() % HALF_LIFE) as f64 / HALF_LIFE as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn assert_near(latency: &Latency, now: Moment, millis: f64) {
        let found = latency.at(now).unwrap().as_secs_f64() * 1e3;
        assert!((found / millis - 1.0).abs() < 1e-3, "{found} for {millis}");
    }

    #[test]
    fn a_peak_counts_at_once_and_trust_comes_back_with_time() {
        let (latency, counters) = (Latency::default(), Counters::default());
        let begun = 50_000_123;
        let answer = |millis, after| {
            latency.observe(Sample::FirstByte(ms(millis)), &counters, at(begun + after));
        };
        assert_eq!(latency.at(at(begun)), None);
        answer(10, 0);
        assert_near(&latency, at(begun), 10.0);
        answer(200, 1);
        assert_near(&latency, at(begun + 1), 200.0);
        for _ in 0..50 {
            answer(10, 1);
        }
        assert_near(&latency, at(begun + 1), 200.0);
        let w = f64::exp(-0.5);
        assert_near(&latency, at(begun + 5001), 200.0 * w);
        answer(10, 5001);
        assert_near(&latency, at(begun + 5001), 200.0 * w + 10.0 * (1.0 - w));
        answer(170, 5001 + 1_000_000);
        assert_near(&latency, at(begun + 5001 + 1_000_000), 170.0);
    }

    #[test]
    fn the_formula_holds_at_any_time_of_a_long_life() {
        for begun in [0, 1, 6931, 6932, 86_400_000, 10 * 365 * 86_400_000] {
            let (latency, counters) = (Latency::default(), Counters::default());
            let mut average = 0.0_f64;
            let mut now = begun;
            for (gap, sample) in [
                (0, 5),
                (3, 80),
                (700, 7),
                (12_000, 7),
                (90, 300),
                (30_000, 1),
            ] {
                now += gap;
                let w = f64::exp(-(gap as f64) / 10_000.0);
                let sample = sample as f64;
                average = if sample > average {
                    sample
                } else {
                    average * w + sample * (1.0 - w)
                };
                let took = Duration::from_secs_f64(sample / 1e3);
                latency.observe(Sample::FirstByte(took), &counters, at(now));
                assert_near(&latency, at(now), average);
            }
        }
    }

    #[test]
    fn averages_compare_the_same_whenever_they_were_taken() {
        let counters = Counters::default();
        let (old, new) = (Latency::default(), Latency::default());
        old.observe(Sample::FirstByte(ms(100)), &counters, at(1000));
        // 100 ms decay to 10 ms in 10 s × ln 10.
        new.observe(Sample::FirstByte(ms(10)), &counters, at(1000 + 23_000));
        let epoch = Epoch::of(at(24_000));
        assert!(new.load().relative(epoch) < old.load().relative(epoch));
        let newer = Latency::default();
        newer.observe(Sample::FirstByte(ms(10)), &counters, at(1000 + 23_100));
        assert!(newer.load().relative(epoch) > old.load().relative(epoch));
    }

    #[test]
    fn the_first_byte_replaces_what_connecting_took_and_not_the_other_way_round() {
        let (latency, counters) = (Latency::default(), Counters::default());
        latency.estimate(Average::of(5e5, Origin::FirstByte, at(0)));
        assert_near(&latency, at(0), 500.0);
        latency.observe(Sample::Connect(ms(3)), &counters, at(0));
        assert_near(&latency, at(0), 3.0);
        assert!(!latency.has_answered());
        latency.observe(Sample::FirstByte(ms(1)), &counters, at(0));
        latency.observe(Sample::Connect(ms(70)), &counters, at(0));
        assert_near(&latency, at(0), 1.0);
        assert!(latency.has_answered());
    }

    #[test]
    fn a_failure_never_makes_the_average_better() {
        let (latency, counters) = (Latency::default(), Counters::default());
        latency.observe(Sample::FirstByte(ms(1)), &counters, at(0));
        latency.observe(Sample::Failure(ms(1000)), &counters, at(0));
        assert_near(&latency, at(0), 1000.0);
        latency.observe(Sample::FirstByte(ms(9000)), &counters, at(0));
        latency.observe(Sample::Failure(ms(1000)), &counters, at(1));
        assert_near(&latency, at(1), 9000.0);
        assert!(latency.has_answered());
    }

    #[test]
    fn the_mean_of_one_is_itself_and_one_slow_of_many_does_not_rule_it() {
        let of = |millis: f64| Average::of(millis * 1e3, Origin::FirstByte, at(77));
        let mean = |list: &[f64]| {
            let mean = Average::mean(list.iter().map(|&millis| of(millis)));
            mean.map(|mean| mean.at(at(77)) / 1e3)
        };
        assert_eq!(mean(&[]), None);
        assert!((mean(&[8.0]).unwrap() - 8.0).abs() < 0.01);
        let mixed = mean(&[8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 4000.0]).unwrap();
        assert!((8.0..20.0).contains(&mixed), "{mixed}");
    }

    #[test]
    fn after_hours_without_a_sample_nothing_is_left_and_nothing_overflows() {
        let (latency, counters) = (Latency::default(), Counters::default());
        latency.observe(Sample::FirstByte(ms(100)), &counters, at(0));
        assert_eq!(latency.at(at(86_400_000)), Some(Duration::ZERO));
        let far = Moment::from_micros(u64::MAX);
        latency.observe(Sample::FirstByte(Duration::MAX), &counters, far);
        assert!(latency.at(far).is_some());
    }
}
