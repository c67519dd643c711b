//! One entry back: where every entry lies, and the readers that fetch it beside the writer.

pub(crate) mod facts;
pub(crate) mod index;
pub(crate) mod kept;
pub(crate) mod location;
pub(crate) mod open_files;
pub(crate) mod reader;
