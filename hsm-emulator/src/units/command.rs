//! Administrative commands and their answers, as they travel between an administrator and a unit.
//!
//! After EP11's administration: a command block names the function, the unit and the transaction counter;
//! administrators sign the block; the unit's module key signs the answer. All of it is DER.
//!
//! ```text
//! Request  ::= SEQUENCE { block OCTET STRING (DER of Block), signatures SEQUENCE OF Signature }
//! Block    ::= SEQUENCE { function INTEGER, serial UTF8String, counter INTEGER, payload OCTET STRING }
//! Signature::= SEQUENCE { signer OCTET STRING (32: subject key identifier), value OCTET STRING (DER ECDSA) }
//! Response ::= SEQUENCE { answer OCTET STRING (DER of Answer), signature OCTET STRING (DER ECDSA) }
//! Answer   ::= SEQUENCE { request OCTET STRING (SHA-256), serial UTF8String, returnCode INTEGER,
//!                         reasonCode INTEGER, payload OCTET STRING }
//! ```
//!
//! Signatures are ECDSA on P-521 with SHA-512. A query needs none; its counter may be anything, and a random
//! one makes the answer fresh.

use aws_lc_rs::digest;
use der::asn1::OctetString;
use der::{Decode, Encode, Sequence};
use p521::ecdsa::signature::{Signer, Verifier};
use p521::ecdsa::{DerSignature, SigningKey, VerifyingKey};

use super::administrator::{Administrator, SubjectKeyIdentifier};
use super::importer_key::TransportedKey;
use super::master_key::VerificationPattern;
use super::refusal::Refusal;

/// What an administrator may ask of a unit. The numbers are EP11's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The unit's state ([`UnitStatus`]).
    Query,
    /// Installs an administrator.
    AddAdministrator(Administrator),
    /// Removes one.
    RemoveAdministrator(SubjectKeyIdentifier),
    /// Sets thresholds and permissions.
    SetAttributes(DomainAttributes),
    /// Makes an importer key; the answer is its public half.
    GenerateImporterKey,
    /// A random master key: in the current register if that is empty, else in the new one.
    GenerateMasterKey,
    /// Exports the current master key to the unit with this importer key; the answer is a [`TransportedKey`].
    ExportCurrent(Vec<u8>),
    /// Exports the pending master key.
    ExportPending(Vec<u8>),
    /// Loads a master key, in one part or in two or three, into the new register; the answer is its pattern.
    ImportMasterKey(Vec<TransportedKey>),
    /// Commits the pending master key that has this pattern.
    CommitMasterKey(VerificationPattern),
    /// Makes the committed master key the current one ("finalize"); the answer is its pattern.
    SetImmediate,
    /// Empties the new register.
    ClearNew,
    /// Empties the current register.
    ClearCurrent,
    /// Back to imprint mode: no administrators, no keys.
    Zeroize,
    /// Sets these control points beside those that are set.
    SetControlPoints(Vec<u32>),
    /// The whole list: what is set and missing here would be reset.
    ReplaceControlPoints(Vec<u32>),
    /// Resets these.
    DeleteControlPoints(Vec<u32>),
}

/// EP11's numbers.
mod function {
    pub const QUERY: u32 = 0;
    pub const ADD_ADMINISTRATOR: u32 = 2;
    pub const REMOVE_ADMINISTRATOR: u32 = 4;
    pub const SET_ATTRIBUTES: u32 = 8;
    pub const GENERATE_IMPORTER_KEY: u32 = 9;
    pub const GENERATE_MASTER_KEY: u32 = 10;
    pub const EXPORT_CURRENT: u32 = 11;
    pub const IMPORT_MASTER_KEY: u32 = 12;
    pub const COMMIT_MASTER_KEY: u32 = 13;
    pub const SET_IMMEDIATE: u32 = 14;
    pub const ZEROIZE: u32 = 16;
    pub const REPLACE_CONTROL_POINTS: u32 = 17;
    pub const SET_CONTROL_POINTS: u32 = 18;
    pub const DELETE_CONTROL_POINTS: u32 = 19;
    pub const CLEAR_CURRENT: u32 = 27;
    pub const CLEAR_NEW: u32 = 28;
    pub const EXPORT_PENDING: u32 = 38;
}

