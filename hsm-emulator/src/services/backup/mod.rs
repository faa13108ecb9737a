//! Backups: everything that an instance needs to live again, in one file under a passphrase.
//!
//! Inside the sealed stream: a [`Manifest`], then each file as an [`Entry`], its bytes and their SHA-256, then an empty
//! frame. A frame is JSON behind its length in 4 bytes.
//!
//! The units are read before the keystore is, and both belong together if the instance's record is the same before and
//! after and tells of no re-encryption: a rotation of the master key changes that record before the first unit takes
//! the new one, and again when the stored keys have come under it. Units that still wait for the new one then may
//! have it or not: one that has serves.

mod sealed;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::clock::{Clock, rfc3339};
use super::failover::pair::{Pair, Role};
use super::region::{self, UNITS};
use super::storage::{self, INSTANCE};
use crate::durable_file;
use crate::keystore::{self, FILE as KEYSTORE, Keystore, Location, snapshot};
use crate::units::CryptoUnit;
use sealed::{Opener, Sealer};

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the program that has made it.
    pub program: String,
    /// UUID of the instance.
    pub instance: String,
    /// Such as `us-south`.
    pub region: String,
    /// RFC 3339, UTC. All that was acknowledged before is in it.
    pub created: String,
    /// Of the instance's master key, in hexadecimal digits; empty if it has had none.
    pub verification_pattern: String,
    /// Crypto units.
    pub units: u64,
    /// Of these: hold the instance's master key.
    pub units_with_master_key: u64,
    /// Files.
    pub files: u64,
    /// All their bytes.
    pub bytes: u64,
}

/// Stands before a file.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Below the state directory.
    path: String,
    bytes: u64,
}

/// Told of the bytes that are done, and of all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Why there is no backup, or nothing to restore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The backup cannot be read.
    #[error("the backup cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The keystore refuses.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    /// The region's directory or record refuses.
    #[error(transparent)]
    Region(#[from] region::Error),
    /// Nothing to be backed up.
    #[error("{}: there is no instance in this directory, or its initialisation was cut off", .0.display())]
    NoInstance(PathBuf),
    /// What it has may not be what was acknowledged.
    #[error("this is the failover region of a pair: back up the primary region, which has everything")]
    Failover,
    /// The keystore would not belong to the units.
    #[error(
        "the master key is being rotated: back up when the stored keys are re-encrypted and all units have the new master \
         key, or when the rotation is cancelled"
    )]
    MasterKeyRotation,
    /// There is one at a time.
    #[error("{}: another backup of this instance is being made", .0.display())]
    UnderWay(PathBuf),
    /// Something would be overwritten.
    #[error("{}: there is such a file already; to replace it, add --force", .0.display())]
    Exists(PathBuf),
    /// Something would be overwritten.
    #[error("{}: this is no empty directory; restore into a new one", .0.display())]
    NotEmpty(PathBuf),
    /// Somebody would guess it.
    #[error(
        "the passphrase is too short: at least {MIN_PASSPHRASE_BYTES} bytes, because who has the file can guess for ever"
    )]
    ShortPassphrase,
    /// Something else.
    #[error("this is no backup of an instance")]
    NoBackup,
    /// A version to come.
    #[error(
        "the backup has format version {found}, this program knows {known}: use the newer program; if there is none, the \
         header is damaged"
    )]
    Newer {
        /// In the file.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// Before anything sealed.
    #[error("the header of the backup is damaged")]
    Header,
    /// It opens nothing.
    #[error("the passphrase is wrong, or the header of the backup was altered")]
    Passphrase,
    /// Authentication fails.
    #[error("the backup was altered, or cut short, in segment {segment}")]
    Altered {
        /// From 0, of 64 KiB each.
        segment: u64,
    },
    /// It ends between two segments.
    #[error("the backup is cut short: segment {segment} and all after it are missing")]
    CutShort {
        /// The first that is missing.
        segment: u64,
    },
    /// It was sealed so.
    #[error("the contents of the backup are not in order: {0}")]
    Contents(String),
}

/// What reading or writing the stream has met. An [`Opener`] says what is wrong by an error within.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Read)
    }
}

