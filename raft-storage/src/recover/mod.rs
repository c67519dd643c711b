//! Opening what a crash left: the frames that are whole, what they say of every group, and the
//! line between a torn tail and damage.

pub(crate) mod ahead;
pub(crate) mod damage;
pub(crate) mod frames;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod window;