impl Command {
    /// EP11's number of the function.
    pub fn function(&self) -> u32 {
        match self {
            Self::Query => function::QUERY,
            Self::AddAdministrator(_) => function::ADD_ADMINISTRATOR,
            Self::RemoveAdministrator(_) => function::REMOVE_ADMINISTRATOR,
            Self::SetAttributes(_) => function::SET_ATTRIBUTES,
            Self::GenerateImporterKey => function::GENERATE_IMPORTER_KEY,
            Self::GenerateMasterKey => function::GENERATE_MASTER_KEY,
            Self::ExportCurrent(_) => function::EXPORT_CURRENT,
            Self::ImportMasterKey(_) => function::IMPORT_MASTER_KEY,
            Self::CommitMasterKey(_) => function::COMMIT_MASTER_KEY,
            Self::SetImmediate => function::SET_IMMEDIATE,
            Self::Zeroize => function::ZEROIZE,
            Self::SetControlPoints(_) => function::SET_CONTROL_POINTS,
            Self::ReplaceControlPoints(_) => function::REPLACE_CONTROL_POINTS,
            Self::DeleteControlPoints(_) => function::DELETE_CONTROL_POINTS,
            Self::ClearCurrent => function::CLEAR_CURRENT,
            Self::ClearNew => function::CLEAR_NEW,
            Self::ExportPending(_) => function::EXPORT_PENDING,
        }
    }

    fn payload(&self) -> der::Result<Vec<u8>> {
        match self {
            Self::Query
            | Self::GenerateImporterKey
            | Self::GenerateMasterKey
            | Self::SetImmediate
            | Self::ClearNew
            | Self::ClearCurrent
            | Self::Zeroize => Ok(Vec::new()),
            Self::AddAdministrator(administrator) => administrator.to_der(),
            Self::RemoveAdministrator(id) => Ok(id.as_bytes().to_vec()),
            Self::SetAttributes(attributes) => attributes.to_list().to_der(),
            Self::ExportCurrent(key) | Self::ExportPending(key) => Ok(key.clone()),
            Self::ImportMasterKey(parts) => parts.to_der(),
            Self::CommitMasterKey(pattern) => Ok(pattern.as_bytes().to_vec()),
            Self::SetControlPoints(points)
            | Self::ReplaceControlPoints(points)
            | Self::DeleteControlPoints(points) => points.to_der(),
        }
    }

    fn parse(function: u32, payload: &[u8]) -> Result<Self, Refusal> {
        let bare = |command| payload.is_empty().then_some(command);
        let command = match function {
            function::QUERY => bare(Self::Query),
            function::GENERATE_IMPORTER_KEY => bare(Self::GenerateImporterKey),
            function::GENERATE_MASTER_KEY => bare(Self::GenerateMasterKey),
            function::SET_IMMEDIATE => bare(Self::SetImmediate),
            function::CLEAR_NEW => bare(Self::ClearNew),
            function::CLEAR_CURRENT => bare(Self::ClearCurrent),
            function::ZEROIZE => bare(Self::Zeroize),
            function::ADD_ADMINISTRATOR => Administrator::from_der(payload).ok().map(Self::AddAdministrator),
            function::REMOVE_ADMINISTRATOR => {
                SubjectKeyIdentifier::from_bytes(payload).map(Self::RemoveAdministrator)
            }
            function::SET_ATTRIBUTES => {
                let list = Vec::<Attribute>::from_der(payload).map_err(|_| Refusal::MALFORMED)?;
                Some(Self::SetAttributes(DomainAttributes::from_list(&list)?))
            }
            function::EXPORT_CURRENT => Some(Self::ExportCurrent(payload.to_vec())),
            function::EXPORT_PENDING => Some(Self::ExportPending(payload.to_vec())),
            function::IMPORT_MASTER_KEY => Vec::from_der(payload).ok().map(Self::ImportMasterKey),
            function::COMMIT_MASTER_KEY => {
                VerificationPattern::from_bytes(payload).map(Self::CommitMasterKey)
            }
            function::SET_CONTROL_POINTS => control_points(payload).map(Self::SetControlPoints),
            function::REPLACE_CONTROL_POINTS => control_points(payload).map(Self::ReplaceControlPoints),
            function::DELETE_CONTROL_POINTS => control_points(payload).map(Self::DeleteControlPoints),
            _ => None,
        };
        command.ok_or(Refusal::MALFORMED)
    }
}

