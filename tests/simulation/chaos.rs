//! What goes wrong: drawn from a seed, or written down moment by moment.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use shop_domain::kind::Kind;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    sim::Event,
    trace::{Counts, Fault},
};

/// How long everything takes in a scripted run: so long that checkpoints fall between the steps.
const SCRIPTED_DELAY: Duration = Duration::from_millis(300);
/// How late what is late comes: after several checkpoints.
const LATE: Duration = Duration::from_secs(2);
/// How long a lost reader is away at most.
const READER_AWAY: Duration = Duration::from_secs(1);
/// How long the logs take nothing in an outage: longer than a host waits for them when it ends.
const OUTAGE: Duration = Duration::from_secs(15);
/// What a slow partition takes for a record or an acknowledgement: less than the five seconds after
/// which a publisher sends again.
const SLOW: Duration = Duration::from_secs(3);
/// For how long at most something is frozen that asks, or says, how the logs are cut.
const FROZEN_MS: u64 = 8_000;

/// A moment at which something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A door hands a frame to the log.
    Request,
    /// A partition hands a frame to the log.
    Append,
    /// A record reaches a host.
    Delivery,
    /// A host writes a checkpoint.
    Checkpoint,
    /// A host answers a caller.
    Reply,
    /// A host has written a snapshot but for its last byte.
    Snapshot,
}

/// With what a host comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Its last checkpoints.
    Latest,
    /// Those that it had one checkpoint earlier.
    Older,
    /// None.
    Nothing,
}

/// What happens to whoever lives through the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    Refused,
    Lost,
    Unacknowledged,
    Twice,
    Late,
    ReaderLost,
    ReadFailed,
    CrashBefore(Keep),
    CrashAfter(Keep),
}

/// What somebody else does at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// A customer cancels the order.
    Cancel,
    /// The delivery leaves the house.
    Dispatch,
    /// The customer sends the order once more.
    PlaceAgain,
    /// A second host of the kind starts.
    SecondHost(Keep),
    /// The host of the kind is stopped in peace, and started again; of several the owner.
    Stop,
    /// The host of the kind is killed that owns its partition.
    KillOwner,
    /// The host of the kind is killed that does not.
    KillStandby,
    /// The owner and its standby do not hear of each other for a while: both work.
    TwoOwners,
    /// Both hear of a third host that is to be the owner, and is not there.
    NoOwner,
    /// The owner works, and does not say how far it is.
    SilentOwner,
    /// The connection is lost and comes back.
    Disrupt,
}

/// Either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Harm(Harm),
    Act(Act),
}

/// A trouble at the moment with that number.
pub(crate) type Script = Vec<(usize, Trouble)>;

/// Every trouble and how it is written.
const TROUBLES: [(Trouble, &str); 26] = [
    (Trouble::Harm(Harm::Refused), "refused"),
    (Trouble::Harm(Harm::Lost), "lost"),
    (Trouble::Harm(Harm::Unacknowledged), "unacknowledged"),
    (Trouble::Harm(Harm::Twice), "twice"),
    (Trouble::Harm(Harm::Late), "late"),
    (Trouble::Harm(Harm::ReaderLost), "reader-lost"),
    (Trouble::Harm(Harm::ReadFailed), "read-failed"),
    (Trouble::Harm(Harm::CrashBefore(Keep::Latest)), "crash-before"),
    (Trouble::Harm(Harm::CrashBefore(Keep::Older)), "crash-before-older"),
    (Trouble::Harm(Harm::CrashBefore(Keep::Nothing)), "crash-before-nothing"),
    (Trouble::Harm(Harm::CrashAfter(Keep::Latest)), "crash-after"),
    (Trouble::Harm(Harm::CrashAfter(Keep::Older)), "crash-after-older"),
    (Trouble::Harm(Harm::CrashAfter(Keep::Nothing)), "crash-after-nothing"),
    (Trouble::Act(Act::Cancel), "cancel"),
    (Trouble::Act(Act::Dispatch), "dispatch"),
    (Trouble::Act(Act::PlaceAgain), "place-again"),
    (Trouble::Act(Act::SecondHost(Keep::Latest)), "second-host"),
    (Trouble::Act(Act::SecondHost(Keep::Older)), "second-host-older"),
    (Trouble::Act(Act::SecondHost(Keep::Nothing)), "second-host-nothing"),
    (Trouble::Act(Act::Stop), "stop"),
    (Trouble::Act(Act::Disrupt), "disrupt"),
    (Trouble::Act(Act::KillOwner), "kill-owner"),
    (Trouble::Act(Act::KillStandby), "kill-standby"),
    (Trouble::Act(Act::TwoOwners), "two-owners"),
    (Trouble::Act(Act::NoOwner), "no-owner"),
    (Trouble::Act(Act::SilentOwner), "silent-owner"),
];

