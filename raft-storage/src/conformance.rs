//! What every [`LogStore`] must do. Stub.
