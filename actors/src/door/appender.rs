//! From the door into the log: commands for one partition, as frames that form by themselves
//! while the frame before is being made durable.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use foldhash::HashSet;
use serde_json::json;
use shop_domain::{
    id::Id,
    kind::Kind,
    message::Message,
    message::{Envelope, ReplyTo},
    order,
    problem::{Code, Problem},
};
use shop_nats::{
    door::Response,
    frame::{EncodedMessage, Origin, Source, frames},
    log::SharedLog,
    publisher::{Publisher, Resent, Room},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
};

use crate::reply::Answers;

/// Commands that wait for one partition's log. Beyond it the door is overloaded: at the slowest
/// disk that we know (250 frames/s) it is a good second of work.
const WAITING_MAX: usize = 8_192;
/// Most commands in one frame.
const FRAME_COMMANDS_MAX: usize = 1_024;
/// Frames on their way. One: the commands that come meanwhile make up the next.
const WINDOW_FRAMES: usize = 1;
/// A command that has waited this long without being sent is refused: its caller has given up.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Orders that a door remembers to have placed. A bridge asks again after some seconds at most, in which one
/// partition takes no more than this.
const PLACED_MAX: usize = 32_768;
/// A door that was idle this long counts its messages from 1 again under a new epoch, because
/// partitions remember the doors' numbers only for the most recent ones.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A command on its way into the log.
#[derive(Debug)]
pub struct Pending {
    /// The command.
    pub envelope: Envelope,
    /// Who is to be told as soon as the log has it.
    pub tell_accepted: Option<Acceptance>,
    /// When it came in.
    pub since: Instant,
}

/// What a caller is told who does not wait for the outcome.
#[derive(Debug)]
pub struct Acceptance {
    /// Where the caller listens.
    pub to: ReplyTo,
    /// The status that the order will have when it handles the command, if it was looked at.
    pub status: Option<order::Status>,
}

/// Appends commands to one partition's log.
#[derive(Debug)]
pub struct Appender {
    commands: mpsc::Sender<Pending>,
    /// What was taken, by all appenders of the door, and is not in the log.
    waiting: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Appender {
    /// Appends to one partition's log; refusals and early answers go out through `answers`. How much is taken and not
    /// in the log is added to `waiting`.
    pub fn new(log: SharedLog, kind: Kind, partition: u16, answers: Answers, waiting: Arc<AtomicUsize>) -> Self {
        let (commands, taken) = mpsc::channel(WAITING_MAX);
        let publisher = Publisher::counting(log, kind, partition, WINDOW_FRAMES, Resent::clone(&answers.counts.resent));
        let task = tokio::spawn(append(publisher, taken, answers, Arc::clone(&waiting)));
        Self { commands, waiting, task }
    }

    /// Takes a command, or gives it back when too many wait.
    pub fn take(&self, pending: Pending) -> Result<(), Box<Pending>> {
        self.waiting.fetch_add(1, Relaxed);
        self.commands.try_send(pending).map_err(|error| {
            self.waiting.fetch_sub(1, Relaxed);
            match error {
                TrySendError::Full(pending) | TrySendError::Closed(pending) => Box::new(pending),
            }
        })
    }

    /// Returns when nothing is appended any more, because what appends has panicked.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Takes no more, and waits until the log has all that was taken.
    pub async fn finish(self) {
        drop(self.commands);
        if let Err(error) = self.task.await {
            tracing::error!("an appender panicked: {error}");
        }
    }
}

async fn append(
    publisher: Publisher,
    mut commands: mpsc::Receiver<Pending>,
    answers: Answers,
    in_hand: Arc<AtomicUsize>,
) {
    let mut link = Link::new();
    let mut placed = Placed::default();
    let mut taken = Vec::new();
    loop {
        let count = commands.recv_many(&mut taken, FRAME_COMMANDS_MAX).await;
        if count == 0 {
            return;
        }
        let mut messages = Vec::with_capacity(taken.len());
        let mut waiting = Vec::with_capacity(taken.len());
        for Pending { envelope, tell_accepted, since } in taken.drain(..) {
            if since.elapsed() > WAIT_MAX {
                refuse(&answers, envelope, tell_accepted, &late()).await;
                continue;
            }
            messages.push(EncodedMessage::new(&envelope));
            waiting.push((envelope, tell_accepted));
        }
        let (source, first) = link.number(messages.len());
        let (mut waiting, mut number) = (waiting.into_iter(), first);
        for (frame, next) in frames(source, first, &messages) {
            // Unless there is no room for it, the publisher resends until the log has it.
            match publisher.offer(frame).await.await {
                Ok(Room::Taken) => {}
                Ok(Room::Full) => break,
                // It has panicked: what became of the frame is not known, and no caller is told anything.
                Err(_) => return,
            }
            for (envelope, tell_accepted) in waiting.by_ref().take((next - number) as usize) {
                placed.remember(&envelope);
                if let Some(accepted) = tell_accepted {
                    accept(&answers, envelope, accepted).await;
                }
            }
            number = next;
        }
        // What found no room has no number either: the next one has it.
        link.next = number;
        for (envelope, tell_accepted) in waiting {
            match tell_accepted {
                Some(accepted) if placed.remembers(&envelope) => accept(&answers, envelope, accepted).await,
                tell_accepted => refuse(&answers, envelope, tell_accepted, &no_room()).await,
            }
        }
        in_hand.fetch_sub(count, Relaxed);
    }
}

/// The orders that the log has taken through this door, newest last: who asks once more whether one was taken
/// is told so, though there be no room for the question.
#[derive(Default)]
struct Placed {
    ids: HashSet<Id>,
    in_order: VecDeque<Id>,
}

impl Placed {
    fn remember(&mut self, envelope: &Envelope) {
        let Message::Order(order::Message::Place(_)) = &envelope.message else { return };
        if self.ids.insert(envelope.to.clone()) {
            self.in_order.push_back(envelope.to.clone());
        }
        if self.in_order.len() > PLACED_MAX {
            self.in_order.pop_front().map(|oldest| self.ids.remove(&oldest));
        }
    }

