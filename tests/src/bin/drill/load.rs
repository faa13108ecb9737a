//! Applications that use both regions, and a journal of everything that was acknowledged to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hsm_proto::kms;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::client::{Client, Kms};
use crate::dice::Dice;

/// Everything that was acknowledged.
#[derive(Default)]
pub struct Journal {
    keys: BTreeMap<String, Key>,
    /// Keys that were lost with both regions: the backup does not know them.
    missing: Vec<String>,
    /// What was done, by kind.
    pub done: [Vec<Success>; KINDS.len()],
    /// PKCS #11 operations of several parts.
    pub parts: Vec<Success>,
    /// PKCS #11 operations that had to be begun again, and why.
    pub again: Vec<(Instant, String)>,
    /// Writes that were not done within the deadline.
    pub refused_writes: usize,
    /// How often a region that had not yet caught up did not know a key.
    pub behind: usize,
    /// Broken promises.
    pub violations: BTreeSet<String>,
}

/// What applications do. Each has an RTO of its own.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Wraps and unwraps.
    Cryptography,
    /// Creations and deletions of root keys.
    Writes,
    /// Signatures and encryption by the PKCS #11 library.
    Pkcs11,
    /// Objects of the storage service.
    Storage,
}

/// Their names.
pub const KINDS: [&str; 4] = ["cryptography", "writes", "PKCS #11", "S3"];

/// A request that was done.
#[derive(Clone, Copy)]
pub struct Success {
    /// When it was done.
    pub at: Instant,
    /// With all its attempts.
    pub took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Live,
    /// Its deletion was not acknowledged, or not yet.
    Doubtful,
    Deleted,
}

struct Key {
    life: Life,
    /// Both regions have acknowledged the deletion.
    deleted_in_both: bool,
    wrapped: Vec<Wrapped>,
    /// Asked for, and acknowledged.
    created: Option<(Instant, Instant)>,
    /// When its deletion was asked for, and acknowledged if it was.
    deletion: Option<(Instant, Option<Instant>)>,
}

#[derive(Clone)]
struct Wrapped {
    plaintext: Vec<u8>,
    ciphertext: String,
}

/// Threads of applications.
pub struct Load {
    cryptography: Arc<Client>,
    writes: Arc<Client>,
    journal: Mutex<Journal>,
    /// What is acknowledged is in both regions at this time.
    together: AtomicBool,
    stopped: AtomicBool,
    gate: Arc<RwLock<()>>,
    excused_until: Mutex<Option<Instant>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Load {
    /// Creates some keys, and starts.
    pub async fn start(regions: [Kms; 2], seed: u64) -> Result<Arc<Self>, String> {
        let load = Arc::new(Self {
            cryptography: Client::new(regions.clone()),
            // A write that waits for a lost partner must not make the applications take its region for lost.
            writes: Client::new(regions),
            journal: Mutex::default(),
            together: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            gate: Arc::default(),
            excused_until: Mutex::default(),
            workers: Mutex::default(),
        });
        for i in 0..FIRST_KEYS {
            load.create(&format!("first {i}")).await;
        }
        if load.journal.lock().keys.len() < FIRST_KEYS {
            return Err("the first keys could not be created".to_owned());
        }
        for worker in 0..WRITERS + USERS {
            let (shared, dice) = (load.clone(), Dice::new(seed.wrapping_add(worker)));
            let work = async move {
                if worker < WRITERS { shared.write(worker).await } else { shared.use_keys(dice).await }
            };
            load.workers.lock().push(tokio::spawn(work));
        }
        Ok(load)
    }

    /// How many creations and deletions were acknowledged so far.
    pub fn writes(&self) -> usize {
        self.journal.lock().done[Kind::Writes as usize].len()
    }

    /// What was acknowledged so far.
    pub fn journal(&self) -> parking_lot::MutexGuard<'_, Journal> {
        self.journal.lock()
    }

    /// Is what is acknowledged from now on in both regions?
    pub fn set_together(&self, together: bool) {
        self.together.store(together, Ordering::SeqCst);
    }

