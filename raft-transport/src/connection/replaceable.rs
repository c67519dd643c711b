//! Frames that wait for room, each until a newer one takes its place.

use std::collections::{BTreeMap, VecDeque};

use raft_core::GroupId;

use crate::wire::user::{UserFrame, UserKind};

/// Most frames of a connection that wait to leave or to be replaced; more are refused.
pub const REPLACEABLE_MAX: usize = 1024;

type Name = (UserKind, GroupId);

/// The newest frame of each kind and group, in the order in which the first of each came.
#[derive(Debug, Default)]
pub(super) struct Replaceable {
    frames: BTreeMap<Name, UserFrame>,
    /// Whose turn it is comes first; each name once.
    order: VecDeque<Name>,
}

impl Replaceable {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Keeps a frame, in the place of an older one if there is one, which is then returned. The
    /// frame is given back if too many others wait.
    pub(super) fn keep(&mut self, frame: UserFrame) -> Result<Option<UserFrame>, UserFrame> {
        let name = (frame.kind, frame.group);
        if let Some(older) = self.frames.get_mut(&name) {
            return Ok(Some(std::mem::replace(older, frame)));
        }
        if self.frames.len() >= REPLACEABLE_MAX {
            return Err(frame);
        }
        self.frames.insert(name, frame);
        self.order.push_back(name);
        Ok(None)
    }

    /// What has waited longest.
    pub(super) fn first(&self) -> Option<&UserFrame> {
        self.order.front().and_then(|name| self.frames.get(name))
    }

    /// Takes that out.
    pub(super) fn pop(&mut self) -> Option<UserFrame> {
        self.order.pop_front().and_then(|name| self.frames.remove(&name))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lane::LaneClass;

    fn frame(group: u32, body: &'static [u8]) -> UserFrame {
        UserFrame {
            kind: UserKind::new(0).unwrap(),
            group: GroupId::new(group),
            class: LaneClass::Control,
            newer_replaces: true,
            body: Bytes::from_static(body),
            payloads: Vec::new(),
        }
    }

    #[test]
    fn a_newer_one_has_the_turn_of_the_one_it_replaces() {
        let mut kept = Replaceable::default();
        for (group, body) in [(1, b"a"), (2, b"b")] {
            assert_eq!(kept.keep(frame(group, body)), Ok(None));
        }
        assert_eq!(kept.keep(frame(1, b"c")), Ok(Some(frame(1, b"a"))));
        assert_eq!(kept.first(), Some(&frame(1, b"c")));
        assert_eq!(kept.pop(), Some(frame(1, b"c")));
        assert_eq!(kept.first(), Some(&frame(2, b"b")));
        assert_eq!(kept.pop(), Some(frame(2, b"b")));
        assert!(kept.is_empty());
        assert_eq!(kept.pop(), None);
    }

    #[test]
    fn no_more_wait_than_the_bound_says_and_those_are_still_replaced() {
        let mut kept = Replaceable::default();
        for group in 0..REPLACEABLE_MAX as u32 {
            assert_eq!(kept.keep(frame(group, b"a")), Ok(None));
        }
        let one_more = frame(REPLACEABLE_MAX as u32, b"a");
        assert_eq!(kept.keep(one_more.clone()), Err(one_more));
        assert_eq!(kept.keep(frame(7, b"b")), Ok(Some(frame(7, b"a"))));
    }
}
