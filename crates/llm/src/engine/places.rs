//! Limits concurrent requests: some more may wait, the rest are refused.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::error::Error;

pub struct Places {
    free: Arc<Semaphore>,
    all: usize,
    waiting: AtomicUsize,
}

impl Places {
    pub fn new(all: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(all)),
            all,
            waiting: AtomicUsize::new(0),
        }
    }

    /// In order of arrival. The caller brings the deadline.
    pub async fn take(&self, most_waiting: usize) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waits = Waits::begin(&self.waiting, most_waiting).ok_or(Error::Busy {
            running: self.all,
            waiting: most_waiting,
        })?;
        Ok(self
            .free
            .clone()
            .acquire_owned()
            .await
            .expect("places are never closed"))
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |now: usize| (now < most).then_some(now + 1);
        waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_waiting_room_is_bounded_and_emptied() {
        let places = Places::new(1);
        let first = places.take(0).await.expect("free");
        assert!(matches!(
            places.take(0).await,
            Err(Error::Busy { running: 1, waiting: 0 })
        ));
        {
            let mut waits = Box::pin(places.take(1));
            assert!(futures_util::poll!(&mut waits).is_pending());
            assert!(places.take(1).await.is_err());
        }
        let mut waits = Box::pin(places.take(1));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(first);
        assert!(waits.await.is_ok());
    }
}