    /// Ends when the last request has been answered.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            if worker.await.is_err() {
                self.violate("a thread of the load has panicked".to_owned());
            }
        }
    }

    /// A broken promise.
    pub fn violate(&self, text: String) {
        self.journal.lock().violations.insert(text);
    }

    /// A cryptographic request that was not done within the client's deadline.
    pub fn has_failed(&self, what: &str, begun: Instant) {
        if !self.is_excused(begun) {
            self.violate(format!("a request has failed: {what}"));
        }
    }

    /// From now on, or until now, no region can serve: requests may fail.
    pub fn excuse(&self, excused: bool) {
        let until = Instant::now() + if excused { LONG } else { Duration::ZERO };
        *self.excused_until.lock() = Some(until);
    }

    fn is_excused(&self, begun: Instant) -> bool {
        self.excused_until.lock().is_some_and(|until| begun < until)
    }

    /// Lets what is under way end, and nothing new begin until the guard is dropped: root keys only.
    pub async fn pause(self: &Arc<Self>) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// While paused: the regions have been restored from a backup that was begun and ended at these moments. How many
    /// records that were acknowledged since are lost. What was under way meanwhile may be in it or not.
    pub fn go_back(&self, begun: Instant, ended: Instant) -> usize {
        let mut journal = self.journal.lock();
        let (mut lost, mut missing) = (0, Vec::new());
        for (id, key) in &mut journal.keys {
            lost += usize::from(key.created.is_some_and(|(asked, _)| asked > ended));
            lost += usize::from(key.deletion.is_some_and(|(asked, done)| asked > ended && done.is_some()));
            let unsure = |asked: Instant, done: Option<Instant>| {
                asked <= ended && done.is_none_or(|done| done >= begun)
            };
            let mut doubt = || (key.life, key.deleted_in_both) = (Life::Doubtful, false);
            match (key.created, key.deletion) {
                (Some((asked, _)), _) if asked > ended => missing.push(id.clone()),
                (Some((asked, done)), _) if unsure(asked, Some(done)) => doubt(),
                (_, Some((asked, _))) if asked > ended => {
                    (key.life, key.deleted_in_both, key.deletion) = (Life::Live, false, None);
                }
                (_, Some((asked, done))) if unsure(asked, done) => doubt(),
                _ => {}
            }
        }
        journal.keys.retain(|id, _| !missing.contains(id));
        journal.missing.extend(missing);
        lost
    }

    /// An acknowledgement that came by another way.
    pub fn acknowledged(&self, id: String) {
        self.created(id, None);
    }

    fn created(&self, id: String, begun: Option<Instant>) {
        let created = begun.map(|begun| (begun, Instant::now()));
        let (life, deleted_in_both, wrapped, deletion) = (Life::Live, false, Vec::new(), None);
        self.journal.lock().keys.insert(id, Key { life, deleted_in_both, wrapped, created, deletion });
    }

    async fn write(&self, worker: u64) {
        for i in 0.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let open = self.gate.read().await;
            // Every other time, once there are enough.
            let spare = {
                let journal = self.journal.lock();
                let live = journal.keys.iter().filter(|(_, key)| key.life == Life::Live);
                let mut spare = live.map(|(id, _)| id.clone()).skip(KEPT_KEYS);
                if i % 2 == 1 { spare.next() } else { None }
            };
            match spare {
                Some(id) => self.delete(&id).await,
                None => self.create(&format!("{worker} {i}")).await,
            }
            drop(open);
            sleep(WRITE_PAUSE).await;
        }
    }

    async fn create(&self, name: &str) {
        let begun = Instant::now();
        let request = kms::CreateRootKeyRequest { name: format!("drill {name}"), material: Vec::new() };
        let asked = self
            .writes
            .ask(|mut kms| {
                let request = request.clone();
                async move { kms.create_root_key(request).await }
            })
            .await;
        match asked.result {
            Ok(key) => {
                self.created(key.id, Some(begun));
                self.journal.lock().done[Kind::Writes as usize].push(Success::since(begun));
            }
            Err(status) => self.refused("creating a key", &status),
        }
    }

    async fn delete(&self, id: &str) {
        let begun = Instant::now();
        {
            let mut journal = self.journal.lock();
            match journal.keys.get_mut(id) {
                Some(key) if key.life == Life::Live => {
                    (key.life, key.deletion) = (Life::Doubtful, Some((begun, None)));
                }
                _ => return,
            }
        }
        let together = self.together.load(Ordering::SeqCst);
        let asked = self
            .writes
            .ask(|mut kms| {
                let request = kms::DeleteRequest { key: id.to_owned() };
                async move { kms.delete(request).await }
            })
            .await;
        let together = together && self.together.load(Ordering::SeqCst);
        let life = match &asked.result {
            Ok(_) => Life::Deleted,
            // An attempt before has done it, perhaps in one region only.
            Err(_) if asked.in_doubt => Life::Doubtful,
            Err(_) => Life::Live,
        };
        let mut journal = self.journal.lock();
        if let Some(key) = journal.keys.get_mut(id) {
            (key.life, key.deleted_in_both) = (life, life == Life::Deleted && together);
            key.deletion = (life != Life::Live).then(|| (begun, asked.result.is_ok().then(Instant::now)));
        }
        match asked.result {
            Ok(_) => journal.done[Kind::Writes as usize].push(Success::since(begun)),
            Err(status) if status.code() == Code::FailedPrecondition && asked.in_doubt => {}
            Err(status) => {
                drop(journal);
                self.refused("deleting a key", &status);
            }
        }
    }

    /// A write may be refused while there is no primary region, or no partner; nothing else.
    fn refused(&self, what: &str, status: &Status) {
        let mut journal = self.journal.lock();
        journal.refused_writes += 1;
        if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted) {
            journal.violations.insert(format!("{what}: {:?}: {}", status.code(), status.message()));
        }
    }

    async fn use_keys(&self, mut dice: Dice) {
        while !self.stopped.load(Ordering::Relaxed) {
            let open = self.gate.read().await;
            let Some((id, wrapped, deleted)) = self.choose(&mut dice) else { return };
            match (wrapped, deleted) {
                (Some(wrapped), true) => self.try_deleted(&id, wrapped).await,
                (Some(wrapped), false) if dice.below(2) == 0 => self.unwrap(&id, wrapped).await,
                _ => self.wrap(&id, dice.bytes()).await,
            }
            drop(open);
            sleep(USE_PAUSE).await;
        }
    }

    /// Any live key, or now and then a deleted one; with something that it has wrapped.
    fn choose(&self, dice: &mut Dice) -> Option<(String, Option<Wrapped>, bool)> {
        let journal = self.journal.lock();
        let deleted = dice.below(20) == 0 && journal.keys.values().any(Key::must_be_refused);
        let wanted = |key: &Key| if deleted { key.must_be_refused() } else { key.life == Life::Live };
        let chosen: Vec<_> = journal.keys.iter().filter(|(_, key)| wanted(key)).collect();
        let (id, key) = chosen.get(dice.below(chosen.len()))?;
        Some(((*id).clone(), key.wrapped.get(dice.below(key.wrapped.len())).cloned(), deleted))
    }

    async fn wrap(&self, id: &str, plaintext: Vec<u8>) {
        let (begun, together) = (Instant::now(), self.together.load(Ordering::SeqCst));
        let request = kms::WrapRequest { key: id.to_owned(), plaintext: plaintext.clone(), aad: Vec::new() };
        let asked = self
            .cryptography
            .ask(|mut kms| {
                let request = request.clone();
                async move { kms.wrap(request).await }
            })
            .await;
        if self.was_used(id, begun, together, asked.unknown_in, asked.result.as_ref().err()) {
            let ciphertext = asked.result.map(|answer| answer.ciphertext).unwrap_or_default();
            if let Some(key) = self.journal.lock().keys.get_mut(id) {
                key.wrapped.push(Wrapped { plaintext, ciphertext });
            }
        }
    }

    async fn unwrap(&self, id: &str, wrapped: Wrapped) {
        let (begun, together) = (Instant::now(), self.together.load(Ordering::SeqCst));
        let asked = self.cryptography.ask(|kms| unwrap(kms, id, &wrapped.ciphertext)).await;
        if self.was_used(id, begun, together, asked.unknown_in, asked.result.as_ref().err())
            && asked.result.is_ok_and(|answer| answer.plaintext != wrapped.plaintext)
        {
            self.violate(format!("WRONG ANSWER: {id} has unwrapped other bytes than it had wrapped"));
        }
    }

    async fn try_deleted(&self, id: &str, wrapped: Wrapped) {
        let asked = self.cryptography.ask(|kms| unwrap(kms, id, &wrapped.ciphertext)).await;
        if asked.result.is_ok() {
            self.violate(format!("{id} was deleted in both regions, and region {} uses it", asked.region));
        }
    }

    /// Counts it: was it done?
    fn was_used(
        &self,
        id: &str,
        begun: Instant,
        together: bool,
        unknown_in: Option<usize>,
        failure: Option<&Status>,
    ) -> bool {
        let together = together && self.together.load(Ordering::SeqCst);
        let mut journal = self.journal.lock();
        let is_live = journal.keys.get(id).is_some_and(|key| key.life == Life::Live);
        if let Some(region) = unknown_in.filter(|_| is_live) {
            journal.behind += 1;
            if together {
                journal.violations.insert(format!("region {region} does not know {id}, which is in both"));
            }
        }
        match failure {
            None => journal.done[Kind::Cryptography as usize].push(Success::since(begun)),
            Some(status) if is_live && !self.is_excused(begun) => {
                let text =
                    format!("a cryptographic request has failed: {:?}: {}", status.code(), status.message());
                journal.violations.insert(text);
            }
            Some(_) => {}
        }
        failure.is_none()
    }

    /// Compares a region with the journal: its keys, and how many acknowledged records it has lost.
    pub async fn verify(self: &Arc<Self>, kms: &Kms) -> Result<(KeyList, usize), String> {
        let list = list_keys(kms).await?;
        if self.journal.lock().missing.iter().any(|id| list.contains_key(id)) {
            self.violate("a key is there that the backup cannot have known".to_owned());
        }
        let keys: Vec<String> = self.journal.lock().keys.keys().cloned().collect();
        let mut parts = Vec::new();
        for part in keys.chunks(keys.len().div_ceil(VERIFIERS).max(1)) {
            let (load, kms, part, list) = (self.clone(), kms.clone(), part.to_vec(), list.clone());
            parts.push(tokio::spawn(async move {
                let mut lost = 0;
                for id in part {
                    lost += usize::from(!load.is_kept(&kms, &id, &list).await);
                }
                lost
            }));
        }
        let mut lost = 0;
        for part in parts {
            lost += part.await.map_err(|error| error.to_string())?;
        }
        Ok((list, lost))
    }

    /// Is the key as it was acknowledged? Does everything unwrap that it has wrapped, or nothing if it is deleted?
    async fn is_kept(&self, kms: &Kms, id: &str, list: &KeyList) -> bool {
        let (life, wrapped) = match self.journal.lock().keys.get(id) {
            Some(key) => (key.life, key.wrapped.clone()),
            None => return false,
        };
        let active = list.get(id).is_some_and(|state| *state == kms::KeyState::Active as i32);
        let mut kept = match life {
            Life::Live => active,
            Life::Deleted => !active,
            Life::Doubtful => true,
        };
        for Wrapped { plaintext, ciphertext } in wrapped {
            let answer = unwrap(kms.clone(), id, &ciphertext).await;
            kept &= match answer {
                Ok(answer) => life != Life::Deleted && answer.get_ref().plaintext == plaintext,
                Err(status) => {
                    life != Life::Live && matches!(status.code(), Code::FailedPrecondition | Code::NotFound)
                }
            };
        }
        if !kept {
            let what = if life == Life::Live { "lost" } else { "back" };
            self.violate(format!("key {id} is {what}"));
        }
        kept
    }
}

