//! Requests of many callers at a time, sent together and answered together: see [`crate::rpc::bundle`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_nats::{Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
};

use crate::{
    connection::{Connection, lasting::Lasting},
    rpc::{
        bundle,
        request::{Reply, Request, RequestError, read_reply},
    },
    subject,
};

/// Most requests in one bundle: all that one host takes in before it looks at others.
const BUNDLE_REQUESTS_MAX: usize = 1_024;
/// Requests that wait to be put into a bundle. Who comes later waits to get in.
const WAITING_MAX: usize = 4_096;

/// Asks doors for many callers over one connection. Requests that are handed in at the same moment for the
/// same kind travel in one message; nothing waits for others to come.
#[derive(Debug)]
pub struct Multiplexer {
    outgoing: mpsc::Sender<Numbered>,
    callers: Arc<Callers>,
    next: AtomicU64,
    connection: Lasting<Connection>,
}

/// A request under its number.
type Numbered = (u64, Arc<Request>);

/// Who waits for an answer, by the number of the request.
#[derive(Debug, Default)]
struct Callers(Mutex<HashMap<u64, Caller>>);

#[derive(Debug)]
struct Caller {
    /// The number of the bundle that its request is in, once it is in one.
    bundle: Option<u64>,
    answer: oneshot::Sender<Outcome>,
}

/// What comes of a request that was sent: none when nobody serves its kind.
type Outcome = Option<Reply>;

/// One caller's place among those who wait, given up when it is dropped.
struct Place<'a> {
    callers: &'a Callers,
    number: u64,
}

impl Multiplexer {
    /// Asks over this connection, and over another one like it once it has ended for good. Ends when it is dropped.
    pub fn new(connection: Connection) -> Self {
        let (outgoing, requests) = mpsc::channel(WAITING_MAX);
        let callers = Arc::new(Callers::default());
        let connection = Lasting::over(connection, Connection::clone);
        tokio::spawn(run(connection.clone(), requests, Arc::clone(&callers)));
        Self { outgoing, callers, next: AtomicU64::new(1), connection }
    }

    /// The connection over which it asks now.
    pub fn connection(&self) -> Connection {
        self.connection.now()
    }

    /// Whether that is up right now.
    pub fn is_connected(&self) -> bool {
        self.connection.now().is_connected()
    }

    /// Sends a request and waits for the answer, for as long as the caller polls it.
    pub async fn ask(&self, request: Arc<Request>) -> Result<Reply, RequestError> {
        let number = self.next.fetch_add(1, Relaxed);
        let (_place, answer) = self.callers.enter(number);
        let answered = async {
            self.outgoing.send((number, Arc::clone(&request))).await.ok()?;
            answer.await.ok()
        };
        let outcome = answered.await;
        let subject = || request.subject.clone();
        match outcome {
            Some(Some(reply)) => Ok(reply),
            Some(None) => Err(RequestError::NoResponders { subject: subject() }),
            None => Err(RequestError::Failed { subject: subject(), source: "the connection is closed".into() }),
        }
    }
}

impl Callers {
    fn enter(&self, number: u64) -> (Place<'_>, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        self.lock().insert(number, Caller { bundle: None, answer });
        (Place { callers: self, number }, answered)
    }

    /// Those of the requests whose callers still wait, which from now on are in that bundle.
    fn put_into(&self, bundle: u64, mut requests: Vec<Numbered>) -> Vec<Numbered> {
        let mut callers = self.lock();
        requests.retain(|(number, _)| {
            callers.get_mut(number).is_some_and(|caller| caller.bundle.replace(bundle).is_none())
        });
        requests
    }

    fn answer(&self, number: u64, reply: Reply) {
        let caller = self.lock().remove(&number);
        // Nobody waits for an answer that comes too late.
        let _ = caller.map(|caller| caller.answer.send(Some(reply)));
    }

