//! One request that was let in: its head and body are read, a door is asked, and where its answer stays away, what is
//! known of the write is said.

use std::{pin::pin, sync::Arc, time::Instant};

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream};
use serde_json::json;
use shop_domain::{
    caller::Caller,
    id::Id,
    problem::{Code, Problem},
};
use shop_limits::turns::Turn;
use shop_nats::{
    rpc::request::{Reply, Request},
    subject,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout_at};
use warp::{http::HeaderMap, reply::Response};

use super::Gateway;
use crate::{
    body::{self, Arriving},
    doors::{Errand, Unanswered},
    entity::{self, New, OfKey},
    fate::{self, Wait},
    head::Head,
    limits::Limit,
    metrics::orders::UnderWay,
    prefer::Prefer,
    query,
    reply::{self, Asked},
    routes::{About, Input, Repeat, Route},
};

/// What came of an errand.
type Heard = Result<Reply, Unanswered>;

impl Gateway {
    /// Reads what is asked, and asks the door that it is for.
    #[expect(clippy::too_many_arguments, reason = "the parts of a request, of which each is read in its own way")]
    pub(super) async fn ask_door<S, B, E>(
        &self,
        route: &'static Route,
        id: &str,
        query: &str,
        headers: &HeaderMap,
        head: &Head,
        caller: Option<Caller>,
        body: &mut Arriving<S>,
    ) -> Result<Response, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let key = if route.is_write() { entity::idempotency_key(headers)? } else { None };
        let conditions = entity::conditions(headers)?;
        let with_key = key.is_some();
        // An order that was changed by what it is asked must know it again when it is asked once more.
        let is_repeated = route.is_write() && route.repeat == Repeat::Always && !route.places_order();
        let key = key.or_else(|| (is_repeated && !conditions.is_empty()).then(entity::new_key));
        let prefer = Prefer::of(headers);
        // What the head alone decides is said before a client is told to go on with the body.
        let existing = match route.about {
            About::Existing => Some(entity::existing(route.parameter_name(), id)?),
            About::New | About::Whole => None,
        };
        let arguments = match route.input {
            Input::Nothing => Bytes::new(),
            Input::Body => {
                body::check(headers, head)?;
                self.bodies.read(body).await.inspect_err(|problem| match problem.code {
                    Code::REQUEST_TIMEOUT => self.strikes(Limit::BodyTime),
                    Code::OVERLOADED => self.strikes(Limit::BodyBytes),
                    _ => {}
                })?
            }
            Input::Query(allowed) => query::to_json(query, allowed)?,
        };
        let _turn = if route.is_list() { Some(self.turn().await?) } else { None };
        // Only now: what is still arriving, or waits its turn, keeps nothing else out.
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| self.overloaded())?;
        let wait = Wait::begin(prefer.wait());
        let id = match route.about {
            About::Existing => existing,
            About::New => Some(match entity::new(route.kind, &arguments, key.as_ref(), caller.as_ref())? {
                New::Named(id) => id,
                New::OfKey(of_key) => self.order_of_key(route, of_key, caller.as_ref(), wait).await?,
            }),
            About::Whole => None,
        };
        let request = Request {
            subject: match &id {
                Some(id) => subject::door(route.kind, id.as_str(), route.verb),
                None => subject::door_of_kind(route.kind, route.verb),
            },
            caller,
            body: arguments,
            idempotency_key: key.map(|key| key.to_header()),
            traceparent: headers.get("traceparent").and_then(|context| context.to_str().ok()).map(str::to_owned),
            respond_async: route.is_write() && prefer.respond_async(),
            ticket: None,
            conditions,
        };
        let asked = Asked { route, id, prefer, with_key };
        let order = route.places_order().then(|| self.metrics.orders.begin());
        let answer = match &asked.id {
            Some(id) if route.repeat == Repeat::WithKey && request.idempotency_key.is_none() => {
                self.ask_once(request, id, &asked, wait).await
            }
            _ => self.ask(request, &asked, wait, permit, order.as_ref()).await,
        };
        if let (Some(order), Err(problem)) = (&order, &answer) {
            order.is_refused(problem.code);
        }
        answer
    }

    /// Asks a door for what must not be repeated. When its caller's wait ends, its fate is known; or else it is told
    /// when it will be.
    async fn ask_once(&self, request: Request, id: &Id, asked: &Asked, wait: Wait) -> Result<Response, Box<Problem>> {
        let Asked { route, prefer, .. } = asked;
        let ticket = wait.ticket();
        let void = fate::void(route.kind, id, ticket.clone(), &request);
        let request = Request { ticket: Some(ticket.clone()), ..request };
        let mut errand = Errand::new(route.kind, request, false, wait.left(), prefer.wait());
        let mut answer = pin!(self.doors.ask(&mut errand));
        let mut heard = timeout_at(wait.question, &mut answer).await.ok();
        if let None | Some(Err(Unanswered::Unknown)) = heard {
            let is_over = heard.is_some();
            let mut voided = pin!(self.doors.void(void, wait.end));
            heard = tokio::select! {
                biased;
                // That it was taken says no more whether the void was taken before it.
                late = &mut answer, if !is_over => match late {
                    Err(Unanswered::Unknown) => voided.await.map(Ok),
                    Ok(Reply { accepted: true, .. }) => voided.await.map(Ok),
                    heard => Some(heard),
                },
                reply = &mut voided => reply.map(Ok),
            };
        }
        match heard {
            Some(Ok(reply)) => {
                if reply.ticketed {
                    self.heeded.note(route.kind);
                }
                Ok(reply::of(reply, asked))
            }
            Some(Err(unanswered)) => refusal(unanswered, asked),
            None => Err(fate::unsettled(asked, self.heeded.look_after(route.kind, &ticket))),
        }
    }

    /// The order that a customer's key leads to: whether that depends on the customer is asked where the order would be
    /// that does not, so that the same key is always told the same.
    async fn order_of_key(
        &self,
        route: &Route,
        OfKey { user, shared, own }: OfKey,
        caller: Option<&Caller>,
        wait: Wait,
    ) -> Result<Id, Box<Problem>> {
        let subject = subject::door(route.kind, shared.as_str(), "key-scope");
        let question = Request::new(subject, json!({ "user": user.as_str() }).to_string());
        let request = Request { caller: caller.cloned(), ..question };
        let left = wait.question.saturating_duration_since(Instant::now().into());
        let mut errand = Errand::new(route.kind, request, true, left, left);
        let reply = self.doors.ask(&mut errand).await.map_err(|unanswered| match unanswered {
            Unanswered::Unknown => unanswered_read(route),
            Unanswered::Unreachable | Unanswered::Unserved | Unanswered::Refused(_) => unserved(route),
        })?;
        match reply.error {
            None => {
                let scope: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                Ok(if scope["by_user"] == true { own } else { shared })
            }
            // A host that does not know the question knows no such keys either.
            Some(Code::NOT_FOUND) => Ok(shared),
            Some(_) => Err(unanswered_read(route)),
        }
    }

    /// Asks a door; where it stays unknown whether a write was taken, says so, or promises it.
    async fn ask(
        &self,
        request: Request,
        asked: &Asked,
        wait: Wait,
        permit: OwnedSemaphorePermit,
        order: Option<&UnderWay>,
    ) -> Result<Response, Box<Problem>> {
        let Asked { route, id, prefer, .. } = asked;
        let answered = |reply: Reply| {
            if let Some(order) = order {
                order.is_answered(&reply);
            }
            reply::of(reply, asked)
        };
        let promised = |errand: Errand, id: &Id, permit| {
            if let Some(order) = order {
                order.is_accepted();
            }
            self.insist(errand, id.clone(), permit, order.cloned());
            reply::promised(asked)
        };
        let is_repeatable = route.repeat == Repeat::Always || request.idempotency_key.is_some();
        let mut errand = Errand::new(route.kind, request, is_repeatable, wait.left(), prefer.wait());
        let (heard, questioned) = if route.is_write() {
            self.ask_and_question(&mut errand, wait).await
        } else {
            (self.doors.ask(&mut errand).await, None)
        };
        let unanswered = match heard {
            Ok(reply) => return Ok(answered(reply)),
            Err(unanswered) => unanswered,
        };
        // What belongs to an order is held here until they open, if there is a place for it.
        if let Some(id) = id
            && route.repeat == Repeat::Always
            && self.doors.are_held(&unanswered)
            && self.doors.have_place(&mut errand)
        {
            return Ok(promised(errand, id, permit));
        }
        let is_known = match &unanswered {
            Unanswered::Unknown => !route.is_write(),
            // What too many wait for was taken; as what, the question tells.
            Unanswered::Refused(reply) => !reply.is_crowded(),
            Unanswered::Unreachable | Unanswered::Unserved => true,
        };
        match (questioned, id) {
            (_, _) if is_known => match unanswered {
                Unanswered::Refused(reply) => Ok(answered(reply)),
                Unanswered::Unreachable | Unanswered::Unserved | Unanswered::Unknown => refusal(unanswered, asked),
            },
            // There is no room for the question, which says nothing of what was asked first.
            (Some(Err(Unanswered::Refused(Reply { error: Some(Code::OVERLOADED), .. }))), _) => {
                Err(fate::unknown(asked))
            }
            (_, Some(id)) if route.repeat == Repeat::Always => Ok(promised(errand, id, permit)),
            (_, _) => Err(fate::unknown(asked)),
        }
    }

    /// Asks a door for a write that may be repeated, and before the wait ends also whether it was taken: that is
    /// returned beside it, if it was answered.
    async fn ask_and_question(&self, errand: &mut Errand, wait: Wait) -> (Heard, Option<Heard>) {
        let mut question = errand.was_it_taken(wait.left());
        let mut answer = pin!(self.doors.ask(errand));
        let heard = timeout_at(wait.question, &mut answer).await.ok();
        question.wait = wait.left();
        let mut questioned = pin!(self.doors.ask(&mut question));
        let (heard, questioned) = match heard {
            Some(Err(Unanswered::Unknown)) => (Err(Unanswered::Unknown), Some(questioned.await)),
            Some(Err(Unanswered::Refused(reply))) if reply.is_crowded() => {
                (Err(Unanswered::Refused(reply)), Some(questioned.await))
            }
            Some(heard) => return (heard, None),
            None => tokio::select! {
                biased;
                heard = &mut answer => match heard {
                    Ok(_) => return (heard, None),
                    Err(Unanswered::Unknown) => (heard, questioned.now_or_never()),
                    Err(_) => (heard, Some(questioned.await)),
                },
                heard = &mut questioned => match heard {
                    // It is taken, and may still be settled in time.
                    Ok(Reply { accepted: true, .. }) | Err(_) => (answer.await, Some(heard)),
                    Ok(_) => return (heard, None),
                },
            },
        };
        match (heard, questioned) {
            (Ok(reply), _) | (Err(_), Some(Ok(reply))) => (Ok(reply), None),
            // The question may have been taken, and with it what it asks about.
            (Err(_), None | Some(Err(Unanswered::Unknown))) => (Err(Unanswered::Unknown), None),
            (Err(unanswered), questioned) => (Err(unanswered), questioned),
        }
    }

    /// Goes on asking for an order that a caller was told is accepted, until the log has it. It takes
    /// one of the places for requests meanwhile.
    fn insist(&self, errand: Errand, order: Id, permit: OwnedSemaphorePermit, under_way: Option<UnderWay>) {
        let doors = Arc::clone(&self.doors);
        tokio::spawn(async move {
            match doors.insist(errand).await {
                Ok(_) => tracing::debug!("order {order} was taken in the end"),
                Err(_) => {
                    tracing::error!("nobody has taken order {order}, whose customer was told that it is accepted")
                }
            }
            drop((permit, under_way));
        });
    }

    async fn turn(&self) -> Result<Turn, Box<Problem>> {
        let turn = self.lists.take().await;
        turn.ok_or_else(|| {
            self.strikes(Limit::Lists);
            let at_a_time = self.lists.at_a_time();
            let detail = format!("{at_a_time} lists are being read, as many as one bridge reads at a time; try again");
            Box::new(Problem::new(Code::OVERLOADED, detail))
        })
    }

    fn overloaded(&self) -> Box<Problem> {
        self.strikes(Limit::InFlight);
        let in_flight_max = self.limits.in_flight_max;
        let detail = format!("{in_flight_max} requests are under way, as many as one bridge holds; try again");
        Box::new(Problem::new(Code::OVERLOADED, detail))
    }
}