    fn remembers(&self, envelope: &Envelope) -> bool {
        matches!(&envelope.message, Message::Order(order::Message::Place(_))) && self.ids.contains(&envelope.to)
    }
}

/// The numbers of a door's messages to one partition.
struct Link {
    source: Source,
    next: u64,
    used: Instant,
}

impl Link {
    fn new() -> Self {
        let epoch = uuid::Uuid::new_v4().as_u64_pair().0;
        Self { source: Source { origin: Origin::Door, epoch }, next: 1, used: Instant::now() }
    }

    fn number(&mut self, count: usize) -> (Source, u64) {
        if self.used.elapsed() > IDLE_MAX {
            *self = Self::new();
        }
        let first = self.next;
        self.next += count as u64;
        self.used = Instant::now();
        (self.source, first)
    }
}

/// Tells a caller that the log has the command.
async fn accept(answers: &Answers, envelope: Envelope, Acceptance { to, status }: Acceptance) {
    let mut body = json!({ "id": envelope.to });
    if let Some(status) = status {
        body["status"] = json!(status);
    }
    let (body, traceparent) = (body.to_string().into(), envelope.trace.map(Into::into));
    let response = Response { body, accepted: true, traceparent, ..Response::default() };
    answers.send(to, response).await;
}

async fn refuse(answers: &Answers, envelope: Envelope, tell_accepted: Option<Acceptance>, problem: &Problem) {
    let reply = envelope.request.and_then(|request| request.reply).or(tell_accepted.map(|told| told.to));
    if let Some(to) = reply {
        answers.problem(to, problem, envelope.trace.map(Into::into)).await;
    }
}

fn late() -> Problem {
    let detail = "the log did not take the request in time; nothing was done, try again";
    Problem::new(Code::UNAVAILABLE, detail)
}

fn no_room() -> Problem {
    let detail = "the log has no room for more; nothing was done, try again later";
    Problem::new(Code::OVERLOADED, detail)
}