    /// Nobody serves the kind that this bundle went to.
    fn refuse(&self, bundle: u64) {
        let mut callers = self.lock();
        let refused = callers.extract_if(|_, caller| caller.bundle == Some(bundle));
        refused.for_each(|(_, caller)| drop(caller.answer.send(None)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Caller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.callers.lock().remove(&self.number);
    }
}

async fn run(mut connection: Lasting<Connection>, mut requests: mpsc::Receiver<Numbered>, callers: Arc<Callers>) {
    loop {
        let now = connection.now();
        let inbox = bundle::new_inbox(now.inboxes());
        match now.client().subscribe(format!("{inbox}.*")).await {
            Ok(answers) => tokio::select! {
                () = send(&now, &inbox, &mut requests, &callers) => return,
                () = receive(&inbox, answers, &callers) => {}
            },
            Err(error) => tracing::error!("answers cannot be listened to: {error}"),
        }
        // Those who wait for an answer that would have come there ask again.
        tokio::select! {
            () = connection.changed() => {}
            () = async { while requests.recv().await.is_some() {} } => return,
        }
    }
}

/// Sends what waits, in bundles, until nobody can ask any more.
async fn send(connection: &Connection, inbox: &str, requests: &mut mpsc::Receiver<Numbered>, callers: &Callers) {
    let mut taken = Vec::new();
    let mut last_bundle = 0;
    while requests.recv_many(&mut taken, BUNDLE_REQUESTS_MAX).await > 0 {
        // Lets those hand in theirs who were woken by the same answers.
        yield_now().await;
        while taken.len() < BUNDLE_REQUESTS_MAX
            && let Ok(request) = requests.try_recv()
        {
            taken.push(request);
        }
        let bytes_max = connection.bundle_bytes_max();
        let bytes_of = |(_, request): &Numbered| bundle::request_bytes(request);
        for (prefix, requests) in
            bundle::by_place(taken.drain(..), |(_, request)| kind_prefix(&request.subject), bytes_of, bytes_max)
        {
            let (for_callers, plain) = requests.into_iter().partition(|(_, request)| request.caller.is_some());
            for (subject, requests) in
                [(subject::bundle(&prefix), plain), (subject::bundle_for_callers(&prefix), for_callers)]
            {
                last_bundle += 1;
                let requests = callers.put_into(last_bundle, requests);
                if requests.is_empty() {
                    continue;
                }
                let payload = bundle::encode_requests(&prefix, requests.iter().map(|(number, one)| (*number, &**one)));
                let reply_to = format!("{inbox}.b{last_bundle}");
                if let Err(error) = connection.client().publish_with_reply(subject, reply_to, payload).await {
                    tracing::warn!("{} requests could not be sent: {error}", requests.len());
                }
            }
        }
    }
}

/// Hands answers to who waits for them, until the connection is closed.
async fn receive(inbox: &str, mut answers: Subscriber, callers: &Callers) {
    while let Some(message) = answers.next().await {
        let Message { subject, payload, headers, status, .. } = message;
        let place = subject.get(inbox.len() + 1..).unwrap_or_default();
        if place == bundle::ANSWERS {
            match bundle::decode_answers(&payload) {
                Some(answers) => answers.into_iter().for_each(|(number, reply)| callers.answer(number, reply)),
                None => tracing::warn!("{} bytes that should be answers are none", payload.len()),
            }
        } else if let Ok(number) = place.parse() {
            callers.answer(number, read_reply(headers.as_ref(), payload));
        } else if let Some(bundle) = place.strip_prefix('b').and_then(|bundle| bundle.parse().ok())
            && status == Some(StatusCode::NO_RESPONDERS)
        {
            callers.refuse(bundle);
        }
    }
}

/// `shop.<kind>.`, which the subject of a request begins with.
fn kind_prefix(subject: &str) -> &str {
    let end = subject.match_indices('.').nth(1).map_or(subject.len(), |(dot, _)| dot + 1);
    &subject[..end]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply() -> Reply {
        Reply { body: Bytes::from_static(b"{}"), ..Reply::default() }
    }

    fn request(number: u64) -> Numbered {
        let subject = format!("shop.order.o-{number}.get");
        let request = Request::new(subject, Bytes::new());
        (number, Arc::new(request))
    }

    #[tokio::test]
    async fn an_answer_reaches_the_caller_with_its_number_and_no_other() {
        let callers = Callers::default();
        let ((_first, mut one), (_second, two)) = (callers.enter(1), callers.enter(2));
        callers.answer(2, reply());
        callers.answer(3, reply());
        assert_eq!(two.await.unwrap().unwrap().body, reply().body);
        assert!(one.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_is_forgotten_and_its_request_not_sent() {
        let callers = Callers::default();
        let ((gone, _), (_stays, _answer)) = (callers.enter(1), callers.enter(2));
        drop(gone);
        let sent = callers.put_into(1, vec![request(1), request(2)]);
        assert_eq!(sent.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2]);
        callers.answer(1, reply());
        assert_eq!(callers.lock().len(), 1);
    }

    #[tokio::test]
    async fn only_the_callers_of_a_bundle_that_nobody_takes_are_refused() {
        let callers = Callers::default();
        let entered: Vec<_> = (1..=4).map(|number| callers.enter(number)).collect();
        callers.put_into(1, vec![request(1), request(3)]);
        callers.put_into(2, vec![request(2)]);
        callers.refuse(1);
        let mut outcomes = Vec::new();
        let (_places, answers): (Vec<_>, Vec<_>) = entered.into_iter().unzip();
        for mut answer in answers {
            outcomes.push(answer.try_recv().ok().map(|reply| reply.is_none()));
        }
        assert_eq!(outcomes, [Some(true), None, Some(true), None]);
    }

    #[test]
    fn the_prefix_of_a_subject_is_its_kind() {
        assert_eq!(kind_prefix("shop.order.o-1.place"), "shop.order.");
        assert_eq!(kind_prefix("shop.product.list"), "shop.product.");
    }
}
