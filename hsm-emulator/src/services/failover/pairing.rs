//! The steps by which a pair comes together, changes roles and comes apart. Every one is durable before it counts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::history::{History, Relation};
use super::pair::{self, Bond, PAIR, Pair, Partner, Role};
use super::set_aside;
use crate::keystore::{self, Changed, Inflow, Keystore, Mode, Piece, Transaction};
use crate::services::kms::root_keys::RootKeys;
use crate::services::region::{self, Region};

/// A region's side of a pair.
pub struct Pairing {
    region: Arc<Region>,
    keys: Arc<RootKeys>,
    dir: PathBuf,
    pair: ArcSwapOption<Pair>,
    /// When the primary was heard last, or this began.
    heard: Mutex<Instant>,
    connections: AtomicU64,
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// One step at a time.
    changing: Mutex<()>,
    /// Held while it is done.
    unused: Mutex<Unused>,
}

/// What has to follow from what was taken in, before it counts as held.
#[derive(Default)]
struct Unused {
    /// There are changes that are not in use yet.
    refresh: bool,
    /// All of it is new.
    anew: bool,
    /// Something was deleted, and may stand in the log still.
    erase: bool,
}

/// What a follower says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Where it is.
    pub region: String,
    /// Of its pairing listener.
    pub address: String,
    /// Of its keystore.
    pub history: History,
    /// Its last change.
    pub head: u64,
    /// Has its operator chosen to give up what it has alone?
    pub gives_up: bool,
}

/// What the primary says to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Of its keystore.
    pub history: History,
    /// Is everything that it acknowledges on both sides?
    pub joined: bool,
    /// `None`: the follower goes on from where it is. Else it takes in everything anew, and sets aside what it has
    /// changed since this position.
    pub reset_from: Option<u64>,
}

/// Why a step cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No partner.
    #[error("this region has no partner: 'hsm-emulator failover invite' and 'failover join' make a pair")]
    NotPaired,
    /// There is one already.
    #[error("this region is paired with {0} already")]
    AlreadyPaired(String),
    /// It is the other region's to do.
    #[error("this is the {role} region of the pair: {instead}", role = role.label())]
    Role {
        /// What it is.
        role: Role,
        /// Who does it, or how.
        instead: &'static str,
    },
    /// It would lose something, or the state does not fit.
    #[error("{0}")]
    Refused(String),
    /// The primary region goes on alone.
    #[error("the regions are detached: run 'hsm-emulator failover attach' in the primary one")]
    Detached,
    /// Both regions have gone on alone since this position.
    #[error(
        "both regions have changed keys by themselves since they were separated: 'hsm-emulator failover status' lists \
         the records. Choose the region whose changes are to be given up, and run 'hsm-emulator failover attach \
         --give-up-changes' there (they are set aside, not deleted), and 'failover attach' in the other one"
    )]
    Diverged(u64),
    /// The region refuses.
    #[error(transparent)]
    Region(#[from] region::Error),
    /// The keystore refuses.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
}

