//! Activity Tracker events of administrative calls: what the audit log records. `docs/audit.md` lists them.

use aws_lc_rs::digest;
use der::Encode;
use serde_json::{Map, Value, json};

use super::region::{Identity, InstalledUnit};
use crate::units::command::{Command, Request};
use crate::units::{CryptoUnit, Refusal, VerificationPattern};

/// An administrative call as an event.
pub struct Activity {
    action: &'static str,
    target: Value,
    request: Map<String, Value>,
    answer: Answer,
}

/// What of a unit's answer goes into the event.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    VerificationPattern,
}

impl Activity {
    /// Of a command for a unit; `None` for a query.
    pub fn command(identity: &Identity, installed: &InstalledUnit, request: &[u8]) -> Option<Self> {
        let (request, block) = Request::parse(request)?;
        if block.as_ref().is_ok_and(|block| block.command == Command::Query) {
            return None;
        }
        let (action, data, answer) = match &block {
            Ok(block) => describe(&block.command, &installed.unit),
            Err(_) => ("hs-crypto.tke-cryptounit.refuse", Value::Null, Answer::Nothing),
        };
        let signers: Vec<String> = request
            .signatures()
            .iter()
            .filter_map(|signature| signature.signer())
            .map(|signer| signer.to_hex())
            .collect();
        let mut activity = Self::of_unit(identity, action, installed, &data);
        activity.request.insert("adminIds".into(), signers.into());
        activity.answer = answer;
        Some(activity)
    }

    /// Of a call that is for one unit and not signed.
    pub fn of_unit(
        identity: &Identity,
        action: &'static str,
        installed: &InstalledUnit,
        data: &Value,
    ) -> Self {
        let mut activity = Self::of_instance(identity, action, data);
        activity.target["name"] = installed.unit.location().into();
        activity.request.insert("location".into(), installed.unit.location().into());
        activity.request.insert("hsmId".into(), installed.hsm_id.clone().into());
        activity
    }

    /// Of a call that is for the whole instance.
    pub fn of_instance(identity: &Identity, action: &'static str, data: &Value) -> Self {
        Self {
            action,
            target: json!({ "id": identity.crn(), "typeURI": "hs-crypto/tke-cryptounit" }),
            request: data.as_object().cloned().unwrap_or_default(),
            answer: Answer::Nothing,
        }
    }

    /// Before it is carried out. An event that has no successor was cut off.
    pub fn attempted(&self) -> Value {
        self.event(json!({ "outcome": "pending" }))
    }

    /// Once a unit has answered.
    pub fn answered(&self, outcome: &Result<Vec<u8>, Refusal>) -> Value {
        match (outcome, self.answer) {
            (Ok(pattern), Answer::VerificationPattern) => {
                self.succeeded(json!({ "verificationPattern": hex::encode(pattern) }))
            }
            (Ok(_), Answer::Nothing) => self.succeeded(Value::Null),
            (Err(refusal), _) => self.event(json!({
                "outcome": "failure",
                "reason": {
                    "reasonCode": http_code(*refusal),
                    "reasonType": refusal.message(),
                    "ep11": { "returnCode": refusal.return_code, "reasonCode": refusal.reason_code },
                },
            })),
        }
    }

    /// Once it has been done.
    pub fn succeeded(&self, response: Value) -> Value {
        self.event(json!({
            "outcome": "success",
            "reason": { "reasonCode": 200, "reasonType": "OK" },
            "responseData": response,
        }))
    }

    /// If it could not be done.
    pub fn failed(&self, error: &str) -> Value {
        self.event(json!({ "outcome": "failure", "reason": { "reasonCode": 500, "reasonType": error } }))
    }

    fn event(&self, outcome: Value) -> Value {
        let mut event = Map::new();
        event.insert("action".into(), self.action.into());
        event.insert("severity".into(), "critical".into());
        event.insert("target".into(), self.target.clone());
        event.insert("requestData".into(), self.request.clone().into());
        event.extend(outcome.as_object().cloned().unwrap_or_default());
        event.retain(|_, value| !value.is_null());
        event.into()
    }
}