fn unavailable(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::UNAVAILABLE, detail))
}

fn unserved(route: &Route) -> Box<Problem> {
    unavailable(format!("no process serves {} right now; try again", route.collection()))
}

fn unanswered_read(route: &Route) -> Box<Problem> {
    unavailable(format!("the process that serves {} did not answer in time; try again", route.collection()))
}

/// What is told of what was not done, or only read in vain.
fn refusal(unanswered: Unanswered, asked: &Asked) -> Result<Response, Box<Problem>> {
    match unanswered {
        Unanswered::Unreachable => Err(unavailable("the shop cannot reach NATS; try again".to_owned())),
        Unanswered::Unserved => Err(unserved(asked.route)),
        Unanswered::Refused(reply) => Ok(reply::of(reply, asked)),
        Unanswered::Unknown => Err(unanswered_read(asked.route)),
    }
}

#[cfg(test)]
mod tests {
    use warp::http::Method;

    use super::*;
    use crate::routes::{self, Found, ROUTES};

    fn asked(method: Method, path: &str) -> Asked {
        let Found::Route { number, .. } = routes::find(&method, path) else { panic!("no route for {path}") };
        Asked { route: &ROUTES[number], id: "x-1".parse().ok(), prefer: Prefer::of(&HeaderMap::new()), with_key: false }
    }

    #[test]
    fn a_kind_without_a_process_is_named() {
        let problem = unserved(asked(Method::GET, "/orders/x-1").route);
        assert_eq!(
            (problem.code, &*problem.detail),
            (Code::UNAVAILABLE, "no process serves orders right now; try again")
        );
    }
}
