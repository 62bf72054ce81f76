//! Customers who look: at a host that holds what they ask for, be it the owner of it or a standby.

use std::sync::Arc;

use shop_actors::{
    fence::Fence,
    kind_host::View,
    query::{About, Local, Unread},
};
use shop_domain::{id::Id, problem::Code};
use shop_nats::{log::Identity, memory::MemoryLog, subject::partition_of};
use tokio::{sync::watch, task::JoinHandle};

use crate::{life::Life, trace::Fault};

/// Where a host answers those who look.
pub(crate) struct Reads {
    life: Arc<Life>,
    partitions: u16,
    local: Local,
    /// One at a time: who is woken first of several is not up to the seed.
    looking: Option<JoinHandle<()>>,
}

impl Reads {
    /// Lets customers look at what a host shows.
    pub(crate) fn new(life: &Arc<Life>, log: &MemoryLog, of: &Identity, view: &watch::Receiver<Arc<View>>) -> Self {
        let Identity { partitions, epoch, .. } = *of;
        let fence = Fence::new(Arc::new(log.under(life.clone())), life.kind, epoch);
        let local = Local::new(life.kind, partitions, fence, view.clone(), watch::channel(Some(0)).1);
        Self { life: Arc::clone(life), partitions, local, looking: None }
    }

    /// Somebody looks at an entity, unless somebody looks already.
    pub(crate) fn look(&mut self, id: Id, is_owner: bool) {
        if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
            let (life, local, partition) =
                (Arc::clone(&self.life), self.local.clone(), partition_of(&id, self.partitions));
            self.looking = Some(tokio::spawn(look(life, local, partition, id, is_owner)));
        }
    }

    /// Nobody gets an answer any more.
    pub(crate) fn end(&self) {
        self.looking.iter().for_each(JoinHandle::abort);
    }
}

async fn look(life: Arc<Life>, local: Local, partition: u16, id: Id, is_owner: bool) {
    let begun = life.observer().last(life.kind);
    let answer = local.of(partition, &id, &About::Itself).await;
    if life.kept().is_some() {
        return;
    }
    let seen = match answer {
        Ok(found) => Some(Some(found)),
        Err(Unread::Refused(problem)) if problem.code == Code::NOT_FOUND => Some(None),
        Err(Unread::Refused(problem)) if problem.code != Code::UNAVAILABLE => {
            return life.observer().report(format!("who looks at {id} is told: {problem:?}"));
        }
        Err(Unread::Refused(_) | Unread::NotHere) => None,
    };
    life.count(match seen {
        None => Fault::LookedInVain,
        Some(_) if is_owner => Fault::LookedAtOwner,
        Some(_) => Fault::LookedAtStandby,
    });
    if let Some(found) = seen {
        life.observer().shown((life.kind, partition), &id, begun, found.as_ref());
    }
}