/// Action, request data and response data of every command. The names are the real service's; where that has none,
/// names of ours in the same style.
fn describe(command: &Command, unit: &CryptoUnit) -> (&'static str, Value, Answer) {
    use Answer::{Nothing, VerificationPattern as Pattern};
    match command {
        Command::Query => ("hs-crypto.tke-cryptounit.read", Value::Null, Nothing),
        Command::AddAdministrator(administrator) => (
            "hs-crypto.tke-cryptounit-admin.add",
            json!({
                "adminId": administrator.subject_key_identifier().to_hex(),
                "adminName": administrator.name(),
            }),
            Nothing,
        ),
        Command::RemoveAdministrator(id) => {
            ("hs-crypto.tke-cryptounit-admin.remove", json!({ "adminId": id.to_hex() }), Nothing)
        }
        Command::SetAttributes(attributes) => (
            "hs-crypto.tke-cryptounit-threshold.set",
            json!({
                "signatureThreshold": attributes.signature_threshold,
                "revocationSignatureThreshold": attributes.revocation_threshold,
                "permissions": attributes.permissions,
            }),
            Nothing,
        ),
        Command::SetControlPoints(points) => {
            ("hs-crypto.tke-cryptounit-control-point.set", json!({ "controlPoints": points }), Nothing)
        }
        Command::ReplaceControlPoints(points) => {
            ("hs-crypto.tke-cryptounit-control-point.replace", json!({ "controlPoints": points }), Nothing)
        }
        Command::DeleteControlPoints(points) => {
            ("hs-crypto.tke-cryptounit-control-point.delete", json!({ "controlPoints": points }), Nothing)
        }
        Command::GenerateImporterKey => {
            ("hs-crypto.tke-cryptounit-importer-key.generate", Value::Null, Nothing)
        }
        Command::GenerateMasterKey => {
            ("hs-crypto.tke-cryptounit-master-key-register.generate", Value::Null, Pattern)
        }
        Command::ExportCurrent(key) | Command::ExportPending(key) => (
            "hs-crypto.tke-cryptounit-master-key-register.export",
            json!({ "importerKeyId": sha256(key) }),
            Nothing,
        ),
        Command::ImportMasterKey(parts) => {
            // Only the unit can open a part: it is known by the SHA-256 of the form in which it travelled.
            let ids: Vec<String> =
                parts.iter().filter_map(|part| part.to_der().ok()).map(|part| sha256(&part)).collect();
            ("hs-crypto.tke-cryptounit-master-key-register.add", json!({ "masterKeyIds": ids }), Pattern)
        }
        Command::CommitMasterKey(pattern) => (
            "hs-crypto.tke-cryptounit-master-key-register.commit",
            json!({ "verificationPattern": pattern.to_hex() }),
            Nothing,
        ),
        Command::SetImmediate => {
            let committed = unit.committed_pattern().as_ref().map(VerificationPattern::to_hex);
            (
                "hs-crypto.tke-cryptounit-master-key-register.activate",
                json!({ "verificationPattern": committed }),
                Pattern,
            )
        }
        Command::ClearNew => ("hs-crypto.tke-cryptounit-new-master-key-register.clear", Value::Null, Nothing),
        Command::ClearCurrent => {
            ("hs-crypto.tke-cryptounit-current-master-key-register.clear", Value::Null, Nothing)
        }
        Command::Zeroize => ("hs-crypto.tke-cryptounit.reset", Value::Null, Nothing),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn http_code(refusal: Refusal) -> u32 {
    match refusal {
        Refusal::UNKNOWN_SIGNER | Refusal::SIGNATURE_WRONG => 401,
        Refusal::TOO_FEW_SIGNATURES => 403,
        Refusal::INTERNAL => 500,
        _ => 400,
    }
}
