//! The one lock of the hand-off, real or modelled.
//!
//! Under `--cfg loom_model` it is loom's, so that the models walk through every interleaving. The
//! cfg is ours and not `loom`, because that one would take the network out of tokio.

#[cfg(not(loom_model))]
pub(crate) use parking_lot::Mutex;

#[cfg(loom_model)]
pub(crate) use self::model::Mutex;

#[cfg(loom_model)]
mod model {
    use loom::sync::MutexGuard;

    /// loom's mutex behind `parking_lot`'s face.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model that panicked has failed already")
        }
    }
}