/// Writes a backup of the instance in `state`, which may be serving, to the file `out`: there as a whole or not at all.
/// `replace` an older one?
///
/// # Errors
/// [`Error`], naming what to do.
pub fn create(
    state: &Path,
    location: &Location,
    out: &Path,
    passphrase: &[u8],
    replace: bool,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Result<Manifest, Error> {
    if passphrase.len() < MIN_PASSPHRASE_BYTES {
        return Err(Error::ShortPassphrase);
    }
    if !replace && out.exists() {
        return Err(Error::Exists(out.to_owned()));
    }
    let needed = if location.is_shared() { UNITS } else { KEYSTORE };
    if !state.join(needed).exists() {
        return Err(Error::NoInstance(state.to_owned()));
    }
    let _lock = exclusive(state)?;
    let (manifest, sources) = collect(state, location, clock)?;
    let temporary = Temporary(beside(out));
    let written = write(&temporary.0, &manifest, sources, passphrase, progress);
    written.map_err(|error| error.at(&temporary.0))?;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, &temporary.0, CWD, out, flags) {
        Err(rustix::io::Errno::EXIST) => return Err(Error::Exists(out.to_owned())),
        outcome => outcome.map_err(|error| disk(out)(error.into()))?,
    }
    durable_file::sync_dir(durable_file::parent(out)).map_err(disk(out))?;
    Ok(manifest)
}

/// Reads a backup to its end. What is in it?
///
/// # Errors
/// [`Error`], naming what is wrong.
pub fn verify(file: &Path, passphrase: &[u8], progress: Progress<'_>) -> Result<Manifest, Error> {
    read(file, passphrase, progress, |_| Ok(Box::new(io::sink()))).map_err(|error| error.at(file))
}

/// Puts a backup in place of `state`, which is empty or not there: all of it or, if anything is wrong, nothing. What was
/// in a pair stands alone.
///
/// # Errors
/// [`Error`], naming what is wrong.
pub fn restore(
    file: &Path,
    state: &Path,
    location: &Location,
    passphrase: &[u8],
    progress: Progress<'_>,
) -> Result<Manifest, Error> {
    let is_empty = match fs::read_dir(state) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(Error::NotEmpty(state.to_owned()));
    }
    let temporary = Temporary(beside(state));
    let dir = &temporary.0;
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(disk(dir))?;
    let manifest = read(file, passphrase, progress, |path| {
        let path = dir.join(path);
        durable_file::create_dir(durable_file::parent(&path)).map_err(disk(&path))?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(disk(&path))?;
        Ok(Box::new(Durable { file, path }))
    });
    let manifest = manifest.map_err(|error| error.at(file))?;
    let record = snapshot::record(&dir.join(KEYSTORE), INSTANCE, INSTANCE)?;
    if storage::parse(&record)?.0.instance != manifest.instance {
        return Err(Error::Contents("the keystore is another instance's".to_owned()));
    }
    if location.is_shared() {
        put(&dir.join(KEYSTORE), location)?;
    }
    // A rename replaces an empty directory, and no other.
    fs::rename(dir, state).map_err(disk(state))?;
    durable_file::sync_dir(durable_file::parent(state)).map_err(disk(state))?;
    Ok(manifest)
}

/// Moves a restored keystore into a database that holds none. A kill may have come after that.
fn put(restored: &Path, location: &Location) -> Result<(), Error> {
    let (from, to) = (Keystore::open(&Location::File(restored.to_owned()))?, Keystore::open(location)?);
    let head = to.head()?;
    if head == 0 {
        snapshot::copy(&from, &to)?;
    } else if (head, to.get(INSTANCE, INSTANCE)?) != (from.head()?, from.get(INSTANCE, INSTANCE)?) {
        return Err(region::Error::Taken.into());
    }
    drop(from);
    remove(restored)
}

/// A file to be copied.
struct Source {
    entry: Entry,
    content: Box<dyn Read>,
}

impl Source {
    fn bytes(path: String, content: Zeroizing<Vec<u8>>) -> Self {
        let entry = Entry { path, bytes: content.len() as u64 };
        Self { entry, content: Box::new(Buffer { content, read: 0 }) }
    }

    fn file(path: &str, file: File, bytes: u64) -> Self {
        Self { entry: Entry { path: path.to_owned(), bytes }, content: Box::new(file.take(bytes)) }
    }
}

/// A secret in memory that is wiped when it has been read.
struct Buffer {
    content: Zeroizing<Vec<u8>>,
    read: usize,
}

impl Read for Buffer {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (&self.content[self.read..]).read(out)?;
        self.read += count;
        Ok(count)
    }
}