/// At least one, and no more than a domain has.
fn control_points(payload: &[u8]) -> Option<Vec<u32>> {
    let points = Vec::from_der(payload).ok()?;
    (1..=MAX_CONTROL_POINTS).contains(&points.len()).then_some(points)
}

/// Thresholds and permissions to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainAttributes {
    /// Signatures that most commands need.
    pub signature_threshold: Option<u32>,
    /// Signatures that removing an administrator needs.
    pub revocation_threshold: Option<u32>,
    /// [`super::administration::permission`] bits.
    pub permissions: Option<u32>,
}

/// EP11's attribute record: an index and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Sequence)]
struct Attribute {
    index: u32,
    value: u32,
}

const SIGNATURE_THRESHOLD: u32 = 1;
const REVOCATION_THRESHOLD: u32 = 2;
const PERMISSIONS: u32 = 3;
const MODE: u32 = 4;
const STANDARDS_COMPLIANCE: u32 = 5;
/// Bits of EP11's control point field.
const MAX_CONTROL_POINTS: usize = 128;

impl DomainAttributes {
    fn to_list(self) -> Vec<Attribute> {
        [
            (SIGNATURE_THRESHOLD, self.signature_threshold),
            (REVOCATION_THRESHOLD, self.revocation_threshold),
            (PERMISSIONS, self.permissions),
        ]
        .into_iter()
        .filter_map(|(index, value)| Some(Attribute { index, value: value? }))
        .collect()
    }

    fn from_list(list: &[Attribute]) -> Result<Self, Refusal> {
        let mut attributes = Self::default();
        for Attribute { index, value } in list {
            let field = match *index {
                SIGNATURE_THRESHOLD => &mut attributes.signature_threshold,
                REVOCATION_THRESHOLD => &mut attributes.revocation_threshold,
                PERMISSIONS => &mut attributes.permissions,
                // They follow from what the unit is.
                MODE | STANDARDS_COMPLIANCE => return Err(Refusal::ATTRIBUTE_NOT_PERMITTED),
                _ => return Err(Refusal::MALFORMED),
            };
            if field.replace(*value).is_some() {
                return Err(Refusal::MALFORMED);
            }
        }
        Ok(attributes)
    }
}

/// A command for one unit, ready to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandBlock {
    /// What is asked.
    pub command: Command,
    /// The unit's serial number.
    pub serial: String,
    /// The unit's transaction counter, plus one.
    pub counter: u64,
}

#[derive(Sequence)]
struct Block {
    function: u32,
    serial: String,
    counter: u64,
    payload: OctetString,
}

impl CommandBlock {
    /// The bytes that administrators sign.
    ///
    /// # Errors
    /// If a field is too long for DER.
    pub fn to_der(&self) -> der::Result<Vec<u8>> {
        Block {
            function: self.command.function(),
            serial: self.serial.clone(),
            counter: self.counter,
            payload: OctetString::new(self.command.payload()?)?,
        }
        .to_der()
    }

    fn from_der(bytes: &[u8]) -> Result<Self, Refusal> {
        let block = Block::from_der(bytes).map_err(|_| Refusal::MALFORMED)?;
        let command = Command::parse(block.function, block.payload.as_bytes())?;
        Ok(Self { command, serial: block.serial, counter: block.counter })
    }
}

/// A command block's bytes with its signatures.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct Request {
    block: OctetString,
    signatures: Vec<Signature>,
}

