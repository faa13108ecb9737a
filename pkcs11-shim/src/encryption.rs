//! Encryption and decryption (sections 5.8 and 5.9).
//!
//! The HSM does every call whole and keeps no state. What comes in parts is chained here: block by block
//! where the mode allows it, gathered until the end where it does not (AES-GCM releases nothing before the
//! tag is verified).

use std::borrow::Cow;
use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter, asymmetric};
use hsm_emulator::units::{Error, Result};
use zeroize::Zeroizing;

use crate::module::Module;
use crate::object::{Object, with_blob};
use crate::operation::{Prepared, begin, cancel, finish, gather, go_on, not_initialized, require_authorised};
use crate::output::{Output, Room};
use crate::session::Session;

/// Encrypt or decrypt?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `C_Encrypt*`.
    Encrypt,
    /// `C_Decrypt*`.
    Decrypt,
}

/// An encryption or decryption in progress.
#[derive(Clone)]
pub struct CipherOperation {
    direction: Direction,
    pub(crate) key: Arc<Object>,
    mechanism: Mechanism,
    mode: Mode,
    stage: Stage,
    /// False while the key waits for its login.
    pub authorised: bool,
}

/// How a mechanism's parts hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Whole blocks of so many bytes, the last one of which may be needed for padding. Each depends on the one before
    /// if there is a mechanism that chains them.
    Blocks { bytes: usize, chaining: Option<CK_MECHANISM_TYPE>, padded: bool },
    /// A key stream.
    Counter,
    /// All or nothing, but in parts.
    Gathered { tag_bytes: usize },
    /// The same with padding to blocks of so many bytes.
    Padded { bytes: usize },
    /// In one part only.
    Single,
}

/// How far an operation is.
#[derive(Clone)]
enum Stage {
    /// Nothing has been given yet.
    Ready,
    /// Blocks: the chaining value, and what waits for the next part.
    Blocks { iv: Vec<u8>, held: Zeroizing<Vec<u8>> },
    /// Key stream: the counter block, how many of its bytes are used up, and whether the counter is.
    Counter { block: [u8; AES_BLOCK], used: usize, spent: bool },
    /// Everything so far.
    Gathered(Zeroizing<Vec<u8>>),
}

/// `C_EncryptInit`, `C_DecryptInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check`].
pub fn init(
    module: &Module,
    session: &Session,
    direction: Direction,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let place = direction.place(&mut operations);
    let Some(mechanism) = mechanism else { return cancel(place) };
    begin(place, || CipherOperation::new(module, session, direction, mechanism, key))
}

/// `C_Encrypt`, `C_Decrypt`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also after a part; the mechanism's own.
pub fn single(
    module: &Module,
    session: &Session,
    direction: Direction,
    room: Room,
    data: &[u8],
) -> Result<Output> {
    let mut operations = session.operations();
    finish(direction.place(&mut operations), |operation| operation.single(module, room, data))
}

/// `C_EncryptUpdate`, `C_DecryptUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; the mechanism's own.
pub fn update(
    module: &Module,
    session: &Session,
    direction: Direction,
    room: Room,
    data: &[u8],
) -> Result<Output> {
    let mut operations = session.operations();
    go_on(direction.place(&mut operations), |operation| operation.update(module, room, data))
}

/// `C_EncryptFinal`, `C_DecryptFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, `CKR_DATA_LEN_RANGE`, `CKR_ENCRYPTED_DATA_LEN_RANGE`; the mechanism's own.
pub fn last(module: &Module, session: &Session, direction: Direction, room: Room) -> Result<Output> {
    let mut operations = session.operations();
    finish(direction.place(&mut operations), |operation| operation.last(module, room))
}

impl Direction {
    fn place(self, operations: &mut crate::operation::Operations) -> &mut Option<CipherOperation> {
        match self {
            Self::Encrypt => &mut operations.encrypt,
            Self::Decrypt => &mut operations.decrypt,
        }
    }

    fn length_error(self) -> Error {
        match self {
            Self::Encrypt => Error::new(CKR_DATA_LEN_RANGE, "the data must fill whole blocks"),
            Self::Decrypt => {
                Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, "the encrypted data must fill whole blocks")
            }
        }
    }
}

