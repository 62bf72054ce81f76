//! Who is let in and who is not, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Guard, identity::Means, refusal::Refusal};

type Number = Gauge<u64, AtomicU64>;

/// What is counted of every request of a route, and how what it depends on is.
pub(crate) struct Admissions {
    /// By means, and by refusal.
    admitted: [Counter; Means::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    tokens: Number,
    issuer_keys: Number,
    issuer_keys_age: Gauge<f64, AtomicU64>,
    issuer_failures: Counter,
    api_keys: Number,
    is_api_keys_file_good: Number,
    /// Of callers, and of addresses.
    buckets: [Number; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOwner {
    by: &'static str,
}

impl Admissions {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let outcomes = Family::<OfOutcome, Counter>::default();
        // Each is there from the beginning, so that the first time shows as a rise.
        let counter = |outcome| outcomes.get_or_create_owned(&OfOutcome { outcome });
        let admitted = Means::ALL.map(|means| counter(means.name()));
        let refused = Refusal::ALL.map(|refusal| counter(refusal.name()));
        let buckets = Family::<OfOwner, Number>::default();
        let of = ["caller", "address"].map(|by| buckets.get_or_create_owned(&OfOwner { by }));
        let [tokens, issuer_keys, api_keys, is_api_keys_file_good] = [(); 4].map(|()| Number::default());
        let (issuer_keys_age, issuer_failures) = (Gauge::default(), Counter::default());
        registry.register("auth", "Requests by how it was known who asks, or by why they were not let in", outcomes);
        registry.register("tokens_known", "Tokens that were found good and are known", tokens.clone());
        registry.register("issuer_keys", "Keys of the issuer that tokens are checked with", issuer_keys.clone());
        let meaning = "Since when the issuer's keys are known as they are; 0 while there are none";
        registry.register_with_unit("issuer_keys_age", meaning, Unit::Seconds, issuer_keys_age.clone());
        registry.register("issuer_failures", "Times that the issuer's keys could not be read", issuer_failures.clone());
        registry.register("api_keys", "Keys of programs that are taken", api_keys.clone());
        let meaning = "1 when the file with the keys of programs was good when it was looked at last, else 0";
        registry.register("api_keys_file_good", meaning, is_api_keys_file_good.clone());
        registry.register("rate_buckets", "Callers and addresses whose rate is known", buckets);
        Self {
            admitted,
            refused,
            tokens,
            issuer_keys,
            issuer_keys_age,
            issuer_failures,
            api_keys,
            is_api_keys_file_good,
            buckets: of,
        }
    }

    pub(crate) fn admits(&self, means: Means) {
        self.admitted[means as usize].inc();
    }

    pub(crate) fn refuses(&self, refusal: Refusal) {
        self.refused[refusal as usize].inc();
    }

    /// Looks how what it depends on is.
    pub(crate) fn look(&self, guard: &Guard) {
        let set = |gauge: &Number, number: usize| gauge.inner().store(number as u64, Relaxed);
        if let Some(tokens) = &guard.tokens {
            set(&self.tokens, tokens.known());
            set(&self.issuer_keys, tokens.jwks().current().count());
            self.issuer_keys_age.set(tokens.jwks().age().unwrap_or_default().as_secs_f64());
            self.issuer_failures.inner().store(tokens.jwks().failures(), Relaxed);
        }
        if let Some(keys) = &guard.api_keys {
            let (count, is_good) = keys.state();
            set(&self.api_keys, count);
            set(&self.is_api_keys_file_good, usize::from(is_good));
        }
        for (gauge, known) in self.buckets.iter().zip(guard.rates.known()) {
            set(gauge, known);
        }
    }
}
