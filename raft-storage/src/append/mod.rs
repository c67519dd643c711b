//! One batch on its way to the disk: what is asked for, whether it may be, which frames it becomes,
//! their bytes, the segments they need, the writer that hands them over, and the calls that write them.

pub(crate) mod block_buffer;
pub(crate) mod cursor;
pub(crate) mod encode;
pub(crate) mod flight;
pub(crate) mod plan;
pub(crate) mod preparation;
pub(crate) mod room_wait;
pub(crate) mod spares;
pub(crate) mod tails;
pub(crate) mod write;
pub(crate) mod writer;
