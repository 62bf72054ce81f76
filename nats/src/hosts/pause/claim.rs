//! A pause of doors: whose it is, and when it ends.
//!
//! Its owner is a key pair that the process makes that begins it, so that nobody else can renew it, not even with the same
//! key of the nats-server. A pause that ran out is over for good, however long it is still said; another one, of another
//! owner, may begin.

use std::{
    fmt,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use nkeys::KeyPair;
use tokio::time::Instant;

use super::{SILENCE_MAX, Signal};

/// How long a pause may last that is not renewed: several times what a shop needs to settle.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a pause is renewed at most, as a part of its length.
const RENEWALS_PER_LENGTH: u32 = 12;
/// So many pauses are known at a time. One operator cuts a shop anew at a time.
const KNOWN_MAX: usize = 8;
/// Longest text that is looked at as an owner's public key, which has 56 characters.
const OWNER_LENGTH_MAX: usize = 64;

/// What doors hear of a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The public key of the owner; empty for a program from before there were owners, who can renew nothing.
    pub owner: String,
    /// How often it was renewed.
    pub renewal: u64,
    /// How long it lasts from its beginning or its last renewal on.
    pub length: Duration,
    /// By the owner, of the three before it; in hexadecimal digits.
    pub signature: String,
}

/// The owner of a pause.
pub struct Owner {
    key: KeyPair,
    length: Duration,
    claim: Mutex<(Claim, Instant)>,
}

/// The pauses that doors have heard of.
#[derive(Debug, Default)]
pub struct Pauses(Vec<Pause>);

#[derive(Debug)]
struct Pause {
    owner: String,
    since: Instant,
    renewal: u64,
    /// When it runs out.
    end: Instant,
    heard: Instant,
    /// Whether it was told that it ran out.
    is_told: bool,
}

impl Owner {
    /// A new one, of pauses of this length.
    pub(crate) fn new(length: Duration) -> Self {
        let (key, length) = (KeyPair::new_user(), length.min(PAUSE_MAX));
        let claim = Claim::signed(&key, 0, length);
        Self { key, length, claim: Mutex::new((claim, Instant::now())) }
    }

    /// Renews the pause: the work for which the doors hold has got further. Costs nothing if that was said just before.
    pub fn renew(&self) {
        let mut claim = self.lock();
        let (Claim { renewal, .. }, renewed) = &*claim;
        if renewed.elapsed() >= self.length / RENEWALS_PER_LENGTH {
            *claim = (Claim::signed(&self.key, renewal + 1, self.length), Instant::now());
        }
    }

    pub(crate) fn claim(&self) -> Claim {
        self.lock().0.clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Claim, Instant)> {
        self.claim.lock().expect("nothing panics while it is renewed")
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("claim", &self.claim).finish_non_exhaustive()
    }
}

impl Claim {
    fn signed(key: &KeyPair, renewal: u64, length: Duration) -> Self {
        let mut claim = Self { owner: key.public_key(), renewal, length, signature: String::new() };
        let signature = key.sign(claim.text().as_bytes()).expect("the pair has its secret half");
        claim.signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        claim
    }

    /// Whether its owner has said this.
    fn is_genuine(&self) -> bool {
        let digits = self.signature.as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let signature: Option<Vec<u8>> = digits.iter().map(byte).collect();
        let key = KeyPair::from_public_key(&self.owner);
        key.is_ok_and(|key| signature.is_some_and(|signature| key.verify(self.text().as_bytes(), &signature).is_ok()))
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.owner, self.renewal, self.length.as_millis())
    }
}

impl Pauses {
    /// Hears a word, and returns whether it is that of a pause that has just run out.
    pub fn hear(&mut self, word: &Signal, now: Instant) -> bool {
        match word {
            Signal::Pause(claim) => self.hear_claim(claim, now),
            Signal::Recheck => false,
            Signal::Resume => {
                // One that has run out stays known: it is still said.
                self.0.retain(|pause| pause.end <= now);
                false
            }
        }
    }

    /// Since when the doors are to hold, if they are.
    pub fn since(&self, now: Instant) -> Option<Instant> {
        self.0.iter().filter(|pause| pause.until() > now).map(|pause| pause.since).min()
    }

    /// Until when they are, if nothing more is heard.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.0.iter().map(Pause::until).filter(|until| *until > now).max()
    }

    fn hear_claim(&mut self, claim: &Claim, now: Instant) -> bool {
        self.0.retain(|pause| now.duration_since(pause.heard) < PAUSE_MAX);
        let length = claim.length.min(PAUSE_MAX);
        if let Some(pause) = self.0.iter_mut().find(|pause| pause.owner == claim.owner) {
            pause.heard = now;
            if pause.end <= now {
                return !std::mem::replace(&mut pause.is_told, true);
            }
            if claim.renewal > pause.renewal && claim.is_genuine() {
                (pause.renewal, pause.end) = (claim.renewal, now + length);
            }
        } else if self.0.len() < KNOWN_MAX && claim.owner.len() <= OWNER_LENGTH_MAX {
            // A number that its owner has not said must not keep those from counting that it says.
            let renewal = if claim.is_genuine() { claim.renewal } else { 0 };
            let (owner, end) = (claim.owner.clone(), now + length);
            self.0.push(Pause { owner, since: now, renewal, end, heard: now, is_told: false });
        }
        false
    }
}

