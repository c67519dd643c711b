//! Real nodes and what is done to them: processes, their clients and their loads.

pub(crate) mod admin;
pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod memfirst;
pub(crate) mod relay;
pub(crate) mod resp;
pub(crate) mod running;
