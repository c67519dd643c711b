//! Space that comes back: what each segment still holds, which segments may be written again, and
//! the moving of what lives out of segments that are nearly empty.

pub(crate) mod moves;
pub(crate) mod segments;
pub(crate) mod tender;
pub(crate) mod warming;
