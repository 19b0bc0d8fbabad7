//! A value that is replaced as a whole, such as a policy that was read again: readers copy a
//! pointer, and go on with what they have.

use std::sync::{Arc, PoisonError, RwLock};

/// The value in use; clones share it.
pub struct Current<T> {
    // A std lock: it guards a pointer, and nothing waits while it is held.
    value: Arc<RwLock<Arc<T>>>,
}

impl<T> Current<T> {
    /// Puts the first value into use.
    #[must_use]
    pub fn new(value: Arc<T>) -> Self {
        Self {
            value: Arc::new(RwLock::new(value)),
        }
    }

    /// The value in use.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another value into use.
    pub fn set(&self, value: Arc<T>) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
        }
    }
}