impl CipherOperation {
    fn new(
        module: &Module,
        session: &Session,
        direction: Direction,
        mechanism: Mechanism,
        key: CK_OBJECT_HANDLE,
    ) -> Result<Self> {
        let (flag, permission) = match direction {
            Direction::Encrypt => (CKF_ENCRYPT, CKA_ENCRYPT),
            Direction::Decrypt => (CKF_DECRYPT, CKA_DECRYPT),
        };
        let Prepared { key, authorised } =
            Prepared::check(module, session, &mechanism, key, flag, permission)?;
        let mode = Mode::of(&mechanism, key.restricted());
        Ok(Self { direction, key, mechanism, mode, stage: Stage::Ready, authorised })
    }

    fn single(&mut self, module: &Module, room: Room, data: &[u8]) -> Result<Output> {
        if !matches!(self.stage, Stage::Ready) {
            return Err(not_initialized());
        }
        self.whole(module, room, data)
    }

    /// Does everything in one call.
    fn whole(&self, module: &Module, room: Room, data: &[u8]) -> Result<Output> {
        let bound = self.whole_length(data.len());
        match room {
            Room::Query => return Ok(Output::Length(bound)),
            // Padding is taken off only by doing it; all other lengths are known.
            Room::Bytes(bytes) if bytes < bound && self.length_is_exact() => {
                return Ok(Output::TooSmall(bound));
            }
            Room::Bytes(_) => {}
        }
        require_authorised(self.authorised)?;
        let output = self.call(module, &self.mechanism, data)?;
        Ok(fitting(room, output))
    }

    /// Does it encrypt by a key stream, which no two texts may share?
    pub fn is_stream(&self) -> bool {
        matches!(self.mode, Mode::Counter | Mode::Gathered { .. })
    }

    /// Bytes that wait for the end.
    pub fn gathered_bytes(&self) -> usize {
        match &self.stage {
            Stage::Gathered(gathered) => gathered.len(),
            Stage::Ready | Stage::Blocks { .. } | Stage::Counter { .. } => 0,
        }
    }

    /// Takes a part, and gives what of the result is ready.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` for a mechanism without parts; the mechanism's own.
    pub fn update(&mut self, module: &Module, room: Room, data: &[u8]) -> Result<Output> {
        match self.mode {
            Mode::Single => Err(not_initialized()),
            Mode::Gathered { .. } | Mode::Padded { .. } => {
                if room == Room::Query {
                    return Ok(Output::Length(0));
                }
                if let Stage::Ready = self.stage {
                    self.stage = Stage::Gathered(Zeroizing::default());
                }
                let Stage::Gathered(gathered) = &mut self.stage else { return Err(not_initialized()) };
                gather(gathered, data)?;
                Ok(Output::Public(Vec::new()))
            }
            Mode::Counter => {
                if let Some(answer) = Output::without_bytes(room, data.len()) {
                    return Ok(answer);
                }
                self.update_stream(module, data)
            }
            Mode::Blocks { .. } => {
                let ready = self.ready_length(data.len());
                if let Some(answer) = Output::without_bytes(room, ready) {
                    return Ok(answer);
                }
                self.update_blocks(module, data, ready)
            }
        }
    }

    fn last(&mut self, module: &Module, room: Room) -> Result<Output> {
        match (&self.stage, self.mode) {
            (_, Mode::Single) => Err(not_initialized()),
            (Stage::Gathered(gathered), _) => self.whole(module, room, gathered),
            (Stage::Counter { .. }, _) => {
                Ok(Output::without_bytes(room, 0).unwrap_or(Output::Public(Vec::new())))
            }
            (Stage::Ready, _) => self.whole(module, room, &[]),
            (Stage::Blocks { held, .. }, Mode::Blocks { padded: false, .. }) => {
                if !held.is_empty() {
                    return Err(self.direction.length_error());
                }
                Ok(Output::without_bytes(room, 0).unwrap_or(Output::Public(Vec::new())))
            }
            (Stage::Blocks { iv, held }, mode) => {
                let rest = Mechanism { kind: self.mechanism.kind, parameter: Parameter::Bytes(iv.clone()) };
                let block = mode.block_bytes();
                if room == Room::Query || self.direction == Direction::Encrypt && room.is_below(block) {
                    return Ok(Output::without_bytes(room, block).unwrap_or(Output::TooSmall(block)));
                }
                require_authorised(self.authorised)?;
                let output = self.call(module, &rest, held)?;
                Ok(fitting(room, output))
            }
        }
    }

    /// What a part of so many bytes lets out.
    fn ready_length(&self, added: usize) -> usize {
        let held = match &self.stage {
            Stage::Blocks { held, .. } => held.len(),
            _ => 0,
        };
        let total = held + added;
        let block = self.mode.block_bytes();
        let whole = total - total % block;
        let holds_back =
            self.direction == Direction::Decrypt && matches!(self.mode, Mode::Blocks { padded: true, .. });
        if holds_back && whole == total { whole.saturating_sub(block) } else { whole }
    }