/// What belongs into a backup, as it is in one moment.
fn collect(state: &Path, location: &Location, clock: &dyn Clock) -> Result<(Manifest, Vec<Source>), Error> {
    let created = rfc3339(clock.now());
    let keystore = Keystore::open(location)?;
    if Pair::load(&keystore)?.is_some_and(|pair| pair.role == Role::Failover) {
        return Err(Error::Failover);
    }
    let no_instance = || Error::NoInstance(state.to_owned());
    let before = keystore.get(INSTANCE, INSTANCE)?.ok_or_else(no_instance)?;
    let (identity, storage) = storage::parse(&before)?;
    if storage.reencrypting_to.is_some() {
        return Err(Error::MasterKeyRotation);
    }
    let (mut units, mut units_with_master_key, mut sources) = (0, 0, Vec::new());
    {
        // No unit comes or goes.
        let _lock = region::lock(state)?;
        let dir = state.join(UNITS);
        for place in names(&dir)?.iter().filter(|name| name.parse::<u8>().is_ok()) {
            for name in UNIT_FILES {
                sources.extend(small_file(state, &format!("{UNITS}/{place}/{name}"))?);
            }
            let pattern =
                CryptoUnit::open(&dir.join(place)).ok().and_then(|unit| unit.verification_pattern());
            units += 1;
            units_with_master_key += u64::from(pattern.is_some() && pattern == storage.pattern);
        }
    }
    let copy = state.join(COPY);
    // What a backup has left that was killed.
    remove(&copy)?;
    snapshot::take(location, &copy)?;
    let opened = File::open(&copy).and_then(|file| Ok((file.metadata()?.len(), file)));
    let record = snapshot::record(&copy, INSTANCE, INSTANCE);
    // It is read to its end without its name.
    remove(&copy)?;
    let (bytes, file) = opened.map_err(disk(&copy))?;
    if record? != before {
        return Err(Error::MasterKeyRotation);
    }
    sources.push(Source::file(KEYSTORE, file, bytes));
    sources.extend(small_file(state, API_KEY)?);
    for name in names(&state.join(SET_ASIDE))? {
        sources.extend(small_file(state, &format!("{SET_ASIDE}/{name}"))?);
    }
    // Last: it tells of all that the rest has seen.
    sources.extend(audit_log(state)?);
    let manifest = Manifest {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        instance: identity.instance,
        region: identity.region,
        created,
        verification_pattern: storage.pattern.map(|pattern| pattern.to_hex()).unwrap_or_default(),
        units,
        units_with_master_key,
        files: sources.len() as u64,
        bytes: sources.iter().map(|source| source.entry.bytes).sum(),
    };
    Ok((manifest, sources))
}

/// The audit log while it is being written. Its head is replaced after each line: as long as that is the same, the log
/// ends at the record that it names or with one more, which is how a crash may leave it, too.
fn audit_log(state: &Path) -> Result<Vec<Source>, Error> {
    let (log, head) = (format!("{AUDIT}/log.jsonl"), format!("{AUDIT}/head.json"));
    let path = state.join(&log);
    loop {
        let Some(before) = read_if_there(&state.join(&head))? else { return Ok(Vec::new()) };
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(disk(&path))?;
        if read_if_there(&state.join(&head))?.as_ref() == Some(&before) {
            let mut sources = vec![Source::bytes(head, before), Source::file(&log, file, bytes)];
            sources.extend(small_file(state, &format!("{AUDIT}/key"))?);
            return Ok(sources);
        }
    }
}

/// One that is replaced as a whole, and so is read as it was in one moment; none if it is not there.
fn small_file(state: &Path, name: &str) -> Result<Option<Source>, Error> {
    let content = read_if_there(&state.join(name))?;
    Ok(content.map(|content| Source::bytes(name.to_owned(), content)))
}

fn read_if_there(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk(path)(error)),
    }
}

/// The names in a directory, in order; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(disk(dir))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>().map_err(disk(dir))?;
    names.sort();
    Ok(names)
}

fn write(
    path: &Path,
    manifest: &Manifest,
    sources: Vec<Source>,
    passphrase: &[u8],
    progress: Progress<'_>,
) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut sealer = Sealer::new(file, passphrase)?;
    write_frame(&mut sealer, manifest)?;
    let mut done = 0;
    for Source { entry, mut content } in sources {
        write_frame(&mut sealer, &entry)?;
        let sum = copy(&mut content, &mut sealer, &entry, |bytes| {
            done += bytes;
            progress(done, manifest.bytes);
        })?;
        sealer.write_all(sum.as_ref())?;
    }
    sealer.write_all(&0u32.to_be_bytes())?;
    sealer.finish()?.sync_all()?;
    Ok(())
}