impl Act {
    /// Whether it takes several hosts of a kind.
    pub(crate) const fn needs_company(self) -> bool {
        match self {
            Self::KillOwner | Self::KillStandby | Self::TwoOwners | Self::NoOwner | Self::SilentOwner => true,
            Self::Cancel | Self::Dispatch | Self::PlaceAgain | Self::SecondHost(_) | Self::Stop | Self::Disrupt => {
                false
            }
        }
    }
}

impl Moment {
    /// Whether a harm can happen at such a moment.
    const fn allows(self, harm: Harm) -> bool {
        match harm {
            Harm::Refused => matches!(self, Self::Request | Self::Append | Self::Snapshot),
            Harm::Lost | Harm::Unacknowledged => matches!(self, Self::Request | Self::Append),
            Harm::Twice | Harm::Late | Harm::ReaderLost | Harm::ReadFailed => matches!(self, Self::Delivery),
            Harm::CrashBefore(Keep::Latest) => true,
            // A door has no checkpoints.
            Harm::CrashBefore(Keep::Older | Keep::Nothing) => !matches!(self, Self::Request),
            Harm::CrashAfter(Keep::Latest) => !matches!(self, Self::Delivery),
            Harm::CrashAfter(Keep::Older | Keep::Nothing) => !matches!(self, Self::Request | Self::Delivery),
        }
    }

    /// Everything that can happen at such a moment.
    pub(crate) fn troubles(self) -> impl Iterator<Item = Trouble> {
        TROUBLES.iter().map(|(trouble, _)| *trouble).filter(move |trouble| match trouble {
            Trouble::Harm(harm) => self.allows(*harm),
            Trouble::Act(_) => true,
        })
    }
}

/// What goes wrong in one run, until it is switched off.
#[derive(Debug)]
pub(crate) struct Mischief {
    plan: Mutex<Plan>,
    counts: Mutex<Counts>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
enum Plan {
    Quiet,
    Seeded(Seeded),
    Scripted { script: Script, passed: Vec<Moment> },
}

#[derive(Debug)]
struct Seeded {
    chance: fastrand::Rng,
    /// Of a hundred frames, so many are refused, lost, or stored without an acknowledgement.
    faults_percent: u32,
    /// Of a thousand moments, at so many a host dies.
    deaths_per_mille: u32,
    /// The partition of a kind that takes its time.
    slow: Option<(Kind, u16)>,
    /// Until when the logs take nothing.
    outage: Instant,
}

impl Mischief {
    /// Nothing goes wrong until there is a plan; what others are to do is told to `events`.
    pub(crate) fn new(events: mpsc::UnboundedSender<Event>) -> Self {
        Self { plan: Mutex::new(Plan::Quiet), counts: Mutex::default(), events }
    }

    /// From here on chance decides.
    pub(crate) fn seed(&self, seed: u64) {
        let mut chance = fastrand::Rng::with_seed(seed);
        // Every third run has a quiet log, so that crashes are also tried on their own, and every
        // third has hosts that only die when the plan says so.
        let faults_percent = if chance.u8(0..3) == 0 { 0 } else { chance.u32(1..30) };
        let deaths_per_mille = if chance.u8(0..3) == 0 { 0 } else { chance.u32(1..12) };
        let kind = Kind::ALL[chance.usize(0..Kind::ALL.len())];
        let slow = (chance.u8(0..6) == 0).then(|| (kind, chance.u16(0..2)));
        *self.plan() = Plan::Seeded(Seeded { chance, faults_percent, deaths_per_mille, slow, outage: Instant::now() });
    }

