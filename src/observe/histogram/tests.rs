//! Against a sorted list, and against the crate `hdrhistogram`.

use proptest::prelude::*;

use super::*;

fn histogram(micros: &[u64]) -> Histogram {
    let histogram = Histogram::new();
    for &one in micros {
        histogram.record(Duration::from_micros(one));
    }
    histogram
}

fn durations() -> impl Strategy<Value = Vec<u64>> {
    // As many short ones as long ones.
    let one = (0u32..37).prop_flat_map(|bits| 0..=1u64 << bits);
    prop::collection::vec(one, 1..300)
}

/// Within an eighth, and a microsecond for what is rounded.
fn near(found: u64, exact: u64) -> bool {
    found.abs_diff(exact) <= exact / 8 + 1
}

proptest! {
    #[test]
    fn percentiles_are_those_of_the_sorted_list_within_an_eighth(
        mut micros in durations(), percent in 0.0..100.0f64
    ) {
        let snapshot = histogram(&micros).snapshot();
        micros.sort_unstable();
        let rank = (percent / 100.0 * micros.len() as f64).max(1.0);
        // Interpolation is between the ranks on both sides.
        let around = [rank.floor(), rank.ceil()].map(|rank| micros[rank as usize - 1]);
        let found = snapshot.percentile(percent).unwrap().as_micros() as u64;
        let (low, high) = (around[0] - around[0] / 8, around[1] + around[1] / 8);
        prop_assert!(
            (low.saturating_sub(1)..=high + 1).contains(&found),
            "{found} {around:?}"
        );
        prop_assert_eq!(snapshot.count(), micros.len() as u64);
        prop_assert_eq!(snapshot.sum().as_micros() as u64, micros.iter().sum::<u64>());
    }

    #[test]
    fn percentiles_are_those_of_hdrhistogram(micros in durations()) {
        let mut model = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 37, 3).unwrap();
        for &one in &micros {
            model.record(one).unwrap();
        }
        let snapshot = histogram(&micros).snapshot();
        // Percents that fall on a rank: between two ranks both may say what they like.
        for rank in 1..=micros.len() {
            let percent = rank as f64 / micros.len() as f64 * 100.0 - 1e-9;
            let found = snapshot.percentile(percent).unwrap().as_micros() as u64;
            let exact = model.value_at_percentile(percent);
            // The model rounds as well, to three digits.
            prop_assert!(near(found, exact) || near(found, exact - exact / 500), "{found} {exact}");
        }
    }

    #[test]
    fn counts_up_to_a_power_of_two_are_exact(micros in durations()) {
        let snapshot = histogram(&micros).snapshot();
        let bounds: Vec<u64> = (0..=MICROS_BITS).map(|bits| 1 << bits).collect();
        for (found, &bound) in snapshot.cumulative(&bounds).zip(&bounds) {
            let exact = micros.iter().filter(|&&one| one <= bound).count();
            prop_assert_eq!(found, exact as u64, "up to {}", bound);
        }
    }

    #[test]
    fn a_window_has_what_was_recorded_in_it(before in durations(), after in durations()) {
        let one = histogram(&before);
        let earlier = one.snapshot();
        for &micros in &after {
            one.record(Duration::from_micros(micros));
        }
        let window = one.snapshot().since(&earlier);
        let alone = histogram(&after).snapshot();
        prop_assert_eq!(window.sum(), alone.sum());
        for percent in [0.0, 50.0, 99.0, 100.0] {
            prop_assert_eq!(window.percentile(percent), alone.percentile(percent));
        }
        let mut both = earlier.clone();
        both.add(&alone);
        prop_assert_eq!(both, one.snapshot());
    }

    #[test]
    fn every_duration_lies_in_its_bucket(micros in 1u64..=1 << MICROS_BITS) {
        let bucket = bucket_of(micros);
        prop_assert!(floor_of(bucket) < micros && micros <= floor_of(bucket + 1));
    }
}

#[test]
fn what_is_longer_than_all_buckets_counts_in_the_last() {
    let snapshot = histogram(&[1 << 40]).snapshot();
    assert_eq!(snapshot.count(), 1);
    assert_eq!(
        snapshot.percentile(50.0),
        Some(Duration::from_micros(1 << MICROS_BITS))
    );
    assert_eq!(snapshot.cumulative(&[1 << 35]).collect::<Vec<_>>(), [0]);
}

#[test]
fn nothing_recorded_has_no_percentile_and_takes_no_room() {
    let snapshot = Histogram::new().snapshot();
    assert!(snapshot.is_empty());
    assert_eq!(snapshot, Snapshot::default());
    assert_eq!(snapshot.percentile(50.0), None);
    assert_eq!(snapshot.cumulative(&[1, 2]).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_bucket_that_wraps_loses_nothing() {
    let histogram = histogram(&[5]);
    histogram.buckets[4].store(u32::MAX, Relaxed);
    histogram.record(Duration::from_micros(5));
    histogram.record(Duration::from_micros(5));
    assert_eq!(histogram.snapshot().count(), (1 << 32) + 1);
}

#[test]
fn what_was_reset_since_the_earlier_look_counts_from_the_reset() {
    let histogram = histogram(&[5, 1000]);
    let earlier = histogram.snapshot();
    histogram.reset();
    assert!(histogram.snapshot().is_empty());
    histogram.record(Duration::from_micros(70));
    assert_eq!(histogram.snapshot().since(&earlier).count(), 1);
}
