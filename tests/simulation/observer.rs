//! Whoever looks at the logs while a run goes on: applies each record as it is stored, and checks
//! what must hold at every moment.
//!
//! Records are looked at in the order in which they were stored, so that what is seen is always a
//! consistent cut: no message is there without the one that it follows from.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use futures::FutureExt;
use shop_actors::{
    partition::{Handle, overlay::Look},
    query::{Found, view},
    replay::{Content, Fate, Handled, Layout, Replay},
};
use shop_domain::{
    entity::{Reply, State},
    id::Id,
    invariant::{
        Violation,
        always::{self, Seen},
        versions::{self, Sight},
    },
    kind::Kind,
    logic::Logic,
    message::Message,
    order::{self, Order, Phase},
    product::Quote,
    rows::RowKey,
    version::Current,
    wallet::Wallet,
};
use shop_nats::{
    log::{
        Identity, Log, Logs, PartitionId, Record,
        frame::{Origin, Payload, Source},
    },
    memory::MemoryLog,
    stream::layout::KindLayout,
    subject::partition_of,
};

use crate::trace::{Counts, Fault};

/// Sees everything.
#[derive(Debug)]
pub(crate) struct Observer(Mutex<Book>);

#[derive(Debug)]
struct Book {
    log: MemoryLog,
    /// How the logs were cut, one layout after the other.
    layouts: Vec<Logs>,
    replay: Replay,
    /// The last record of each kind that was looked at.
    seen: BTreeMap<Kind, u64>,
    /// Every state that an entity ever had, with the sequence of the record that made it.
    states: BTreeMap<Kind, BTreeMap<Id, Vec<(u64, State)>>>,
    /// The rows of pages as they were written last.
    pages: BTreeMap<(Id, RowKey), Vec<u8>>,
    /// By layout and link: the number of the last message that was sent at a sequence of the sender's log.
    sent: BTreeMap<(Layout, PartitionId, PartitionId), Vec<(u64, u64)>>,
    /// By link: the number of the last message that was accepted.
    accepted: BTreeMap<(PartitionId, Source), u64>,
    /// By inbox: what it is to be answered, and from where on.
    answers: BTreeMap<Box<str>, Vec<Due>>,
    /// Up to where the receipts in its log vouch for each partition.
    vouched: BTreeMap<PartitionId, u64>,
    /// Whether hosts were told of progress that there was not: what they show may be early, and nothing else.
    is_lied_to: bool,
    counts: Counts,
    checks: u64,
    violations: Vec<String>,
}

/// An answer that follows from the log: of which partition, from which sequence on, and its bytes.
type Due = (PartitionId, u64, Vec<u8>);

/// The replay as a cut through all logs.
struct AsCut<'a>(&'a Replay);

impl always::Cut for AsCut<'_> {
    fn seen<'a>(&'a self, kind: Kind, id: &'a Id) -> Option<Seen<'a>> {
        let entity = self.0.entity(kind, id)?;
        Some(Seen { id, state: &entity.state, rows: entity.stored_rows() })
    }
}

impl Observer {
    pub(crate) fn new(log: MemoryLog) -> Self {
        let identity = |kind| log.identity(kind).now_or_never().and_then(Result::ok);
        let logs: Logs =
            Kind::ALL.map(|kind| (kind, identity(kind).expect("the log in memory answers at once"))).into();
        Self(Mutex::new(Book {
            log: log.whole(),
            replay: Replay::new(logs.clone()),
            layouts: vec![logs],
            seen: BTreeMap::new(),
            states: BTreeMap::new(),
            pages: BTreeMap::new(),
            sent: BTreeMap::new(),
            accepted: BTreeMap::new(),
            answers: BTreeMap::new(),
            vouched: BTreeMap::new(),
            is_lied_to: false,
            counts: Counts::default(),
            checks: 0,
            violations: vec![],
        }))
    }

    /// Looks at all that was stored since.
    pub(crate) fn follow(&self) {
        self.book().follow();
    }

    /// An answer is given: it follows from the log, and all that belongs to it is stored.
    pub(crate) fn answered(&self, reply: &Reply) {
        let mut book = self.book();
        book.follow();
        let due = book.answers.get(&reply.to.inbox).cloned().unwrap_or_default();
        let due: Vec<_> = due.into_iter().filter(|(_, _, body)| *body == reply.answer.body).collect();
        let is_covered = due.iter().any(|(place, sequence, _)| book.missing(*place, *sequence).is_none());
        if !is_covered {
            let (inbox, body) = (&reply.to.inbox, String::from_utf8_lossy(&reply.answer.body));
            let why =
                if due.is_empty() { "does not follow from the log" } else { "came before its messages were stored" };
            let text = format!("the answer to {inbox} {why}: {body}");
            book.violations.push(text);
        }
    }

