//! How often a caller, and an address, may ask: each has a bucket that fills again at a rate, and holds so many seconds'
//! worth of it. Answers say how much is left, as the IETF's draft has it (`RateLimit`, `RateLimit-Policy`).

use std::{
    hash::Hash,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::StateStore,
};
use lru::LruCache;
use shop_domain::id::Id;
use shop_limits::listener::network_of;
use warp::{
    http::{HeaderName, HeaderValue},
    reply::Response,
};

use super::refusal::{Denial, Refusal};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many buckets there are at a time; the one that was used longest ago makes room, and is full when it comes again.
/// About 6 MB.
const BUCKETS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not zero");

/// So many requests a second, and so many seconds' worth of them at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: NonZeroU32,
    pub(crate) burst_seconds: NonZeroU32,
}

/// The buckets of all callers, and of all addresses, where there is such a limit.
pub(crate) struct Rates {
    callers: Option<Buckets<Id>>,
    addresses: Option<Buckets<IpAddr>>,
}

impl Rates {
    pub(crate) fn new(per_caller: Option<Rate>, per_address: Option<Rate>) -> Self {
        let callers = per_caller.map(|rate| Buckets::new("caller", Refusal::CallerRate, rate));
        let addresses = per_address.map(|rate| Buckets::new("address", Refusal::AddressRate, rate));
        Self { callers, addresses }
    }

    /// Whether there is no limit at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.callers.is_none() && self.addresses.is_none()
    }

    /// Whether there is one of addresses.
    pub(crate) fn heeds_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    /// Counts a request of that address, in IPv6 of its network of 64 bits.
    pub(crate) fn count_address(&self, address: IpAddr, standing: &mut Standing) -> Result<(), Denial> {
        match &self.addresses {
            Some(buckets) => buckets.count(&network_of(address), standing),
            None => Ok(()),
        }
    }

    /// Counts a request of that caller.
    pub(crate) fn count_caller(&self, name: &Id, standing: &mut Standing) -> Result<(), Denial> {
        match &self.callers {
            Some(buckets) => buckets.count(name, standing),
            None => Ok(()),
        }
    }

    /// How many callers, and addresses, are known.
    pub(crate) fn known(&self) -> [usize; 2] {
        [self.callers.as_ref().map_or(0, Buckets::known), self.addresses.as_ref().map_or(0, Buckets::known)]
    }
}

type Limiter<K> = RateLimiter<K, Store<K>, MonotonicClock, StateInformationMiddleware>;

struct Buckets<K: Hash + Eq + Clone> {
    /// As the headers call the limit.
    name: &'static str,
    refusal: Refusal,
    rate: Rate,
    known: Arc<Mutex<LruCache<K, Nanos>>>,
    limiter: Limiter<K>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(name: &'static str, refusal: Refusal, rate: Rate) -> Self {
        let known = Arc::new(Mutex::new(LruCache::new(BUCKETS_MAX)));
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.size());
        let limiter = RateLimiter::new(quota, Store(Arc::clone(&known)), MonotonicClock);
        Self { name, refusal, rate, known, limiter }
    }

    fn count(&self, key: &K, standing: &mut Standing) -> Result<(), Denial> {
        let (size, per_second) = (self.rate.size().get(), self.rate.per_second.get());
        match self.limiter.check_key(key) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let full_in = u64::from(size.saturating_sub(left).div_ceil(per_second));
                standing.add(self.name, self.rate, left, full_in);
                Ok(())
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.limiter.clock().now());
                let seconds = whole_seconds(wait);
                standing.add(self.name, self.rate, 0, seconds);
                Err(Denial::rate(self.refusal, seconds))
            }
        }
    }

    fn known(&self) -> usize {
        self.known.lock().expect("nobody panics with the lock").len()
    }
}

impl Rate {
    /// How many requests a full bucket holds.
    fn size(self) -> NonZeroU32 {
        self.per_second.saturating_mul(self.burst_seconds)
    }
}

/// At least one, and none that is not over yet.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero())
}

/// Keeps so many buckets and no more, whatever is asked.
struct Store<K: Hash + Eq>(Arc<Mutex<LruCache<K, Nanos>>>);

impl<K: Hash + Eq + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = self.0.lock().expect("nobody panics with the lock");
        if let Some(bucket) = known.get_mut(key) {
            let (outcome, next) = measure(Some(*bucket))?;
            *bucket = next;
            return Ok(outcome);
        }
        let (outcome, next) = measure(None)?;
        known.put(key.clone(), next);
        Ok(outcome)
    }
}

/// What an answer says of the limits: nothing where there are none.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    limits: String,
    policies: String,
}

impl Standing {
    fn add(&mut self, name: &str, rate: Rate, left: u32, full_in: u64) {
        let (size, window) = (rate.size(), rate.burst_seconds);
        for (list, entry) in [
            (&mut self.limits, format!("\"{name}\";r={left};t={full_in}")),
            (&mut self.policies, format!("\"{name}\";q={size};w={window}")),
        ] {
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(&entry);
        }
    }

    /// Says it in an answer.
    pub(crate) fn tell(self, response: &mut Response) {
        for (name, list) in [(RATE_LIMIT, self.limits), (RATE_LIMIT_POLICY, self.policies)] {
            if let Some(value) = HeaderValue::try_from(list).ok().filter(|value| !value.is_empty()) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst_seconds: u32) -> Rate {
        Rate { per_second: per_second.try_into().unwrap(), burst_seconds: burst_seconds.try_into().unwrap() }
    }

    #[test]
    fn a_bucket_is_emptied_by_its_own_caller_only_and_says_how_much_is_left() {
        let rates = Rates::new(Some(rate(1, 3)), None);
        let (alice, bob): (Id, Id) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let count = |name: &Id| {
            let mut standing = Standing::default();
            let outcome = rates.count_caller(name, &mut standing).map_err(|denial| denial.retry_after.unwrap());
            (outcome, standing.limits, standing.policies)
        };
        let policy = || "\"caller\";q=3;w=3".to_owned();
        assert_eq!(count(&alice), (Ok(()), "\"caller\";r=2;t=1".to_owned(), policy()));
        assert_eq!(count(&alice), (Ok(()), "\"caller\";r=1;t=2".to_owned(), policy()));
        assert_eq!(count(&alice), (Ok(()), "\"caller\";r=0;t=3".to_owned(), policy()));
        assert_eq!(count(&alice), (Err(1), "\"caller\";r=0;t=1".to_owned(), policy()));
        assert_eq!(count(&bob).0, Ok(()));
        assert_eq!(rates.known(), [2, 0]);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_share_a_bucket_and_those_of_ipv4_do_not() {
        let rates = Rates::new(None, Some(rate(1, 1)));
        let count = |address: &str| rates.count_address(address.parse().unwrap(), &mut Standing::default()).is_ok();
        for (address, is_let_in) in [
            ("2001:db8::1", true),
            ("2001:db8::ffff:2", false),
            ("2001:db8:0:1::1", true),
            ("10.0.0.1", true),
            ("10.0.0.2", true),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(count(address), is_let_in, "{address}");
        }
    }

    #[test]
    fn there_are_so_many_buckets_and_no_more_whoever_comes() {
        let rates = Rates::new(None, Some(rate(1, 1)));
        for number in 0..BUCKETS_MAX.get() as u32 + 10 {
            let address = IpAddr::V4(number.into());
            rates.count_address(address, &mut Standing::default()).unwrap();
        }
        assert_eq!(rates.known(), [0, BUCKETS_MAX.get()]);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_that_are_over_then() {
        for (ms, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds, "{ms}");
        }
    }
}
