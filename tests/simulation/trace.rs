//! What happened in runs, counted: a fault that never happens is not tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that went wrong, or came at an awkward moment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every fault, in the order of the table.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    PublishRefused = "publish refused",
    PublishLost = "publish lost",
    AcknowledgementLost = "publish stored, acknowledgement lost",
    BeyondHole = "message beyond a hole in a burst, ignored",
    Duplicate = "message that came again, ignored",
    Disrupted = "connection lost and back",
    Outage = "outage: for a while the logs take nothing",
    SlowAcknowledgement = "acknowledgement of a slow partition, after seconds",
    SlowRecord = "record of a slow partition, after seconds",
    DeliveredTwice = "record delivered twice",
    DeliveredLate = "record delivered late",
    ReaderLost = "reader lost, made anew",
    ReadFailed = "reader failed, host started again",
    CrashBeforePublish = "crash before a publish",
    CrashAfterPublish = "crash after a publish, before its acknowledgement",
    CrashBeforeApply = "crash when a record came",
    CrashBeforeCheckpoint = "crash before a checkpoint",
    CrashAfterCheckpoint = "crash after a checkpoint",
    CrashBeforeReply = "crash before an answer, which is lost",
    CrashAfterReply = "crash after an answer",
    CrashAtAnyTime = "crash at any time",
    CrashUnread = "crashed host had not read all",
    CrashUnsettled = "crashed host had messages on their way",
    CrashUnsaved = "crashed host had more than its checkpoint",
    CrashSaved = "crashed host had saved all",
    FromLatest = "host back from its last checkpoint",
    FromOlder = "host back from an older checkpoint",
    FromNothing = "host back without checkpoint",
    Stopped = "host stopped in peace and started again",
    SecondHost = "second host on the same partitions",
    HandedOver = "owner stopped in peace, with others to take over",
    Promoted = "standby became the owner",
    PromotedHolding = "standby became the owner of what it held back",
    Demoted = "owner became a standby",
    DemotedSending = "owner became a standby with messages on their way",
    TwoOwners = "two owners of a partition at a time",
    NoOwner = "no owner of a partition for a while",
    SentByStandby = "standby sent what its owner said nothing of",
    CrashOfOwner = "crashed host owned partitions",
    CrashOfStandby = "crashed host was a standby",
    CrashHolding = "crashed standby held messages back",
    StopHolding = "stopped standby held messages back",
    TookUp = "host took up more partitions",
    LetGo = "host let go of partitions",
    HearsayLost = "announcement of a host lost",
    HearsayLate = "announcement of a host late",
    HearsayOld = "progress of an owner that was known to be further",
    CutOff = "host cut off from the others, all work on",
    Deaf = "host heard nothing of the others",
    Silent = "owner did not say how far it is",
    Ghost = "host announced that is not there",
    Lied = "host announced that lies about its progress",
    Receipt = "owner said in the log how far it is",
    LookedAtOwner = "customer looked at what its owner shows",
    LookedAtStandby = "customer looked at what a standby shows",
    LookedElsewhere = "customer looked at what another host holds",
    LookedAtList = "customer looked at the list of all products",
    Quoted = "customer was quoted prices",
    LookedInVain = "customer looked in vain: the host is behind its log, or its layout is not in force",
    SnapshotWritten = "snapshot written",
    SnapshotRefused = "snapshot refused by the object store",
    CrashBeforeSnapshot = "crash before a snapshot was complete",
    CrashAfterSnapshot = "crash after a snapshot was complete",
    SnapshotDamaged = "newest snapshot damaged",
    SnapshotLost = "newest snapshot gone",
    LogCut = "log cut behind snapshots",
    CutUnderReader = "log cut ahead of a host that was reading it",
    Restored = "host without checkpoint restored from a snapshot",
    RestoredBehind = "host behind a log that was cut restored",
    RestoredOlder = "host restored from an older snapshot",
    HostFrozen = "host frozen for a while",
    DoorFrozen = "door frozen for a while",
    FrozenWhileCutting = "who asks or says how the logs are cut frozen right then",
    Repartitioned = "shop cut into other partitions",
    FrozenBehind = "host frozen while the shop was cut into other partitions",
    RepartitionFailed = "repartitioning came to nothing",
    RepartitionKilled = "repartitioning killed",
    EndedBehind = "host ended because the shop was cut into other partitions",
    BegunAnew = "host began anew under another layout",
    HeldByDoors = "request held by doors while the shop is cut",
    FormerDoor = "request through a door of a former layout",
    GivenBack = "stream given back the subjects of a former layout",
    FormerAppend = "message let in under a former layout",
    Upgraded = "partition went on with a newer logic",
    ClockPutBack = "clock of the logs put back",
    DoorCrash = "door crashed, its callers asked again",
    CancelOfNothing = "cancel of an order that is not there",
    CancelPaying = "cancel while it is being paid",
    CancelTaking = "cancel while its pieces are taken",
    CancelConfirmed = "cancel after it was confirmed",
    CancelStopping = "cancel while it is being cancelled",
    CancelRejected = "cancel after it was rejected",
    CancelCancelled = "cancel after it was cancelled",
    Frozen = "write without a key frozen on its way",
    Voided = "write without a key voided",
    LookedAfterwards = "write that could not be voided looked for when its time was over",
    SentAnew = "write without a key sent anew, because it was not done",
    AskedAgain = "request repeated under its key",
    AskedOtherwise = "another request under a key in use",
    Trespassed = "request for a customer about what is another's",
    NotFound = "refused: not_found",
    AlreadyExists = "refused: already_exists",
    InsufficientBalance = "refused: insufficient_balance",
    OutOfStock = "refused: out_of_stock",
    PriceChanged = "refused: price_changed",
    NotCancellable = "refused: not_cancellable",
    NotDispatchable = "refused: not_dispatchable",
    NotDeliverable = "refused: not_deliverable",
    KeyReused = "refused: idempotency_key_reused",
    Forbidden = "refused: forbidden",
}

impl Fault {
    /// The fault that is an answer with that code.
    pub(crate) fn refused(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|fault| fault.text().strip_prefix("refused: ") == Some(code))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// How often each fault happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    pub(crate) fn add(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}

/// What runs were, in numbers; the digest tells two runs apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) digest: u64,
    pub(crate) runs: u64,
    pub(crate) requests: u64,
    pub(crate) records: u64,
    /// Records after each of which the invariants were checked, and moments at which hosts were
    /// compared with the log.
    pub(crate) checks: u64,
    pub(crate) faults: Counts,
}

impl Trace {
    pub(crate) fn add(&mut self, run: &Self) {
        self.runs += run.runs;
        self.requests += run.requests;
        self.records += run.records;
        self.checks += run.checks;
        self.faults.merge(&run.faults);
    }

    /// What did not happen once.
    pub(crate) fn missing(&self) -> BTreeSet<Fault> {
        Fault::ALL.iter().copied().filter(|fault| !self.faults.0.contains_key(fault)).collect()
    }

    /// The numbers on one line.
    pub(crate) fn summary(&self) -> String {
        let Self { runs, requests, records, checks, .. } = self;
        let faults: u64 = self.faults.0.values().sum();
        format!("{runs} runs, {requests} requests, {records} records in the logs, {checks} checks, {faults} faults")
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        for fault in Fault::ALL {
            writeln!(f, "  {fault:<56} {:>9}", self.faults.0.get(fault).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}