/// The result of steps.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Pairing {
    /// As the keystore has it.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn open(region: Arc<Region>, keys: Arc<RootKeys>, dir: &Path) -> Result<Self> {
        let pair = Pair::load(region.keystore())?;
        let pairing = Self {
            region,
            keys,
            dir: dir.to_owned(),
            pair: ArcSwapOption::empty(),
            heard: Mutex::new(Instant::now()),
            connections: AtomicU64::new(0),
            on_change: OnceLock::new(),
            changing: Mutex::default(),
            unused: Mutex::default(),
        };
        if let Some(pair) = pair {
            let is_primary = pair.role == Role::Primary;
            pairing.take(pair);
            if is_primary {
                pairing.resume();
            }
        }
        Ok(pairing)
    }

    /// The pair; `None` if this region has no partner.
    pub fn pair(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// The region.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The region's keystore.
    pub fn keystore(&self) -> &Keystore {
        self.region.keystore()
    }

    /// Calls this after every step. Once, before the first.
    pub fn on_change(&self, notify: impl Fn() + Send + Sync + 'static) {
        self.on_change.set(Box::new(notify)).ok();
    }

    /// The region's root keys.
    pub fn keys(&self) -> &RootKeys {
        &self.keys
    }

    /// A number for a new connection of the follower.
    pub fn new_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// The primary has just been heard.
    pub fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// For how long the primary has been silent.
    pub fn silence(&self) -> Duration {
        self.heard.lock().elapsed()
    }

    /// What was set aside so far.
    pub fn set_aside(&self) -> Vec<String> {
        set_aside::list(&self.dir.join(SET_ASIDE)).unwrap_or_default()
    }

    /// Makes this region the primary one of a pair. It writes alone until the partner has caught up.
    ///
    /// # Errors
    /// [`Error::AlreadyPaired`].
    pub fn invite(&self, partner: Partner) -> Result<()> {
        let _changing = self.changing.lock();
        if let Some(pair) = self.pair() {
            return Err(Error::AlreadyPaired(pair.partner.region.clone()));
        }
        let identity = self.region.identity().clone();
        let pair = Pair {
            region: identity.region.clone(),
            identity,
            role: Role::Primary,
            bond: Bond::Joining,
            history: History::default().begin(0),
            partner,
            gives_up: false,
        };
        self.keystore().transaction_here(|transaction| pair.store(transaction))?;
        self.take(pair);
        Ok(())
    }

    /// Forgets the partner: this region goes on alone, for good.
    ///
    /// # Errors
    /// [`Error::Role`] for the failover region, which holds another region's keys.
    pub fn dissolve(&self) -> Result<()> {
        let _changing = self.changing.lock();
        self.in_role(Role::Primary, "dissolve the pair in the primary region, or promote this one first")?;
        self.keystore().transaction_here(|transaction| {
            transaction.remove_local(PAIR)?;
            transaction.set_fence(0)
        })?;
        self.pair.store(None);
        self.keystore().gate().set(Mode::Alone, 0);
        self.notify();
        Ok(())
    }

    /// What this region says to the primary when it begins to follow it: only what is in use here counts as held.
    ///
    /// # Errors
    /// [`Error::NotPaired`], [`Error::Role`], and why something is not in use.
    pub fn hello(&self, address: &str) -> Result<Hello> {
        self.put_to_use()?;
        let pair = self.in_role(Role::Failover, "it is followed, it does not follow")?;
        Ok(Hello {
            region: pair.region.clone(),
            address: address.to_owned(),
            history: pair.history.clone(),
            head: self.keystore().head()?,
            gives_up: pair.gives_up,
        })
    }

    /// What the primary says to a follower.
    ///
    /// # Errors
    /// [`Error::Role`], [`Error::Diverged`], [`Error::Detached`], [`Error::Refused`].
    pub fn welcome(&self, hello: &Hello) -> Result<Welcome> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Primary, "it follows, it is not followed")?;
        let reset_from = match hello.history.relation(hello.head, &pair.history, self.keystore().head()?) {
            // Of two regions that have gone on alone, an operator chooses one.
            Relation::Diverged(from) if !hello.gives_up => return Err(Error::Diverged(from)),
            _ if pair.bond == Bond::Detached => return Err(Error::Detached),
            Relation::Behind => None,
            Relation::Tail(from) | Relation::Diverged(from) => Some(from),
            Relation::Ahead(from) if hello.gives_up => Some(from),
            Relation::Ahead(_) => {
                return Err(Error::Refused(
                    "the failover region holds changes that the primary one does not have (was it restored from an \
                     old copy?): promote the failover region, which loses nothing"
                        .to_owned(),
                ));
            }
        };
        if (&pair.partner.region, &pair.partner.address) != (&hello.region, &hello.address) {
            let partner = Partner {
                region: hello.region.clone(),
                address: hello.address.clone(),
                certificate: pair.partner.certificate.clone(),
            };
            self.change(|pair, _| {
                pair.partner = partner;
                Ok(())
            })?;
        }
        Ok(Welcome { history: pair.history.clone(), joined: pair.bond == Bond::Joined, reset_from })
    }

    /// From now on the primary acknowledges only what the follower holds too. The position up to which it has
    /// acknowledged by itself: once the follower holds that, it may be told.
    ///
    /// # Errors
    /// [`Error::Role`].
    pub fn join(&self) -> Result<u64> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Primary, "the primary region joins the two")?;
        match pair.bond {
            Bond::Detached => return Err(Error::Detached),
            Bond::Joined => {}
            Bond::Joining => self.change(|pair, _| {
                pair.bond = Bond::Joined;
                Ok(())
            })?,
        }
        Ok(self.keystore().head()?)
    }

    /// Begins to follow: takes on the primary's history. What this region has alone is set aside first.
    ///
    /// # Errors
    /// [`Error::Role`], and the disk's.
    pub fn follow(self: &Arc<Self>, welcome: Welcome) -> Result<Intake> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Failover, "it is followed, it does not follow")?;
        match welcome.reset_from {
            Some(from) => {
                let (records, path) = set_aside::set_aside(self.keystore(), from, &self.dir.join(SET_ASIDE))?;
                if records > 0 {
                    tracing::error!(
                        records,
                        path = %path.display(),
                        "CHANGES THAT THE PARTNER NEVER ACKNOWLEDGED are set aside: the partner's count"
                    );
                }
            }
            None => self.change(|pair, _| {
                pair.history = welcome.history.clone();
                pair.gives_up = false;
                if !welcome.joined {
                    pair.bond = Bond::Joining;
                }
                Ok(())
            })?,
        }
        let reset = welcome.reset_from.is_some().then(|| {
            let pair =
                Pair { history: welcome.history, bond: Bond::Joining, gives_up: false, ..Pair::clone(&pair) };
            Arc::new(pair)
        });
        Ok(Intake { pairing: self.clone(), reset, inflow: None })
    }

    /// This region holds everything that the primary has acknowledged, and will from now on.
    ///
    /// # Errors
    /// [`Error::Role`].
    pub fn joined(&self) -> Result<()> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Failover, "it is the primary one")?;
        if pair.bond != Bond::Joined {
            self.change(|pair, _| {
                pair.bond = Bond::Joined;
                Ok(())
            })?;
            tracing::warn!("the pair is joined: what the primary region acknowledges is in this one too");
        }
        Ok(())
    }

    /// The primary has said that it goes on alone.
    ///
    /// # Errors
    /// [`Error::Role`].
    pub fn left_alone(&self) -> Result<()> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Failover, "it is the primary one")?;
        if pair.bond != Bond::Detached {
            self.change(|pair, _| {
                pair.bond = Bond::Detached;
                Ok(())
            })?;
            tracing::warn!("the primary region goes on alone: this one falls behind");
        }
        Ok(())
    }

    /// The primary role passes to this region, in a new epoch. Until the other one follows it, it writes alone.
    ///
    /// # Errors
    /// [`Error::Refused`], unless `force`, if the primary is alive, or may have acknowledged what this region does not
    /// hold.
    pub fn promote(&self, force: bool) -> Result<u64> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Failover, "it has the primary role already")?;
        if !force && self.silence() < ALIVE {
            return Err(Error::Refused(
                "the primary region is alive: 'hsm-emulator failover switchover' there hands its role over without a \
                 gap (or --force)"
                    .to_owned(),
            ));
        }
        if !force && pair.bond != Bond::Joined {
            return Err(Error::Refused(
                "this region was not up to date when it heard of the primary region last: promoted, it would go on \
                 without changes that were acknowledged (or --force)"
                    .to_owned(),
            ));
        }
        let epoch = self.begin_epoch(Role::Primary, Bond::Joining)?;
        tracing::warn!(epoch, "THIS REGION HAS THE PRIMARY ROLE NOW");
        self.resume();
        Ok(epoch)
    }

    /// The primary has handed its role over, at this position.
    ///
    /// # Errors
    /// [`Error::Refused`] if this region does not hold everything.
    pub fn take_over(&self, head: u64) -> Result<u64> {
        let _changing = self.changing.lock();
        self.in_role(Role::Failover, "it has the primary role already")?;
        if self.keystore().head()? != head {
            return Err(Error::Refused("the primary role was handed over too early".to_owned()));
        }
        // Both hold everything at this moment, and go on so: writes wait until the other one follows.
        let epoch = self.begin_epoch(Role::Primary, Bond::Joined)?;
        tracing::warn!(epoch, "the primary role was handed over to this region");
        self.resume();
        Ok(epoch)
    }

    /// The primary goes on alone, in a new epoch: from now on a loss of this region loses what it acknowledges.
    ///
    /// # Errors
    /// [`Error::Role`].
    pub fn detach(&self) -> Result<u64> {
        let _changing = self.changing.lock();
        let pair = self.in_role(
            Role::Primary,
            "the primary one detaches; if that is lost, 'hsm-emulator failover promote' makes this one primary",
        )?;
        if pair.bond == Bond::Detached {
            return Err(Error::Refused("the regions are detached already".to_owned()));
        }
        let epoch = self.begin_epoch(Role::Primary, Bond::Detached)?;
        tracing::warn!(epoch, "detached: this region goes on alone");
        Ok(epoch)
    }

    /// The primary lets the other region follow again.
    ///
    /// # Errors
    /// [`Error::Role`], [`Error::Refused`] if nothing was detached.
    pub fn attach(&self) -> Result<()> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Primary, "attach in the primary one")?;
        if pair.bond != Bond::Detached {
            return Err(Error::Refused("the regions are not detached".to_owned()));
        }
        self.change(|pair, _| {
            pair.bond = Bond::Joining;
            Ok(())
        })
    }

    /// This region follows the other one, whatever it has done alone: that is set aside.
    ///
    /// # Errors
    /// [`Error::NotPaired`].
    pub fn give_up_changes(&self) -> Result<()> {
        let _changing = self.changing.lock();
        self.pair().ok_or(Error::NotPaired)?;
        self.change(|pair, _| {
            (pair.role, pair.bond, pair.gives_up) = (Role::Failover, Bond::Joining, true);
            Ok(())
        })?;
        tracing::warn!("an operator gives up what this region has changed alone");
        Ok(())
    }

    /// The other region was promoted: this one follows it from now on. Did it step down?
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn step_down(&self, theirs: &History, their_head: u64) -> Result<bool> {
        let _changing = self.changing.lock();
        let Some(pair) = self.pair().filter(|pair| pair.role == Role::Primary) else { return Ok(false) };
        let relation = pair.history.relation(self.keystore().head()?, theirs, their_head);
        if theirs.0.len() <= pair.history.0.len() || !matches!(relation, Relation::Behind | Relation::Tail(_))
        {
            return Ok(false);
        }
        self.change(|pair, _| {
            (pair.role, pair.bond) = (Role::Failover, Bond::Joining);
            Ok(())
        })?;
        tracing::warn!(epoch = theirs.number(), "the other region was promoted: this one steps down");
        Ok(true)
    }

    /// Hands the primary role over: nothing is written any more, the follower gets everything, and this region follows.
    /// The position at which that was.
    ///
    /// # Errors
    /// [`Error::Refused`] if the follower is not there, or too slow: then everything is as before.
    pub fn switch_over(&self) -> Result<u64> {
        let _changing = self.changing.lock();
        let pair = self.in_role(Role::Primary, "switch over in the primary one")?;
        let gate = self.keystore().gate();
        if pair.bond != Bond::Joined || !gate.is_joined() {
            return Err(Error::Refused("the failover region is not there, or not up to date yet".to_owned()));
        }
        gate.set(Mode::Draining, pair.fence());
        let handed_over = self.drain(&pair);
        if handed_over.is_err() {
            gate.set(pair.mode(), pair.fence());
        }
        handed_over
    }

    fn drain(&self, pair: &Pair) -> Result<u64> {
        let deadline = Instant::now() + DRAIN;
        loop {
            let head = self.keystore().head()?;
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() || !self.keystore().gate().wait_for(head, patience) {
                return Err(Error::Refused("the failover region does not keep up: try again".to_owned()));
            }
            // Only the other one may be promoted now, should the two lose each other at this moment.
            let following = Pair { role: Role::Failover, bond: Bond::Joining, ..pair.clone() };
            let stored = self.keystore().transaction_here(|transaction| {
                // Somebody who was let in before may have written since.
                let unchanged = transaction.head()? == head;
                if unchanged {
                    following.store(transaction)?;
                }
                Ok::<_, keystore::Error>(unchanged)
            })?;
            if stored {
                tracing::warn!("the primary role is handed over to the other region");
                self.take(following);
                return Ok(head);
            }
        }
    }

    /// The records that both have changed alone since they were together, and that this region has.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn changed_since(&self, since: u64, limit: usize) -> Result<Vec<set_aside::Difference>> {
        Ok(set_aside::changed_since(self.keystore(), since, limit)?)
    }

    /// Puts what was taken in to use, and erases what was deleted; whatever fails is done again the next time.
    fn put_to_use(&self) -> Result<()> {
        let mut unused = self.unused.lock();
        if unused.refresh {
            self.region.reload_storage()?;
            self.keys.refresh(unused.anew).map_err(|error| Error::Refused(error.to_string()))?;
            (unused.refresh, unused.anew) = (false, false);
        }
        if unused.erase {
            self.keystore().erase_log()?;
            unused.erase = false;
        }
        Ok(())
    }

    fn begin_epoch(&self, role: Role, bond: Bond) -> Result<u64> {
        self.change(|pair, transaction| {
            pair.history = pair.history.begin(transaction.head()?);
            (pair.role, pair.bond, pair.gives_up) = (role, bond, false);
            transaction.leave_gap()
        })?;
        Ok(self.pair().map_or(0, |pair| pair.history.number()))
    }

    fn in_role(&self, role: Role, instead: &'static str) -> Result<Arc<Pair>> {
        let pair = self.pair().ok_or(Error::NotPaired)?;
        if pair.role == role { Ok(pair) } else { Err(Error::Role { role: pair.role, instead }) }
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Pair, &mut Transaction<'_>) -> keystore::Result<()>,
    ) -> Result<()> {
        let changed = self.keystore().transaction_here(|transaction| {
            let mut pair = Pair::read(transaction)?.ok_or(Error::NotPaired)?;
            change(&mut pair, transaction)?;
            pair.store(transaction)?;
            Ok::<_, Error>(pair)
        })?;
        self.take(changed);
        Ok(())
    }

    fn take(&self, pair: Pair) {
        self.keystore().gate().set(pair.mode(), pair.fence());
        self.pair.store(Some(Arc::new(pair)));
        self.notify();
    }

    fn notify(&self) {
        if let Some(notify) = self.on_change.get() {
            notify();
        }
    }

    /// What only a primary does: goes on with a rotation of the master key that it, or the other one, had begun. It may
    /// have to wait for the partner; it is tried again.
    fn resume(&self) {
        if let Err(error) = self.region.resume_reencryption() {
            tracing::error!(%error, "a rotation of the master key cannot be finished, and will be tried again");
        }
    }
}