    /// From here on the script decides; its moments count from here.
    pub(crate) fn follow(&self, script: Script) {
        *self.plan() = Plan::Scripted { script, passed: vec![] };
    }

    /// From here on nothing goes wrong. Returns the moments that a script had to choose from.
    pub(crate) fn switch_off(&self) -> Vec<Moment> {
        match std::mem::replace(&mut *self.plan(), Plan::Quiet) {
            Plan::Scripted { passed, .. } => passed,
            Plan::Quiet | Plan::Seeded(_) => vec![],
        }
    }

    /// What goes wrong at this moment of a host, or door, of a kind.
    pub(crate) fn at(&self, moment: Moment, kind: Kind) -> Option<Harm> {
        let (harm, act) = match &mut *self.plan() {
            Plan::Quiet => (None, None),
            Plan::Seeded(seeded) => {
                let before = seeded.outage;
                let harm = seeded.draw(moment);
                if seeded.outage > before {
                    self.count(Fault::Outage);
                }
                (harm, None)
            }
            Plan::Scripted { script, passed } => {
                let number = passed.len();
                passed.push(moment);
                let here = || script.iter().filter(|(at, _)| *at == number).map(|(_, trouble)| *trouble);
                let harm = here().find_map(|trouble| if let Trouble::Harm(harm) = trouble { Some(harm) } else { None });
                let act = here().find_map(|trouble| if let Trouble::Act(act) = trouble { Some(act) } else { None });
                (harm, act)
            }
        };
        if let Some(act) = act {
            let _the_run_is_over = self.events.send(Event::Act(act, kind));
        }
        harm.inspect(|harm| {
            let fault = match (harm, moment) {
                (Harm::Refused, Moment::Snapshot) => Fault::SnapshotRefused,
                (Harm::Refused, _) => Fault::PublishRefused,
                (Harm::Lost, _) => Fault::PublishLost,
                (Harm::Unacknowledged, _) => Fault::AcknowledgementLost,
                (Harm::Twice, _) => Fault::DeliveredTwice,
                (Harm::Late, _) => Fault::DeliveredLate,
                (Harm::ReaderLost, _) => Fault::ReaderLost,
                (Harm::ReadFailed, _) => Fault::ReadFailed,
                (Harm::CrashBefore(_) | Harm::CrashAfter(_), Moment::Request) => Fault::DoorCrash,
                (Harm::CrashBefore(_), Moment::Append) => Fault::CrashBeforePublish,
                (Harm::CrashAfter(_), Moment::Append) => Fault::CrashAfterPublish,
                (Harm::CrashBefore(_) | Harm::CrashAfter(_), Moment::Delivery) => Fault::CrashBeforeApply,
                (Harm::CrashBefore(_), Moment::Checkpoint) => Fault::CrashBeforeCheckpoint,
                (Harm::CrashAfter(_), Moment::Checkpoint) => Fault::CrashAfterCheckpoint,
                (Harm::CrashBefore(_), Moment::Reply) => Fault::CrashBeforeReply,
                (Harm::CrashAfter(_), Moment::Reply) => Fault::CrashAfterReply,
                (Harm::CrashBefore(_), Moment::Snapshot) => Fault::CrashBeforeSnapshot,
                (Harm::CrashAfter(_), Moment::Snapshot) => Fault::CrashAfterSnapshot,
            };
            self.count(fault);
        })
    }

