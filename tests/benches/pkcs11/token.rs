//! A process that works with one module: makes its token, measures the rows, fills the token, searches it, starts up.

use std::path::Path;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use integration_tests::arguments::{TRUE, ulong};

use super::module::{Module, Session};
use super::rows::{After, LARGEST, Operation, P256, ROWS};
use super::timing::{Figure, alone, shared, timed};
use super::{BUDGET, budget, print_figure};

pub const USER_PIN: &str = "12345678";
pub const LABEL: &str = "bench";

/// `parameters` are what NSS wants in `C_Initialize`.
pub fn perform(module: &Path, parameters: Option<&str>, task: &[String]) {
    let module = Module::load(module);
    let begin = Instant::now();
    module.initialize(parameters).expect("C_Initialize");
    match task.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make"] => make(module),
        ["start"] => {
            let session = module.open_session(slot(module).expect("the token")).expect("session");
            let opened = begin.elapsed();
            session.login(CKU_USER, USER_PIN).expect("login");
            let logged_in = begin.elapsed();
            session.find(&[(CKA_LABEL, label(0).as_bytes())]).expect("find");
            print_figure(OPENED, only(opened));
            print_figure(FIRST_LOGIN, only(logged_in - opened));
            print_figure(FIRST_FIND, only(begin.elapsed() - logged_in));
        }
        ["rows"] => rows(&mut user_session(module)),
        ["fill", from, to] => {
            let number = |text: &str| text.parse().expect("a number");
            fill(&user_session(module), number(from), number(to));
        }
        ["find", count] => find(&mut user_session(module), count.parse().expect("a number")),
        _ => panic!("no such task: {task:?}"),
    }
    module.finalize().expect("C_Finalize");
}

fn slot(module: Module) -> Option<CK_SLOT_ID> {
    let slots = module.slots().expect("slots");
    slots.into_iter().find(|slot| module.token(*slot).is_ok_and(|(label, _)| label == LABEL))
}

/// A token with a PIN of the user's. That of NSS is there already, and the SO's PIN is empty there.
fn make(module: Module) {
    let (slot, so_pin) = slot(module).map(|slot| (slot, "")).unwrap_or_else(|| {
        let slot = *module.slots().expect("slots").last().expect("a slot");
        module.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
        (slot, SO_PIN)
    });
    let session = module.open_session(slot).expect("session");
    session.login(CKU_SO, so_pin).expect("login of the SO");
    session.init_pin(USER_PIN).expect("C_InitPIN");
}

fn user_session(module: Module) -> Session {
    let slot = slot(module).expect("the token");
    let session = module.open_session(slot).expect("session").with_output(2 * LARGEST);
    session.login(CKU_USER, USER_PIN).expect("login");
    session
}

fn rows(session: &mut Session) {
    for row in ROWS {
        let budget = budget(row.name);
        let figure = match (row.prepare)(session) {
            Err(_) => Figure::NONE,
            Ok(operation) if row.shared => shared(row.name, budget, session, &operation),
            Ok(operation) => alone(row.name, budget, || timed(session, &operation)),
        };
        print_figure(row.name, figure);
    }
}

/// Private keys: what applications search for, and what has a label, an id and a subject.
fn fill(session: &Session, from: usize, to: usize) {
    let (class, kind) = (ulong(CKO_PRIVATE_KEY), ulong(CKK_EC));
    let own = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind), (CKA_EC_PARAMS, P256), (CKA_VALUE, &[5; 32])];
    let token = [(CKA_TOKEN, TRUE), (CKA_PRIVATE, TRUE), (CKA_SIGN, TRUE)];
    for number in from..to {
        let (label, subject, id) = (label(number), subject(number), ulong(number as CK_ULONG));
        let named = [(CKA_LABEL, label.as_bytes()), (CKA_SUBJECT, &subject), (CKA_ID, &id)];
        session.create(&[&own[..], &token, &named].concat()).expect("create a key");
    }
}

fn find(session: &mut Session, count: usize) {
    let (label, subject) = (label(count / 2), subject(count / 2));
    let by = |kind: CK_ATTRIBUTE_TYPE, value: Vec<u8>| -> Operation {
        Box::new(move |session| match session.find(&[(kind, &value)])? {
            1 => Ok(After::Nothing),
            _ => Err(CKR_OBJECT_HANDLE_INVALID),
        })
    };
    for (by_what, operation) in
        [("label", by(CKA_LABEL, label.into())), ("subject", by(CKA_SUBJECT, subject))]
    {
        let name = find_name(by_what, count);
        print_figure(&name, shared(&name, BUDGET, session, &operation));
    }
}

pub fn find_name(by_what: &str, count: usize) -> String {
    format!("find by {by_what}, {count}")
}

fn label(number: usize) -> String {
    format!("key {number:06}")
}

/// A distinguished name with one common name, in DER.
fn subject(number: usize) -> Vec<u8> {
    let name = label(number);
    let mut value = vec![0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, name.len() as u8];
    value.extend(name.as_bytes());
    for tag in [0x30, 0x31, 0x30] {
        value.splice(0..0, [tag, value.len() as u8]);
    }
    value
}

fn only(took: Duration) -> Figure {
    Figure { median: took.as_nanos() as f64 / 1000.0, ..Figure::NONE }
}

pub const OPENED: &str = "start to session open";
const FIRST_LOGIN: &str = "first login";
const FIRST_FIND: &str = "first find by label";
const SO_PIN: &str = "12345678";