/// What the primary sends, on its way into the follower's keystore.
pub struct Intake {
    pairing: Arc<Pairing>,
    /// Everything is taken in anew, and this is stored with it.
    reset: Option<Arc<Pair>>,
    inflow: Option<Inflow>,
}

impl Intake {
    /// Is it in the middle of a series? Then nobody else writes.
    pub fn is_midway(&self) -> bool {
        self.inflow.is_some()
    }

    /// Takes a piece in. The position up to which everything is durable now, and in use; `None` if more belongs to it.
    ///
    /// # Errors
    /// [`Error::Role`] if this region has been promoted meanwhile.
    pub fn take(&mut self, piece: &Piece) -> Result<Option<u64>> {
        if piece.changes.is_empty() && !piece.more && self.inflow.is_none() && self.reset.is_none() {
            return Ok(Some(piece.revision));
        }
        let mut inflow = match self.inflow.take() {
            Some(inflow) => inflow,
            None => self.begin()?,
        };
        for change in &piece.changes {
            inflow.apply(change)?;
        }
        {
            // Noted before it is durable: what cannot be put to use now, is before the next hello.
            let mut unused = self.pairing.unused.lock();
            unused.refresh = true;
            unused.anew |= self.reset.is_some();
            // What was deleted in the primary region leaves this disk too before it is acknowledged.
            unused.erase |= self.reset.is_some() || piece.changes.iter().any(erases);
        }
        if piece.more {
            self.inflow = Some(inflow);
            return Ok(None);
        }
        if let Some(pair) = &self.reset {
            inflow.set_local(PAIR, &pair.to_body()?)?;
        }
        inflow.commit()?;
        if let Some(pair) = self.reset.take() {
            // While nobody else can write: a promotion that waits for that comes after it.
            self.pairing.take(Pair::clone(&pair));
        }
        drop(inflow);
        self.pairing.put_to_use()?;
        Ok(Some(piece.revision))
    }

    fn begin(&self) -> Result<Inflow> {
        let mut inflow = self.pairing.keystore().inflow()?;
        // As the keystore has it: whoever promotes this region writes there first.
        let pair = inflow.local(PAIR)?.map(|body| pair::parse(&body)).transpose()?;
        if pair.is_none_or(|pair| pair.role != Role::Failover) {
            return Err(Error::Role { role: Role::Primary, instead: "it was promoted" });
        }
        if self.reset.is_some() {
            inflow.clear()?;
        }
        Ok(inflow)
    }
}

fn erases(change: &Changed) -> bool {
    change.record.is_none() || change.kind == crate::services::stored_keys::ROOT_KEY
}

/// Directory of what was set aside, in the state directory.
pub const SET_ASIDE: &str = "set-aside";
/// A primary that was heard so recently is not promoted against.
const ALIVE: Duration = Duration::from_secs(1);
/// How long a switchover waits for the follower.
const DRAIN: Duration = Duration::from_secs(10);
