#![allow(missing_docs)]
fn main() {
    let a: Vec<u64> = std::env::args()
        .skip(1)
        .map(|x| x.parse().unwrap())
        .collect();
    let t = std::time::Instant::now();
    let mut f = sim::host::RandomHost::new(a[0], a[1] as usize, a[2] as usize).run(a[3]);
    let l = std::mem::take(&mut f.latencies);
    let p = |q: f64| l.get((l.len() as f64 * q) as usize).map_or(0, |x| x / 1000);
    println!(
        "{f:?}\nlat n={} p50 {} p99 {} p999 {} max {} us; {:?} = {} ns/dec",
        l.len(),
        p(0.5),
        p(0.99),
        p(0.999),
        l.last().map_or(0, |x| x / 1000),
        t.elapsed(),
        t.elapsed().as_nanos() as u64 / f.decisions
    );
}