    /// How long an acknowledgement takes.
    pub(crate) fn acknowledgement_delay(&self, kind: Kind, partition: u16) -> Duration {
        match &mut *self.plan() {
            Plan::Quiet => Duration::ZERO,
            Plan::Scripted { .. } => Duration::from_millis(1),
            Plan::Seeded(seeded) if seeded.slow == Some((kind, partition)) => {
                self.count(Fault::SlowAcknowledgement);
                SLOW
            }
            Plan::Seeded(seeded) => Duration::from_millis(seeded.chance.u64(0..4)),
        }
    }

    /// How long a record takes to its reader.
    pub(crate) fn delivery_delay(&self, kind: Kind, partition: u16) -> Duration {
        match &mut *self.plan() {
            Plan::Quiet => Duration::ZERO,
            Plan::Scripted { .. } => SCRIPTED_DELAY,
            Plan::Seeded(seeded) => {
                if seeded.slow == Some((kind, partition)) && seeded.chance.u8(0..8) == 0 {
                    self.count(Fault::SlowRecord);
                    return SLOW;
                }
                Duration::from_millis(seeded.chance.u64(0..2))
            }
        }
    }

    /// How long a question takes on its way to whoever says how the logs are cut, or the answer; and for how long who
    /// asks is frozen meanwhile, if it is.
    pub(crate) fn way(&self) -> (Duration, Option<Duration>) {
        match &mut *self.plan() {
            Plan::Quiet | Plan::Scripted { .. } => (Duration::ZERO, None),
            Plan::Seeded(Seeded { chance, .. }) => {
                let frozen = chance.u8(..) == 0;
                let frozen = frozen.then(|| Duration::from_millis(chance.u64(0..FROZEN_MS)));
                (Duration::from_millis(chance.u64(0..3)), frozen)
            }
        }
    }

    /// How late something comes that is late, or how long a lost reader is away.
    pub(crate) fn long_delay(&self) -> Duration {
        match &mut *self.plan() {
            Plan::Quiet | Plan::Scripted { .. } => LATE,
            Plan::Seeded(seeded) => seeded.chance.u32(0..1_000) * READER_AWAY / 1_000,
        }
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.counts.lock().expect("counting does not panic").add(fault);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().expect("counting does not panic").clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("nobody panics while drawing")
    }
}

impl Seeded {
    fn draw(&mut self, moment: Moment) -> Option<Harm> {
        if self.chance.u32(0..1_000) < self.deaths_per_mille {
            let keep = [Keep::Latest, Keep::Older, Keep::Nothing][self.chance.usize(0..3)];
            let crash = if self.chance.bool() { Harm::CrashBefore(keep) } else { Harm::CrashAfter(keep) };
            return moment.allows(crash).then_some(crash);
        }
        match moment {
            Moment::Request | Moment::Append if Instant::now() < self.outage => Some(Harm::Lost),
            Moment::Delivery if Instant::now() < self.outage && self.chance.u8(0..8) == 0 => Some(Harm::ReadFailed),
            Moment::Append if self.chance.u32(0..800) == 0 => {
                self.outage = Instant::now() + OUTAGE;
                Some(Harm::Lost)
            }
            Moment::Request | Moment::Append if self.chance.u32(0..100) < self.faults_percent => {
                Some([Harm::Refused, Harm::Unacknowledged, Harm::Lost][self.chance.usize(0..3)])
            }
            Moment::Delivery => match self.chance.u32(0..1_000) {
                0..=99 => Some(Harm::Twice),
                100..=149 => Some(Harm::Late),
                150..=161 => Some(Harm::ReaderLost),
                162..=164 => Some(Harm::ReadFailed),
                165.. => None,
            },
            Moment::Snapshot if self.chance.u32(0..100) < self.faults_percent => Some(Harm::Refused),
            Moment::Request | Moment::Append | Moment::Checkpoint | Moment::Reply | Moment::Snapshot => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TROUBLES.iter().find(|(trouble, _)| trouble == self).map(|(_, name)| *name);
        f.write_str(name.expect("every trouble has a name"))
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = TROUBLES.iter().find(|(_, name)| *name == text).map(|(trouble, _)| *trouble);
        found.ok_or_else(|| format!("no such trouble: {text}"))
    }
}