impl Pause {
    fn until(&self) -> Instant {
        self.end.min(self.heard + SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(250);

    /// Says what `claim` says, beat by beat, for as long as that; returns how long the doors held, and how often it was
    /// told that a pause ran out.
    fn say(
        pauses: &mut Pauses,
        begin: Instant,
        time: Duration,
        mut claim: impl FnMut(Duration) -> Claim,
    ) -> (Duration, u32) {
        let (mut held, mut told, mut passed) = (Duration::ZERO, 0, Duration::ZERO);
        while passed < time {
            told += u32::from(pauses.hear(&Signal::Pause(claim(passed)), begin + passed));
            if pauses.since(begin + passed).is_some() {
                held += BEAT;
            }
            passed += BEAT;
        }
        (held, told)
    }

    fn plain() -> Claim {
        Claim { owner: String::new(), renewal: 0, length: PAUSE_MAX, signature: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_its_owner_does_not_renew_ends_after_a_minute_however_long_it_is_said() {
        let begin = Instant::now();
        for claim in [plain(), Owner::new(10 * PAUSE_MAX).claim()] {
            let mut pauses = Pauses::default();
            let (held, told) = say(&mut pauses, begin, 10 * PAUSE_MAX, |_| claim.clone());
            assert_eq!((held, told), (PAUSE_MAX, 1));
            // Not even the word to open lets it begin anew.
            pauses.hear(&Signal::Resume, begin + 10 * PAUSE_MAX);
            assert_eq!(say(&mut pauses, begin + 10 * PAUSE_MAX, BEAT, |_| claim.clone()), (Duration::ZERO, 0));
            // Another one may.
            let other = Owner::new(PAUSE_MAX).claim();
            assert_eq!(say(&mut pauses, begin + 10 * PAUSE_MAX, BEAT, |_| other.clone()).0, BEAT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_gets_on_renews_its_pause_and_nobody_else_can() {
        let (owner, begin, mut pauses) = (Owner::new(PAUSE_MAX), Instant::now(), Pauses::default());
        let half = PAUSE_MAX / 2;
        for number in 0..5 {
            let from = begin + number * half;
            tokio::time::advance(half).await;
            owner.renew();
            assert_eq!(say(&mut pauses, from, half, |_| owner.claim()), (half, 0), "half {number}");
        }
        // Who has heard all of it can only say it again, or what is not signed.
        let last = owner.claim();
        let stranger = Owner::new(PAUSE_MAX);
        tokio::time::advance(PAUSE_MAX).await;
        stranger.renew();
        let Claim { signature, .. } = stranger.claim();
        for forged in [
            last.clone(),
            Claim { renewal: last.renewal + 1, ..last.clone() },
            Claim { renewal: u64::MAX, signature, ..last.clone() },
            Claim { renewal: 9, signature: "zz".repeat(64), ..last },
        ] {
            let mut forging = Pauses::default();
            say(&mut forging, begin, BEAT, |_| owner.claim());
            assert_eq!(say(&mut forging, begin + BEAT, 2 * PAUSE_MAX, |_| forged.clone()).0, PAUSE_MAX - BEAT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_not_signed_keeps_no_renewal_of_the_owner_from_counting() {
        let (owner, begin, mut pauses) = (Owner::new(PAUSE_MAX), Instant::now(), Pauses::default());
        pauses.hear(&Signal::Pause(Claim { renewal: u64::MAX, ..owner.claim() }), begin);
        tokio::time::advance(PAUSE_MAX).await;
        owner.renew();
        let until = begin + PAUSE_MAX / 2;
        pauses.hear(&Signal::Pause(owner.claim()), until);
        assert_eq!(pauses.0[0].end, until + PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn doors_open_when_they_are_told_to_or_hear_nothing_more() {
        let (begin, mut pauses) = (Instant::now(), Pauses::default());
        pauses.hear(&Signal::Pause(plain()), begin);
        assert_eq!(pauses.until(begin), Some(begin + SILENCE_MAX));
        assert_eq!(pauses.since(begin + SILENCE_MAX), None);
        pauses.hear(&Signal::Pause(plain()), begin + SILENCE_MAX);
        pauses.hear(&Signal::Resume, begin + SILENCE_MAX);
        assert_eq!(pauses.since(begin + SILENCE_MAX), None);
    }

    #[test]
    fn however_many_pauses_are_said_few_are_kept() {
        let (now, mut pauses) = (Instant::now(), Pauses::default());
        for number in 0..1_000 {
            let owner = if number % 2 == 0 { number.to_string() } else { "x".repeat(1_000_000) };
            pauses.hear(&Signal::Pause(Claim { owner, ..plain() }), now);
        }
        assert_eq!(pauses.0.len(), KNOWN_MAX);
    }
}
