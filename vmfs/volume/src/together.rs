//! Several requests at a time, all of which end.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::task::Poll;

use crate::error::Error;

/// Drives all futures beside each other until the last one ends; returns the first error.
pub(crate) async fn all<F: Future<Output = Result<(), Error>>>(
    futures: impl Iterator<Item = F>,
) -> Result<(), Error> {
    let mut left: Vec<_> = futures.map(Box::pin).collect();
    let mut result = Ok(());
    poll_fn(|cx| {
        left.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Ready(ended) => {
                result = result.and(ended);
                false
            }
            Poll::Pending => true,
        });
        if left.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    result
}