/// One administrator's signature.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct Signature {
    signer: OctetString,
    value: OctetString,
}

impl Signature {
    /// DER of (R, S), made by the administrator with this subject key identifier.
    ///
    /// # Errors
    /// If the value is too long for DER.
    pub fn new(signer: &SubjectKeyIdentifier, value: Vec<u8>) -> der::Result<Self> {
        Ok(Self { signer: OctetString::new(signer.as_bytes().as_slice())?, value: OctetString::new(value)? })
    }

    /// Whose it claims to be.
    pub fn signer(&self) -> Option<SubjectKeyIdentifier> {
        SubjectKeyIdentifier::from_bytes(self.signer.as_bytes())
    }

    pub(super) fn value(&self) -> &[u8] {
        self.value.as_bytes()
    }
}

impl Request {
    /// From the bytes that were signed.
    ///
    /// # Errors
    /// If they are too long for DER.
    pub fn new(block: Vec<u8>, signatures: Vec<Signature>) -> der::Result<Self> {
        Ok(Self { block: OctetString::new(block)?, signatures })
    }

    /// Reads a request; the command inside may be one that no unit ever carries out.
    pub fn parse(bytes: &[u8]) -> Option<(Self, Result<CommandBlock, Refusal>)> {
        let request = Self::from_der(bytes).ok()?;
        let block = CommandBlock::from_der(request.block.as_bytes());
        Some((request, block))
    }

    pub(super) fn signed_bytes(&self) -> &[u8] {
        self.block.as_bytes()
    }

    /// Who signed, and what.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}

#[derive(Sequence)]
struct Answer {
    request: OctetString,
    serial: String,
    return_code: u32,
    reason_code: u32,
    payload: OctetString,
}

#[derive(Sequence)]
struct Response {
    answer: OctetString,
    signature: OctetString,
}

/// The unit's side: an answer to `request`, signed by the module key.
pub(super) fn answer(
    module_key: &SigningKey,
    serial: &str,
    request: &[u8],
    outcome: &Result<Vec<u8>, Refusal>,
) -> der::Result<Vec<u8>> {
    let (refusal, payload) = match outcome {
        Ok(payload) => (Refusal::NONE, payload.clone()),
        Err(refusal) => (*refusal, Vec::new()),
    };
    let answer = Answer {
        request: OctetString::new(digest::digest(&digest::SHA256, request).as_ref())?,
        serial: serial.to_owned(),
        return_code: refusal.return_code,
        reason_code: refusal.reason_code,
        payload: OctetString::new(payload)?,
    }
    .to_der()?;
    let signature: DerSignature = module_key.sign(&answer);
    Response { signature: OctetString::new(signature.as_bytes())?, answer: OctetString::new(answer)? }
        .to_der()
}

/// Why an answer is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not an answer at all.
    #[error("the crypto unit's answer is malformed")]
    Malformed,
    /// Not signed by the module, or not an answer to this request.
    #[error("the crypto unit's answer is not signed by its module key, or answers another request")]
    Signature,
    /// From another unit.
    #[error("Serial number mismatch detected")]
    Serial,
}

/// The administrator's side: checks an answer and takes its payload out.
///
/// # Errors
/// [`AnswerError`]; inside, the unit's [`Refusal`].
pub fn read_answer(
    module_key: &VerifyingKey,
    serial: &str,
    request: &[u8],
    response: &[u8],
) -> Result<Result<Vec<u8>, Refusal>, AnswerError> {
    let response = Response::from_der(response).map_err(|_| AnswerError::Malformed)?;
    let signature =
        DerSignature::try_from(response.signature.as_bytes()).map_err(|_| AnswerError::Malformed)?;
    module_key.verify(response.answer.as_bytes(), &signature).map_err(|_| AnswerError::Signature)?;
    let answer = Answer::from_der(response.answer.as_bytes()).map_err(|_| AnswerError::Malformed)?;
    if answer.request.as_bytes() != digest::digest(&digest::SHA256, request).as_ref() {
        return Err(AnswerError::Signature);
    }
    if answer.serial != serial {
        return Err(AnswerError::Serial);
    }
    let refusal = Refusal { return_code: answer.return_code, reason_code: answer.reason_code };
    Ok(if refusal == Refusal::NONE { Ok(answer.payload.as_bytes().to_vec()) } else { Err(refusal) })
}

