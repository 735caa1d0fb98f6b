//! One lock for each name that is being worked on, so that two flows never work on one thing, and never wait for another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Names beyond which those that nobody works on are swept out.
const MAX_IDLE: usize = 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Locks {
    all: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits until nobody else works on `name`, and keeps others waiting until the guard is dropped.
    pub async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        self.of(name).lock_owned().await
    }

    fn of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > MAX_IDLE {
            all.retain(|_, lock| lock.strong_count() > 0);
        }
        if let Some(lock) = all.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        all.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_is_held_once_and_another_does_not_wait() {
        let locks = Locks::default();
        let held = locks.hold("a").await;
        let other = locks.hold("b").await;
        assert!(locks.of("a").try_lock().is_err());
        drop((held, other));
        assert!(locks.of("a").try_lock().is_ok());
    }

    #[tokio::test]
    async fn idle_names_are_swept_and_held_ones_stay() {
        let locks = Locks::default();
        let _held = locks.hold("held").await;
        for number in 0..2 * MAX_IDLE {
            drop(locks.hold(&number.to_string()).await);
        }
        assert!(locks.all.lock().unwrap().len() <= MAX_IDLE + 1);
        assert!(locks.of("held").try_lock().is_err());
    }
}