    fn update_blocks(&mut self, module: &Module, data: &[u8], ready: usize) -> Result<Output> {
        require_authorised(self.authorised)?;
        let (iv, held) = match std::mem::replace(&mut self.stage, Stage::Ready) {
            Stage::Blocks { iv, held } => (iv, held),
            _ => (self.first_iv(), Zeroizing::default()),
        };
        if ready == 0 {
            let mut held = held;
            gather(&mut held, data)?;
            self.stage = Stage::Blocks { iv, held };
            return Ok(Output::Public(Vec::new()));
        }
        let from_data = ready - held.len().min(ready);
        let (now, later) = data.split_at(from_data);
        let input =
            if held.is_empty() { Cow::Borrowed(now) } else { Cow::Owned([held.as_slice(), now].concat()) };
        let input = ZeroizingCow(input);
        let step = match self.mode {
            Mode::Blocks { chaining: Some(kind), .. } => Mechanism { kind, parameter: Parameter::Bytes(iv) },
            _ => self.mechanism.clone(),
        };
        let output = self.call(module, &step, &input.0)?;
        let encrypted = match self.direction {
            Direction::Encrypt => output_bytes(&output),
            Direction::Decrypt => &input.0,
        };
        let iv = encrypted[encrypted.len().saturating_sub(self.mode.block_bytes())..].to_vec();
        self.stage = Stage::Blocks { iv, held: Zeroizing::new(later.to_vec()) };
        Ok(output)
    }

    /// The part starts in the middle of a key stream block: give the HSM the bytes before it as zeros, and
    /// drop what it makes of them.
    fn update_stream(&mut self, module: &Module, data: &[u8]) -> Result<Output> {
        require_authorised(self.authorised)?;
        let Parameter::Ctr { counter_bits, counter_block } = self.mechanism.parameter else {
            return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "not a counter"));
        };
        let (mut block, used, mut spent) = match self.stage {
            Stage::Counter { block, used, spent } => (block, used, spent),
            _ => (counter_block, 0, false),
        };
        if spent && !data.is_empty() {
            return Err(Error::new(CKR_DATA_LEN_RANGE, "the data is longer than the counter lasts"));
        }
        let input = ZeroizingCow(if used == 0 {
            Cow::Borrowed(data)
        } else {
            Cow::Owned([&[0; AES_BLOCK][..used], data].concat())
        });
        let step =
            Mechanism { kind: CKM_AES_CTR, parameter: Parameter::Ctr { counter_bits, counter_block: block } };
        let output = self.call(module, &step, &input.0)?;
        let blocks = (input.0.len() / AES_BLOCK) as u128;
        spent |= blocks > 0 && advance(&mut block, counter_bits, blocks);
        self.stage = Stage::Counter { block, used: input.0.len() % AES_BLOCK, spent };
        Ok(match output {
            Output::Secret(mut bytes) => {
                bytes.drain(..used);
                Output::Secret(bytes)
            }
            Output::Public(mut bytes) => {
                bytes.drain(..used);
                Output::Public(bytes)
            }
            length => length,
        })
    }

    fn first_iv(&self) -> Vec<u8> {
        match &self.mechanism.parameter {
            Parameter::Bytes(iv) => iv.clone(),
            _ => Vec::new(),
        }
    }

    /// The length of the whole result; an upper bound if padding comes off.
    fn whole_length(&self, data_len: usize) -> usize {
        match (self.mode, self.direction) {
            (Mode::Blocks { bytes, padded: true, .. } | Mode::Padded { bytes }, Direction::Encrypt) => {
                (data_len / bytes + 1) * bytes
            }
            (Mode::Blocks { .. } | Mode::Padded { .. } | Mode::Counter, _) => data_len,
            (Mode::Gathered { tag_bytes }, Direction::Encrypt) => data_len + tag_bytes,
            (Mode::Gathered { tag_bytes }, Direction::Decrypt) => data_len.saturating_sub(tag_bytes),
            (Mode::Single, _) => asymmetric::modulus_bytes(&self.key.attributes),
        }
    }

    fn length_is_exact(&self) -> bool {
        self.direction == Direction::Encrypt
            || !matches!(self.mode, Mode::Single | Mode::Padded { .. } | Mode::Blocks { padded: true, .. })
    }

    fn call(&self, module: &Module, mechanism: &Mechanism, data: &[u8]) -> Result<Output> {
        let backend = &module.backend;
        match self.direction {
            Direction::Encrypt if self.key.class() == Some(CKO_PUBLIC_KEY) => {
                self.key.public_key()?.encrypt(mechanism, data).map(Output::Public)
            }
            Direction::Encrypt => {
                with_blob(module, &self.key, |key| backend.encrypt(mechanism, key, data)).map(Output::Public)
            }
            Direction::Decrypt => {
                with_blob(module, &self.key, |key| backend.decrypt(mechanism, key, data)).map(Output::Secret)
            }
        }
    }
}

