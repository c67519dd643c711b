//! Groups on their way to the disk.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::error::CreateError;
use crate::engine::{CreateRefusal, Created};
use crate::group_spec::GroupSpec;

/// What the shard says in the end; nothing if it stops before.
type Ended = oneshot::Receiver<Result<Created, CreateRefusal>>;

/// Waits until a group is made, on disk, or refused. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Creating {
    spec: GroupSpec,
    /// Or why it was not even begun.
    begun: Result<Ended, Option<CreateError>>,
}

impl Creating {
    pub(super) fn new(spec: GroupSpec, begun: Result<Ended, CreateError>) -> Self {
        Self { spec, begun: begun.map_err(Some) }
    }

    /// Waits on a thread that runs no async code.
    ///
    /// # Errors
    /// [`CreateError`]; nothing was created then.
    ///
    /// # Panics
    /// If called from within an async runtime.
    pub fn wait(self) -> Result<Created, CreateError> {
        match self.begun {
            Ok(ended) => outcome(&self.spec, ended.blocking_recv().ok()),
            Err(why) => Err(why.unwrap_or(CreateError::Stopping)),
        }
    }
}

impl Future for Creating {
    type Output = Result<Created, CreateError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { spec, begun } = &mut *self;
        Poll::Ready(match begun {
            Ok(ended) => outcome(spec, ready!(Pin::new(ended).poll(cx)).ok()),
            Err(why) => Err(why.take().unwrap_or(CreateError::Stopping)),
        })
    }
}

/// Waits for many; see [`NodeHost::create_groups`](super::NodeHost::create_groups).
#[derive(Debug)]
pub struct CreatingAll(pub(super) Vec<Creating>);

impl CreatingAll {
    /// Waits on a thread that runs no async code. What came of each, in the order in which they were asked for.
    ///
    /// # Panics
    /// If called from within an async runtime.
    pub fn wait(self) -> Vec<Result<Created, CreateError>> {
        self.0.into_iter().map(Creating::wait).collect()
    }

    /// Waits for all; as [`wait`](Self::wait).
    pub async fn all(self) -> Vec<Result<Created, CreateError>> {
        let mut ended = Vec::with_capacity(self.0.len());
        for creating in self.0 {
            ended.push(creating.await);
        }
        ended
    }
}

/// What the shard said of a creation, in words for whoever asked.
pub(super) fn outcome(
    spec: &GroupSpec,
    ended: Option<Result<Created, CreateRefusal>>,
) -> Result<Created, CreateError> {
    let group = spec.group;
    let bad = |why| Err(CreateError::BadSpec { group, why });
    match ended {
        Some(Ok(created)) => Ok(created),
        Some(Err(CreateRefusal::SpecDiffers(existing))) => {
            let (existing, wanted) = (Box::new(existing), Box::new(spec.clone()));
            Err(CreateError::SpecDiffers { existing, wanted })
        }
        Some(Err(CreateRefusal::Unusable)) => {
            bad("the log holds this group, and it could not be started from it")
        }
        Some(Err(CreateRefusal::Leaving)) => {
            bad("an earlier replica of the group is just leaving this node")
        }
        Some(Err(CreateRefusal::NeedsLog)) => {
            bad("its state machine keeps entries in the log, and this node keeps no log")
        }
        Some(Err(CreateRefusal::ReplicaUsed(last))) => {
            Err(CreateError::ReplicaUsed { group, last })
        }
        Some(Err(CreateRefusal::MayBeForgotten)) => Err(CreateError::MayBeForgotten { group }),
        None => Err(CreateError::Stopping),
    }
}
