//! The bytes of the log and nothing else: how each header, frame and record is laid out, and what
//! says that it is whole. Nothing here touches a disk beyond the making of one file.

pub(crate) mod base;
pub(crate) mod checksum;
pub(crate) mod field;
pub(crate) mod frame;
pub(crate) mod identity;
pub(crate) mod live;
pub(crate) mod lsn;
pub(crate) mod pieces;
pub(crate) mod record;
pub(crate) mod segment;