    /// A host says that all is settled up to a cursor: then the logs have all that was sent so far.
    pub(crate) fn settled(&self, kind: Kind, partition: u16, cursor: u64, what: &str) {
        let mut book = self.book();
        book.follow();
        book.checks += 1;
        if let Some(missing) = book.missing((kind, partition), cursor) {
            book.violations.push(format!("{what} of {kind}/{partition} at {cursor} runs ahead: {missing}"));
        }
    }

    /// From now on hosts may believe that all is settled which is not.
    pub(crate) fn lied_to(&self) {
        self.book().is_lied_to = true;
    }

    /// Up to where the receipts in its log vouch for a partition.
    pub(crate) fn vouched(&self, place: PartitionId) -> u64 {
        let mut book = self.book();
        book.follow();
        book.vouched.get(&place).copied().unwrap_or_default()
    }

    /// What a wallet holds after all that its log has taken.
    pub(crate) fn balance(&self, user: &Id) -> u64 {
        let mut book = self.book();
        book.follow();
        match book.replay.entity(Kind::Wallet, user).map(|entity| &entity.state) {
            Some(State::Wallet(Wallet::Open(open))) => open.balance.get(),
            Some(
                State::Wallet(Wallet::Absent)
                | State::Product(_)
                | State::Order(_)
                | State::Delivery(_)
                | State::Mypage(_),
            )
            | None => 0,
        }
    }

    /// The last record of a kind.
    pub(crate) fn last(&self, kind: Kind) -> u64 {
        let mut book = self.book();
        book.follow();
        book.seen.get(&kind).copied().unwrap_or_default()
    }

    /// Somebody is shown an entity who began to look when the log ended at `begun`: it is as it was then or later,
    /// and all that follows from what made it so is stored.
    pub(crate) fn shown(&self, kind: Kind, id: &Id, begun: u64, found: Option<&Found>) {
        let json = found.map(|found| &*found.json);
        let shown = json.map_or("nothing".into(), String::from_utf8_lossy);
        // A host that has not heard of the upgrade yet may ask another one as it asks those that know no versions.
        let may_be_untagged = self.book().layouts[0][&kind].logic < Logic::V4.number();
        let has_tag = |state: &State| match found.map(|found| found.current) {
            Some(Current::Untagged) => may_be_untagged,
            Some(current) => current == state.current(Logic::NEWEST),
            None => true,
        };
        self.told(kind, id, begun, &shown, |state| view(state, id).as_deref() == json && has_tag(state));
    }

    /// The same of a quote.
    pub(crate) fn quoted(&self, product: &Id, begun: u64, quote: Quote) {
        let is_it = |state: &State| matches!(state, State::Product(product) if product.quote() == quote);
        self.told(Kind::Product, product, begun, &format!("{quote:?}"), is_it);
    }

    /// The same of a list of all products, with those that are shown in it.
    pub(crate) fn listed(&self, begun: u64, shown: &BTreeMap<Id, &[u8]>) {
        let known: BTreeSet<Id> = {
            let book = self.book();
            book.states.get(&Kind::Product).into_iter().flat_map(BTreeMap::keys).chain(shown.keys()).cloned().collect()
        };
        for id in known {
            let json = shown.get(&id).copied();
            let text = json.map_or("nothing".into(), String::from_utf8_lossy);
            self.told(Kind::Product, &id, begun, &text, |state| view(state, &id).as_deref() == json);
        }
    }

    fn told(&self, kind: Kind, id: &Id, begun: u64, told: &str, is_it: impl Fn(&State) -> bool) {
        let mut book = self.book();
        book.follow();
        book.checks += 1;
        if let Err(why) = book.told(kind, id, begun, is_it) {
            let text = format!("{kind} {id} is shown as it {why}, to somebody who looked at {begun}: {told}");
            book.violations.push(text);
        }
    }

    /// To whom a partition sends messages because of what is between two sequences of its log, and the number of
    /// the last one.
    pub(crate) fn sent_between(&self, place: PartitionId, after: u64, to: u64) -> Vec<(PartitionId, u64)> {
        let mut book = self.book();
        book.follow();
        let last = |sent: &[(u64, u64)], at: u64| {
            let count = sent.partition_point(|(sequence, _)| *sequence <= at);
            count.checked_sub(1).map_or(0, |last| sent[last].1)
        };
        let layout = book.layout_at(place.0, to);
        let links = book.sent.iter().filter(|((of, from, _), _)| *of == layout && *from == place);
        let sent = links.map(|((_, _, target), sent)| (*target, last(sent, after), last(sent, to)));
        sent.filter(|(_, before, now)| now > before).map(|(target, _, now)| (target, now)).collect()
    }