/// The administrator's first contact: the answer to a query, with the module key that it names itself. All later
/// answers are checked against that key.
///
/// # Errors
/// [`AnswerError`].
pub fn read_first_answer(
    serial: &str,
    request: &[u8],
    response: &[u8],
) -> Result<(UnitStatus, VerifyingKey), AnswerError> {
    let unchecked = Response::from_der(response)
        .and_then(|response| Answer::from_der(response.answer.as_bytes()))
        .and_then(|answer| UnitStatus::from_der(answer.payload.as_bytes()))
        .map_err(|_| AnswerError::Malformed)?;
    let module_key = unchecked.module_key().ok_or(AnswerError::Malformed)?;
    let payload = read_answer(&module_key, serial, request, response)?.map_err(|_| AnswerError::Malformed)?;
    let status = UnitStatus::from_der(&payload).map_err(|_| AnswerError::Malformed)?;
    Ok((status, module_key))
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct UnitStatus {
    /// Eight characters.
    pub serial: String,
    /// Such as `[us-south].[AZ1-CS1].[00].[01]`.
    pub location: String,
    /// What the unit is for.
    pub unit_type: UnitType,
    /// The last transaction counter that was used.
    pub counter: u64,
    /// In the order of their installation.
    pub administrators: Vec<Administrator>,
    /// 0 in imprint mode.
    pub signature_threshold: u32,
    /// 0 in imprint mode.
    pub revocation_threshold: u32,
    /// [`super::administration::permission`] bits.
    pub permissions: u32,
    /// Numbers of those that are set.
    pub control_points: Vec<u32>,
    /// The new master key register.
    pub new_register: RegisterStatus,
    /// The current master key register.
    pub current_register: RegisterStatus,
    /// The module's public key, an uncompressed point.
    pub module_key: OctetString,
}

impl UnitStatus {
    /// Has the unit no thresholds yet?
    pub fn in_imprint_mode(&self) -> bool {
        self.signature_threshold == 0
    }

    /// The key that signs the unit's answers.
    pub fn module_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_sec1_bytes(self.module_key.as_bytes()).ok()
    }
}

/// What a unit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, der::Enumerated)]
#[repr(u8)]
pub enum UnitType {
    /// Serves.
    Operational = 1,
    /// Generates and keeps a backup of the master key.
    Recovery = 2,
    /// Serves in another region when the home region is lost.
    Failover = 3,
}

impl UnitType {
    /// As the cloud's interface spells it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Operational => "operational",
            Self::Recovery => "recovery",
            Self::Failover => "failover",
        }
    }
}

/// What may be seen of a master key register.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct RegisterStatus {
    /// `Empty`, `Valid`, `Full Uncommitted`, `Full Committed`.
    pub state: RegisterState,
    /// 32 bytes, zero if the register is empty.
    pub pattern: OctetString,
}

impl RegisterStatus {
    /// The pattern, if there is a key.
    pub fn verification_pattern(&self) -> Option<VerificationPattern> {
        (self.state != RegisterState::Empty)
            .then(|| VerificationPattern::from_bytes(self.pattern.as_bytes()))
            .flatten()
    }
}

/// The state of a master key register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, der::Enumerated)]
#[repr(u8)]
pub enum RegisterState {
    /// No key.
    Empty = 1,
    /// The current register has a key.
    Valid = 2,
    /// The new register has a key.
    FullUncommitted = 3,
    /// The new register has a key that may become the current one.
    FullCommitted = 4,
}

impl RegisterState {
    /// As IBM's tables spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Valid => "Valid",
            Self::FullUncommitted => "Full Uncommitted",
            Self::FullCommitted => "Full Committed",
        }
    }
}