/// States by id, deleted keys too.
pub type KeyList = BTreeMap<String, i32>;

async fn list_keys(kms: &Kms) -> Result<KeyList, String> {
    let mut list = KeyList::new();
    loop {
        let offset = u32::try_from(list.len()).map_err(|error| error.to_string())?;
        let request = kms::ListRootKeysRequest { limit: 5000, offset, include_destroyed: true };
        let answer = kms.clone().list_root_keys(request).await;
        let page = answer.map_err(|status| format!("list: {}", status.message()))?.into_inner();
        list.extend(page.keys.into_iter().map(|key| (key.id, key.state)));
        if list.len() >= page.total as usize {
            return Ok(list);
        }
    }
}

async fn unwrap(
    mut kms: Kms,
    id: &str,
    ciphertext: &str,
) -> Result<tonic::Response<kms::UnwrapResponse>, Status> {
    let (key, ciphertext) = (id.to_owned(), ciphertext.to_owned());
    kms.unwrap(kms::UnwrapRequest { key, ciphertext, aad: Vec::new() }).await
}

impl Key {
    fn must_be_refused(&self) -> bool {
        self.deleted_in_both && !self.wrapped.is_empty()
    }
}

impl Success {
    /// Of a request that is done now.
    pub fn since(begun: Instant) -> Self {
        Self { at: Instant::now(), took: begun.elapsed() }
    }
}

/// Threads that create and delete.
const WRITERS: u64 = 2;
/// Threads that wrap and unwrap.
const USERS: u64 = 4;
const VERIFIERS: usize = 8;
const FIRST_KEYS: usize = 10;
/// Beyond these, keys are deleted again.
const KEPT_KEYS: usize = 30;
/// More than any drill takes.
const LONG: Duration = Duration::from_secs(3600);
const WRITE_PAUSE: Duration = Duration::from_millis(10);
const USE_PAUSE: Duration = Duration::from_millis(3);