    /// What a partition of a host, of so many, knows is what its log says, up to where the partition is.
    pub(crate) fn compare(&self, kind: Kind, handle: &Handle, partitions: u16) {
        self.settled(kind, handle.number, *handle.proven.borrow(), "what is proven");
        let is_lied_to = self.book().is_lied_to;
        if !is_lied_to {
            self.settled(kind, handle.number, *handle.settled.borrow(), "what is settled");
        }
        let compared = handle.overlay.look(|look| {
            self.book().compare((kind, handle.number), partitions, look);
            Ok(())
        });
        compared.expect("memory can be read");
    }

    /// Something else that must not happen.
    pub(crate) fn report(&self, violation: String) {
        self.book().violations.push(violation);
    }

    /// What did not hold so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.book().violations.clone()
    }

    /// How many checks were made, and what was seen to happen.
    pub(crate) fn counts(&self) -> (u64, Counts) {
        let book = self.book();
        (book.checks, book.counts.clone())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("nobody panics while looking")
    }
}

impl Book {
    fn follow(&mut self) {
        let former = self.layouts.len() - 1;
        let is_cut_anew = self.log.generation() as usize > former;
        if is_cut_anew {
            self.go_on();
        }
        self.read_on();
        if is_cut_anew {
            self.check_cut(former);
        }
    }

    /// Another layout is in force.
    fn go_on(&mut self) {
        let decided = self.log.decided();
        let cut = |(kind, now): (&Kind, &Identity)| {
            let cut = decided.of(*kind).expect("all kinds are cut anew");
            let KindLayout { partitions, epoch, begins_at: first_sequence, logic, .. } = *cut;
            (*kind, Identity { epoch, link_epoch: epoch, partitions, logic, first_sequence, ..*now })
        };
        let logs: Logs = self.layouts.last().expect("there is a first one").iter().map(cut).collect();
        self.replay.go_on(logs.clone());
        self.layouts.push(logs);
    }

    /// Nothing was under way where the logs were cut, and nothing came there that was not looked at.
    fn check_cut(&mut self, layout: Layout) {
        self.checks += 1;
        let places: BTreeSet<PartitionId> =
            self.sent.keys().filter(|(of, ..)| *of == layout).map(|(_, from, _)| *from).collect();
        for place in places {
            if let Some(missing) = self.missing_under(layout, place, u64::MAX) {
                self.violations.push(format!("the logs were cut while something was under way: {missing}"));
            }
        }
    }

    /// The layout under which a sequence of a kind's log counts.
    fn layout_at(&self, kind: Kind, sequence: u64) -> Layout {
        self.layouts.iter().rposition(|logs| logs[&kind].first_sequence <= sequence).unwrap_or(0)
    }

    fn read_on(&mut self) {
        for kind in Kind::ALL {
            loop {
                let next = self.seen.get(&kind).copied().unwrap_or_default() + 1;
                let record = self.log.record(kind, next).now_or_never().and_then(Result::ok).flatten();
                let Some(record) = record else { break };
                self.seen.insert(kind, next);
                self.apply(kind, &record);
            }
        }
    }

