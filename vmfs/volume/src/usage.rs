//! How full a volume is.

use crate::error::Error;
use crate::format::{Cluster, MAGIC_CLUSTER};
use crate::volume::{Host, Volume};

/// What is there and what is free; other hosts change it meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks of 1 MiB for data.
    pub blocks: u64,
    /// Those that are free.
    pub free_blocks: u64,
    /// Units for inodes and nodes.
    pub units: u64,
    /// Those that are free.
    pub free_units: u64,
    /// Clusters whose head cannot be read; their space is in no other number.
    pub damaged: u64,
}

impl<H: Host> Volume<H> {
    /// Counts what is free, cluster by cluster.
    ///
    /// # Errors
    /// The device's.
    pub async fn usage(&mut self) -> Result<Usage, Error> {
        self.begin().await?;
        let mut usage = Usage::default();
        let data = self
            .layout
            .data_end()
            .saturating_sub(self.layout.data_start());
        for cluster in 0..self.layout.clusters {
            let bytes = match self.peek(self.layout.head(cluster), MAGIC_CLUSTER).await {
                Ok(bytes) => bytes,
                Err(Error::Damaged { .. }) => {
                    usage.damaged = usage.damaged.saturating_add(1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let head = &Cluster::of(&bytes).head;
            let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
            add(&mut usage.blocks, data);
            add(&mut usage.free_blocks, u64::from(head.free_blocks.get()));
            add(&mut usage.units, self.layout.units_per_cluster());
            add(&mut usage.free_units, u64::from(head.free_units.get()));
        }
        Ok(usage)
    }
}
