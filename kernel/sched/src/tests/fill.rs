//! Tests of the division by weight between bounds.

use crate::fill::{Part, level};
use alloc::vec::Vec;

fn divide(amount: u64, parts: &[Part]) -> Vec<u64> {
    let level = level(amount, parts, &mut Vec::new());
    let share = |part: &Part| {
        level.map_or(part.max, |level| {
            level
                .at(part.weight)
                .max(part.min)
                .min(part.max.max(part.min))
        })
    };
    parts.iter().map(share).collect()
}

fn part(weight: u64, min: u64, max: u64) -> Part {
    Part { weight, min, max }
}

#[test]
fn weights_divide() {
    let parts = [part(1, 0, 999), part(2, 0, 999), part(3, 0, 999)];
    assert_eq!(divide(600, &parts), [100, 200, 300]);
}

#[test]
fn what_a_maximum_cuts_off_goes_to_the_others() {
    let parts = [part(1, 0, 999), part(2, 0, 999), part(3, 0, 150)];
    assert_eq!(divide(600, &parts), [150, 300, 150]);
}

#[test]
fn a_minimum_is_paid_by_the_others() {
    let parts = [part(1, 300, 999), part(2, 0, 999), part(3, 0, 999)];
    assert_eq!(divide(600, &parts), [300, 120, 180]);
}

#[test]
fn plenty_is_not_divided() {
    assert_eq!(divide(900, &[part(1, 0, 400), part(9, 0, 400)]), [400, 400]);
    assert_eq!(divide(900, &[]), [] as [u64; 0]);
}

#[test]
fn parts_sum_up_whatever_the_bounds() {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..20_000 {
        let parts: Vec<Part> = (0..1 + random(12))
            .map(|_| {
                let max = random(1 << 24);
                part(1 + random(10_000), random(max + 1) * random(2), max)
            })
            .collect();
        let least: u64 = parts.iter().map(|part| part.min).sum();
        let most: u64 = parts.iter().map(|part| part.max).sum();
        let amount = least + random(most - least + 1);
        let sum: u64 = divide(amount, &parts).iter().sum();
        assert!(
            sum <= amount && amount - sum <= 12,
            "{sum} of {amount}: {parts:?}"
        );
    }
}