    fn apply(&mut self, kind: Kind, record: &Record) {
        if self.log.is_skipped(kind, record.sequence) {
            self.counts.add(Fault::FormerAppend);
        }
        let at = (kind, record.partition);
        self.check_cause(at, record);
        let mut found: Vec<Violation> = vec![];
        let (states, pages) = (self.states.entry(kind).or_default(), &mut self.pages);
        let mut sights = vec![];
        let step = self.replay.apply_and_look(kind, record, |handled, entity| {
            let Some(entity) = entity.filter(|_| handled.arrival.fate == Fate::Accepted) else { return handled };
            let envelope = &handled.arrival.envelope;
            let history = states.entry(envelope.to.clone()).or_default();
            let absent = State::absent(kind);
            let before = history.last().map_or(&absent, |(_, state)| state);
            found.extend(always::check_step(&envelope.to, before, &envelope.message, &entity.state));
            let row = versions::row_of_page(&envelope.message).map(|row| (envelope.to.clone(), row));
            let is_row = row.as_ref().and_then(|(_, row)| entity.stored_rows().get(row));
            let was_row = row.as_ref().and_then(|row| pages.get(row));
            let was = Sight::of(&envelope.to, before, was_row.map(|bytes| &**bytes));
            let is = Sight::of(&envelope.to, &entity.state, is_row.map(|bytes| &**bytes));
            sights.push((envelope.to.clone(), was, is));
            pages.extend(row.zip(is_row.cloned()));
            let seen = Seen { id: &envelope.to, state: &entity.state, rows: entity.stored_rows() };
            found.extend(always::check_entity(seen));
            count_cancel(&mut self.counts, &envelope.message, before);
            if *before != entity.state {
                history.push((record.sequence, entity.state.clone()));
            }
            handled
        });
        // Behind the record, which may be the first one under another layout: no frame changes how entities behave.
        let logic = self.replay.acceptor().logic(at, record.sequence).unwrap_or(Logic::NEWEST);
        found.extend(sights.iter().flat_map(|(id, was, is)| versions::check_version(id, logic, was, is)));
        let (source, messages) = match step.map(|step| step.content) {
            Ok(Content::Frame { source, messages }) => (source, messages),
            Ok(Content::Upgrade(_)) => return,
            Ok(Content::Dead { reason, .. }) => {
                return self
                    .violations
                    .push(format!("{kind}: sequence {} is a dead letter: {reason}", record.sequence));
            }
            Err(error) => return self.violations.push(error.to_string()),
        };
        for handled in &messages {
            self.note(at, record.sequence, source, handled);
        }
        let about: BTreeSet<_> =
            messages.iter().filter_map(|handled| always::order_of(&handled.arrival.envelope)).collect();
        found.extend(about.iter().flat_map(|order| always::check_order(order, &AsCut(&self.replay))));
        self.checks += 1;
        let place = format!("at sequence {} of {kind}", record.sequence);
        self.violations.extend(found.into_iter().map(|violation| format!("{place}: {violation}")));
    }

    /// What a frame says of its cause holds: that is in its log already, and so is all that each message follows from.
    fn check_cause(&mut self, at: PartitionId, record: &Record) {
        let Ok(Payload::Frame(frame)) = record.read(at.0) else { return };
        let (Origin::Partition(kind, partition), cause) = (frame.source.origin, frame.cause) else { return };
        let Some(cause) = cause.filter(|cause| *cause <= self.seen.get(&kind).copied().unwrap_or_default()) else {
            let text = format!("{at:?} at {}: {kind} has nothing at {cause:?}, which it follows from", record.sequence);
            return self.violations.push(text);
        };
        if frame.messages.is_empty() {
            return self.check_receipt(at, (kind, partition), cause, record.sequence);
        }
        let last = frame.first + frame.messages.len() as u64 - 1;
        let layout = self.layout_at(at.0, record.sequence);
        let sent = self.sent.get(&(layout, (kind, partition), at)).map_or(&[][..], Vec::as_slice);
        let follows_from = sent.get(sent.partition_point(|(_, number)| *number < last)).map(|(sequence, _)| *sequence);
        if follows_from.is_none_or(|sequence| sequence > cause) {
            let text = format!("{at:?} at {}: it follows from {follows_from:?}, not from {cause}", record.sequence);
            self.violations.push(text);
        }
    }

    /// What a receipt vouches for holds: the logs have all that follows from the log of its partition up to there.
    fn check_receipt(&mut self, at: PartitionId, of: PartitionId, vouched: u64, sequence: u64) {
        self.counts.add(Fault::Receipt);
        self.checks += 1;
        if at != of {
            self.violations.push(format!("{at:?} at {sequence}: a receipt of {of:?}"));
        }
        if let Some(missing) = self.missing(of, vouched) {
            self.violations.push(format!("the receipt of {of:?} at {sequence} runs ahead to {vouched}: {missing}"));
        }
        let known = self.vouched.entry(of).or_default();
        *known = vouched.max(*known);
    }

    fn note(&mut self, at: PartitionId, sequence: u64, source: Source, handled: &Handled) {
        match handled.arrival.fate {
            Fate::Accepted => drop(self.accepted.insert((at, source), handled.arrival.number)),
            Fate::Duplicate => self.counts.add(Fault::Duplicate),
            Fate::BeyondHole => self.counts.add(Fault::BeyondHole),
        }
        let layout = self.layout_at(at.0, sequence);
        for sent in &handled.sent {
            self.sent.entry((layout, at, sent.to)).or_default().push((sequence, sent.number));
        }
        for reply in &handled.replies {
            let answer = (at, sequence, reply.answer.body.clone());
            self.answers.entry(reply.to.inbox.clone()).or_default().push(answer);
            self.counts_of_answer(reply);
        }
    }

    fn counts_of_answer(&mut self, reply: &Reply) {
        if let Some(fault) = reply.answer.error.as_deref().and_then(Fault::refused) {
            self.counts.add(fault);
        }
    }