/// Reads a backup to its end, and each file into what `open` gives for its path.
fn read(
    file: &Path,
    passphrase: &[u8],
    progress: Progress<'_>,
    mut open: impl FnMut(&Path) -> Result<Box<dyn Sink>, Error>,
) -> Result<Manifest, Error> {
    let mut opener = Opener::new(File::open(file)?, passphrase)?;
    let no_end = || Error::Contents("they end too early".to_owned());
    let manifest: Manifest = read_frame(&mut opener)?.ok_or_else(no_end)?;
    let (mut done, mut files, mut has_keystore) = (0, 0, false);
    while let Some(entry) = read_frame::<Entry>(&mut opener)? {
        let path = Path::new(&entry.path);
        if !path.components().all(|part| matches!(part, Component::Normal(_))) || entry.path.is_empty() {
            return Err(Error::Contents(format!("{:?} is no path below a directory", entry.path)));
        }
        let mut out = open(path)?;
        let sum = copy(&mut opener, &mut out, &entry, |bytes| {
            done += bytes;
            progress(done, manifest.bytes);
        })?;
        let mut expected = [0; digest::SHA256_OUTPUT_LEN];
        opener.read_exact(&mut expected)?;
        if sum.as_ref() != expected {
            return Err(Error::Contents(format!("{} has another SHA-256", entry.path)));
        }
        out.finish()?;
        files += 1;
        has_keystore |= entry.path == KEYSTORE;
    }
    if opener.read(&mut [0])? != 0 || (files, done) != (manifest.files, manifest.bytes) || !has_keystore {
        return Err(Error::Contents("they are not those that the manifest names".to_owned()));
    }
    Ok(manifest)
}

fn write_frame(out: &mut impl Write, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(io::Error::from)?;
    out.write_all(&(text.len() as u32).to_be_bytes())?;
    Ok(out.write_all(&text)?)
}

/// `None` for the empty one.
fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, Error> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length == 0 {
        return Ok(None);
    }
    if length > MAX_FRAME_BYTES {
        return Err(Error::Contents(format!("a frame of {length} bytes")));
    }
    let mut text = vec![0; length as usize];
    input.read_exact(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Contents(error.to_string()))
}

/// As many bytes as the entry names; their SHA-256.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    entry: &Entry,
    mut progress: impl FnMut(u64),
) -> Result<digest::Digest, Error> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = Zeroizing::new(vec![0; COPY_BYTES]);
    let mut left = entry.bytes;
    while left > 0 {
        let piece = left.min(COPY_BYTES as u64) as usize;
        let read = from.read(&mut buffer[..piece])?;
        if read == 0 {
            return Err(Error::Contents(format!("{} is shorter than it was", entry.path)));
        }
        context.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        left -= read as u64;
        progress(read as u64);
    }
    Ok(context.finish())
}

/// Where a file of a backup goes.
trait Sink: Write {
    /// It is whole.
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Sink for io::Sink {}

/// A file of a new instance.
struct Durable {
    file: File,
    path: PathBuf,
}

impl Write for Durable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| io::Error::other(disk(&self.path)(error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for Durable {
    fn finish(&mut self) -> Result<(), Error> {
        let synced = self.file.sync_all();
        synced
            .and_then(|()| durable_file::sync_dir(durable_file::parent(&self.path)))
            .map_err(disk(&self.path))
    }
}

/// What is under way, erased unless it got its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let removed = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, path = %self.0.display(), "what was not finished cannot be erased");
        }
    }
}

/// Another name in the same directory, nobody's yet.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4()));
    durable_file::parent(path).join(name)
}

/// One process at a time makes a backup of an instance.
fn exclusive(state: &Path) -> Result<File, Error> {
    let path = state.join("backup.lock");
    let file = File::create(&path).map_err(disk(&path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::UnderWay(state.to_owned()))?;
    Ok(file)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path)(error)),
        _ => Ok(()),
    }
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

impl Error {
    /// Says which file it is about.
    fn at(self, path: &Path) -> Self {
        match self {
            Self::Read(source) => disk(path)(source),
            other => other,
        }
    }
}

const API_KEY: &str = "api-key";
const AUDIT: &str = "audit";
const SET_ASIDE: &str = "set-aside";
const UNIT_FILES: [&str; 4] = ["device-secret", "state", "nameplate.json", "stopped"];
/// Of the keystore, for a moment.
const COPY: &str = "backup.sqlite";
/// Of a passphrase.
const MIN_PASSPHRASE_BYTES: usize = 12;
const MAX_FRAME_BYTES: u32 = 64 << 10;
const COPY_BYTES: usize = 64 << 10;