impl Mode {
    /// `restricted`: the key is restricted to certain mechanisms, so padding can't be put together from others.
    fn of(mechanism: &Mechanism, restricted: bool) -> Self {
        let blocks = |bytes, chaining| Self::Blocks { bytes, chaining, padded: false };
        let padded = |bytes, cbc| {
            if restricted {
                Self::Padded { bytes }
            } else {
                Self::Blocks { bytes, chaining: Some(cbc), padded: true }
            }
        };
        match (mechanism.kind, &mechanism.parameter) {
            (CKM_AES_ECB, _) => blocks(AES_BLOCK, None),
            (CKM_AES_CBC, _) => blocks(AES_BLOCK, Some(CKM_AES_CBC)),
            (CKM_AES_CBC_PAD, _) => padded(AES_BLOCK, CKM_AES_CBC),
            (CKM_DES3_ECB, _) => blocks(DES_BLOCK, None),
            (CKM_DES3_CBC, _) => blocks(DES_BLOCK, Some(CKM_DES3_CBC)),
            (CKM_DES3_CBC_PAD, _) => padded(DES_BLOCK, CKM_DES3_CBC),
            (CKM_AES_CTR, _) => Self::Counter,
            (CKM_AES_GCM | CKM_CHACHA20_POLY1305, Parameter::Gcm { tag_bits, .. }) => {
                Self::Gathered { tag_bytes: *tag_bits as usize / 8 }
            }
            (CKM_AES_CCM, Parameter::Ccm { tag_bytes, .. }) => {
                Self::Gathered { tag_bytes: *tag_bytes as usize }
            }
            (CKM_AES_OFB | CKM_AES_CFB8 | CKM_AES_CFB128 | CKM_AES_CTS | CKM_AES_XTS, _) => {
                Self::Gathered { tag_bytes: 0 }
            }
            _ => Self::Single,
        }
    }

    /// 1 if the mode has none.
    fn block_bytes(self) -> usize {
        match self {
            Self::Blocks { bytes, .. } | Self::Padded { bytes } => bytes,
            _ => 1,
        }
    }
}

/// Plaintext that was put together is wiped; what the caller lent is not ours to wipe.
struct ZeroizingCow<'a>(Cow<'a, [u8]>);

impl Drop for ZeroizingCow<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(bytes) = &mut self.0 {
            zeroize::Zeroize::zeroize(bytes);
        }
    }
}

fn fitting(room: Room, output: Output) -> Output {
    let len = output_bytes(&output).len();
    if room.is_below(len) { Output::TooSmall(len) } else { output }
}

/// What an operation gave, without a length.
pub fn output_bytes(output: &Output) -> &[u8] {
    match output {
        Output::Public(bytes) => bytes,
        Output::Secret(bytes) => bytes,
        Output::Length(_) | Output::TooSmall(_) => &[],
    }
}

/// Counts up the low `bits` bits of a counter block; true if that used up the last count, and the block is back
/// where a key stream would repeat. The unit refuses to go past it.
fn advance(block: &mut [u8; AES_BLOCK], bits: u32, blocks: u128) -> bool {
    let value = u128::from_be_bytes(*block);
    let mask = 1u128.checked_shl(bits).map_or(u128::MAX, |limit| limit - 1);
    let counted = value.wrapping_add(blocks) & mask | value & !mask;
    *block = counted.to_be_bytes();
    counted & mask == 0
}

const AES_BLOCK: usize = 16;
const DES_BLOCK: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_wraps_within_its_bits() {
        let mut block = [0xff; AES_BLOCK];
        assert!(advance(&mut block, 8, 1));
        assert_eq!(block[15], 0);
        assert_eq!(block[14], 0xff);
        let mut block = [0xff; AES_BLOCK];
        assert!(!advance(&mut block, 128, 2));
        assert_eq!(block, 1u128.to_be_bytes());
    }
}
