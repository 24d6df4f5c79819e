//! Mutexes that are held for a moment, never across a wait, and left whole by whoever panicked with one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes it, whatever became of those who had it before.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
