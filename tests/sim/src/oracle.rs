//! What every VM is entitled to, worked out in the plainest way, to hold the scheduler's results against.
//!
//! Floating point, recursion and bisection on purpose: nothing is shared with the scheduler's own arithmetic.

/// A pool or VM.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its parent's index; the root is its own.
    pub parent: usize,
    /// Shares among its siblings.
    pub weight: f64,
    /// CPUs guaranteed.
    pub reservation: f64,
    /// CPUs at most.
    pub limit: f64,
    /// CPUs that the worlds directly in it want, each.
    pub wants: Vec<f64>,
}

/// Returns the CPUs that each node is entitled to when `capacity` CPUs are divided; a parent comes before its children.
#[must_use]
pub fn entitle(nodes: &[Node], capacity: f64) -> Vec<f64> {
    let mut children = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate().skip(1) {
        children[node.parent].push(index);
    }
    let mut demand = vec![0.0; nodes.len()];
    let mut promised = vec![0.0; nodes.len()];
    for (index, node) in nodes.iter().enumerate().rev() {
        let below: f64 = children[index].iter().map(|&child| demand[child]).sum();
        demand[index] = (below + node.wants.iter().sum::<f64>()).min(node.limit);
        let below: f64 = children[index].iter().map(|&child| promised[child]).sum();
        promised[index] = node.reservation.max(below).min(demand[index]);
    }
    let mut entitled = vec![0.0; nodes.len()];
    entitled[0] = capacity.min(demand[0]);
    for index in 0..nodes.len() {
        let share = |child: usize, level: f64| {
            (level * nodes[child].weight)
                .max(promised[child])
                .min(demand[child])
        };
        let total = |level: f64| {
            children[index]
                .iter()
                .map(|&child| share(child, level))
                .sum::<f64>()
        };
        let (mut low, mut high) = (0.0, 1e6);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if total(middle) < entitled[index] {
                low = middle;
            } else {
                high = middle;
            }
        }
        for &child in &children[index] {
            entitled[child] = share(child, high);
        }
    }
    entitled
}

#[cfg(test)]
mod tests {
    use super::{Node, entitle};

    fn node(parent: usize, weight: f64, wants: &[f64]) -> Node {
        Node {
            parent,
            weight,
            reservation: 0.0,
            limit: f64::INFINITY,
            wants: wants.to_vec(),
        }
    }

    #[test]
    fn a_small_tree_is_divided_as_by_hand() {
        let mut nodes = vec![
            node(0, 1.0, &[]),
            node(0, 3.0, &[]),
            node(0, 1.0, &[1.0, 1.0]),
            node(1, 1.0, &[1.0]),
            node(1, 2.0, &[0.25]),
        ];
        let close = |got: Vec<f64>, wanted: &[f64]| {
            assert!(
                got.iter()
                    .zip(wanted)
                    .all(|(got, wanted)| (got - wanted).abs() < 1e-6),
                "{got:?}"
            );
        };
        close(entitle(&nodes, 1.0), &[1.0, 0.75, 0.25, 0.5, 0.25]);
        nodes[2].reservation = 0.5;
        close(entitle(&nodes, 1.0), &[1.0, 0.5, 0.5, 0.25, 0.25]);
        nodes[2].limit = 0.6;
        close(entitle(&nodes, 4.0), &[1.85, 1.25, 0.6, 1.0, 0.25]);
    }
}
