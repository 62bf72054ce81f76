//! From the door into the log: commands for one partition, as frames that form by themselves
//! while the frame before is being made durable.
//!
//! What the log has and does not let in, because somebody else appends under the door's numbers, is sent again under
//! others. That is safe: a partition never applies what it has ignored once, unless it comes again.

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
    message::Message,
    message::{Envelope, ReplyTo},
    order,
    problem::{Code, Problem},
};
use shop_nats::{
    log::{
        SharedLog,
        frame::{EncodedMessage, frames},
        publisher::{Publisher, Resent, Room},
    },
    rpc::service::Response,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinHandle,
    time::timeout_at,
};

use super::link::Link;
use crate::{admissions::Admission, door::answers::Answers};

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
/// Frames that the log has, of which is not known yet that it lets them in: they are sent again if it does not. The reader
/// of this host is milliseconds behind; where it is further behind than this, the door waits for it, and what comes
/// meanwhile makes up larger frames.
const UNREAD_FRAMES_MAX: usize = 64;
/// How long that may take to be known. Who waits to be told that the log has his command is told so then; nothing is sent
/// again after that.
const ADMISSION_WAIT: Duration = Duration::from_secs(5);
/// The same once the door is closed.
const LAST_WAIT: Duration = Duration::from_secs(1);

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
    /// Appends to the log of the partition that `link` goes to; refusals and early answers go out through `answers`.
    /// How much is taken and not in the log is added to `waiting`.
    pub fn new(log: SharedLog, link: Link, answers: Answers, waiting: Arc<AtomicUsize>) -> Self {
        let (commands, taken) = mpsc::channel(WAITING_MAX);
        let resent = Resent::clone(&answers.counts.resent);
        let publisher = Publisher::counting(log, link.kind, link.partition, WINDOW_FRAMES, resent);
        let (placed, sent, in_hand) = (Placed::default(), VecDeque::new(), Arc::clone(&waiting));
        let task = tokio::spawn(Appending { publisher, link, answers, in_hand, placed, sent }.run(taken));
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

/// What appends to one partition's log.
struct Appending {
    publisher: Publisher,
    link: Link,
    answers: Answers,
    /// What was taken and is not in the log, by all appenders of the door.
    in_hand: Arc<AtomicUsize>,
    placed: Placed,
    /// What the log has, oldest first, until it is read there.
    sent: VecDeque<Sent>,
}

/// A frame that the log has.
struct Sent {
    commands: Vec<Pending>,
    admission: oneshot::Receiver<Admission>,
    /// Until when what became of it is of interest.
    until: Instant,
}

impl Appending {
    async fn run(mut self, mut commands: mpsc::Receiver<Pending>) {
        let mut taken = Vec::new();
        loop {
            let has_room = self.sent.len() < UNREAD_FRAMES_MAX;
            let swallowed = tokio::select! {
                biased;
                admission = oldest(&mut self.sent), if !self.sent.is_empty() => self.settle(admission).await,
                count = commands.recv_many(&mut taken, FRAME_COMMANDS_MAX), if has_room => match count {
                    0 => break,
                    _ => std::mem::take(&mut taken),
                },
            };
            if !self.append(swallowed).await {
                return;
            }
        }
        let last = Instant::now() + LAST_WAIT;
        while !self.sent.is_empty() {
            self.sent.iter_mut().for_each(|sent| sent.until = sent.until.min(last));
            let admission = oldest(&mut self.sent).await;
            let swallowed = self.settle(admission).await;
            if !self.append(swallowed).await {
                return;
            }
        }
    }

    /// Appends commands in their order. Not done when what became of one is not known, because what sends it has
    /// panicked: no caller is told anything.
    async fn append(&mut self, taken: Vec<Pending>) -> bool {
        if taken.is_empty() {
            return true;
        }
        let count = taken.len();
        let mut messages = Vec::with_capacity(count);
        let mut waiting = Vec::with_capacity(count);
        for pending in taken {
            if pending.since.elapsed() > WAIT_MAX {
                refuse(&self.answers, pending, &late()).await;
                continue;
            }
            messages.push(EncodedMessage::new(&pending.envelope));
            waiting.push(pending);
        }
        let (source, first) = self.link.numbers();
        let (mut waiting, mut number) = (waiting.into_iter(), first);
        for (frame, next) in frames(source, first, &messages) {
            let admission = self.link.take(frame.clone(), next);
            // Unless there is no room for it, the publisher resends until the log has it.
            match self.publisher.offer(frame).await.await {
                Ok(Room::Taken) => {}
                Ok(Room::Full) => {
                    self.link.take_back(number);
                    break;
                }
                Err(_) => return false,
            }
            let commands = waiting.by_ref().take((next - number) as usize).collect();
            self.sent.push_back(Sent { commands, admission, until: Instant::now() + ADMISSION_WAIT });
            number = next;
        }
        for pending in waiting {
            match pending.tell_accepted {
                Some(accepted) if self.placed.remembers(&pending.envelope) => {
                    accept(&self.answers, pending.envelope, accepted).await;
                }
                _ => refuse(&self.answers, pending, &no_room()).await,
            }
        }
        self.in_hand.fetch_sub(count, Relaxed);
        true
    }

    /// Takes in what became of the oldest frame. Returns those of its commands that the log does not let in.
    async fn settle(&mut self, admission: Admission) -> Vec<Pending> {
        let Some(Sent { commands, .. }) = self.sent.pop_front() else { return vec![] };
        let (kind, partition, count) = (self.link.kind, self.link.partition, commands.len());
        let let_in = match admission {
            Admission::LetIn(let_in) => let_in,
            // It has acknowledged them, and there is no sign that they do not count.
            Admission::Unread => 0..count,
            Admission::InDoubt => {
                tracing::warn!(
                    "{kind}/{partition}: whether {count} messages of the door were let in is not known, because so \
                     many other doors came before them; nobody is told that they were"
                );
                return vec![];
            }
        };
        let mut swallowed = Vec::new();
        for (index, Pending { envelope, tell_accepted, since }) in commands.into_iter().enumerate() {
            if !let_in.contains(&index) {
                swallowed.push(Pending { envelope, tell_accepted, since });
                continue;
            }
            self.placed.remember(&envelope);
            if let Some(accepted) = tell_accepted {
                accept(&self.answers, envelope, accepted).await;
            }
        }
        if !swallowed.is_empty() {
            let count = swallowed.len();
            tracing::warn!(
                "{kind}/{partition}: {count} messages of the door lie beyond what its log lets in: somebody else \
                 appends to it; sending them again under another number"
            );
            self.answers.counts.swallowed.add(count as u64);
            self.in_hand.fetch_add(count, Relaxed);
        }
        swallowed
    }
}

/// What became of the oldest frame. Cancelling it loses nothing.
async fn oldest(sent: &mut VecDeque<Sent>) -> Admission {
    match sent.front_mut() {
        Some(sent) => match timeout_at(sent.until.into(), &mut sent.admission).await {
            Ok(Ok(admission)) => admission,
            Ok(Err(_)) | Err(_) => Admission::Unread,
        },
        None => std::future::pending().await,
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

async fn refuse(answers: &Answers, Pending { envelope, tell_accepted, .. }: Pending, problem: &Problem) {
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
