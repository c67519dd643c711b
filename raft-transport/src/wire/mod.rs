//! Bytes and their meaning: frames, handshakes, and both ways between them. No connection, no
//! clock, no credit.

pub(crate) mod frame;

pub(crate) mod assembly;
pub(crate) mod bodies;
pub(crate) mod chunk;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod envelope;
pub(crate) mod heartbeat_batch;
pub(crate) mod hello;
pub(crate) mod order;
pub(crate) mod read_buffers;
pub(crate) mod transmit;
pub(crate) mod user;
pub(crate) mod varint;