    /// Which messages that a partition sent up to a sequence of its log are not stored where they belong.
    fn missing(&self, place: PartitionId, sequence: u64) -> Option<String> {
        self.missing_under(self.layout_at(place.0, sequence), place, sequence)
    }

    fn missing_under(&self, layout: Layout, place: PartitionId, sequence: u64) -> Option<String> {
        let epoch = self.layouts[layout].get(&place.0)?.link_epoch;
        let source = Source { origin: Origin::Partition(place.0, place.1), epoch };
        let mut links = self.sent.iter().filter(|((of, from, _), _)| *of == layout && *from == place);
        links.find_map(|((_, _, to), sent)| {
            let (_, number) = sent[..sent.partition_point(|(at, _)| *at <= sequence)].last()?;
            let accepted = self.accepted.get(&(*to, source)).copied().unwrap_or_default();
            let (kind, partition) = to;
            (accepted < *number).then(|| format!("{kind}/{partition} has {accepted} of its {number} messages"))
        })
    }

    fn told(&self, kind: Kind, id: &Id, begun: u64, is_it: impl Fn(&State) -> bool) -> Result<(), String> {
        let absent = (0, State::absent(kind));
        let history = self.states.get(&kind).and_then(|states| states.get(id));
        let versions: Vec<_> = std::iter::once(&absent).chain(history.into_iter().flatten()).collect();
        let is_it = |version: &&(u64, State)| is_it(&version.1);
        if !versions.iter().copied().any(|version| is_it(&version)) {
            return Err("never was".into());
        }
        let ends = versions.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
        let current = versions.iter().zip(ends).filter(|(_, end)| *end > begun).map(|(version, _)| *version);
        let current: Vec<_> = current.filter(is_it).collect();
        if current.is_empty() {
            return Err("was before".into());
        }
        if self.is_lied_to {
            return Ok(());
        }
        let place = |at| (kind, partition_of(id, self.layouts[self.layout_at(kind, at)][&kind].partitions));
        let missing: Option<Vec<_>> = current.iter().map(|(at, _)| self.missing(place(*at), *at)).collect();
        missing.map_or(Ok(()), |missing| Err(format!("is not yet: {}", missing.join(", "))))
    }

    fn compare(&mut self, (kind, partition): PartitionId, partitions: u16, look: &Look<'_>) {
        let cursor = look.cursor();
        let mut known = BTreeMap::new();
        for (id, bytes) in look.states_after(None, usize::MAX).expect("memory can be read") {
            known.insert(id, State::decode(kind, &bytes).expect("a stored state decodes"));
        }
        let is_there = |id: &Id| partition_of(id, partitions) == partition;
        for (id, history) in self.states.get(&kind).into_iter().flatten().filter(|(id, _)| is_there(id)) {
            let expected = history[..history.partition_point(|(at, _)| *at <= cursor)].last();
            let found = known.remove(id);
            if found.as_ref() != expected.map(|(_, state)| state) {
                let text = format!("{kind} {id} at {cursor} is {found:?} instead of {expected:?}");
                self.violations.push(text);
            }
            let is_now = self.seen.get(&kind).is_some_and(|seen| *seen <= cursor);
            let rows = look.rows_before(id, "", None, usize::MAX).expect("memory can be read");
            let expected = self.replay.entity(kind, id).map(|entity| entity.stored_rows().iter().rev());
            let expected = expected.into_iter().flatten().map(|(key, bytes)| (key, &bytes[..]));
            if is_now && !rows.iter().map(|(key, bytes)| (key, &bytes[..])).eq(expected) {
                self.violations.push(format!("the rows of {kind} {id} at {cursor} are not what the log says"));
            }
        }
        for (id, state) in known {
            self.violations.push(format!("{kind}/{partition} at {cursor} knows {id} as {state:?}, the log does not"));
        }
        self.checks += 1;
    }
}

/// Counts in which phase of an order a cancel came.
fn count_cancel(counts: &mut Counts, message: &Message, before: &State) {
    let (Message::Order(order::Message::Cancel { .. }), State::Order(order)) = (message, before) else { return };
    counts.add(match order {
        Order::Absent => Fault::CancelOfNothing,
        Order::Placed(placed) => match placed.phase {
            Phase::Paying => Fault::CancelPaying,
            Phase::Taking { .. } => Fault::CancelTaking,
            Phase::Confirmed => Fault::CancelConfirmed,
            Phase::Stopping => Fault::CancelStopping,
            Phase::Rejected(_) => Fault::CancelRejected,
            Phase::Cancelled => Fault::CancelCancelled,
        },
    });
}
