//! Messages of the public contract may end in a log.

use std::collections::HashMap;
use std::fmt::Debug;

use cryptoki_sys::CKA_VALUE;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::{grep11, kms, tokens};

const SECRET: &[u8] = b"swordfish";

fn shows(message: &impl Debug) -> bool {
    let shown = format!("{message:?}");
    // As text, escaped or not, or as a list of bytes.
    shown.contains("swordfish") || shown.contains("115, 119")
}

#[test]
fn messages_do_not_show_what_is_secret() {
    let login = tokens::LoginRequest { pin: SECRET.into(), ..Default::default() };
    assert!(!shows(&login));
    let request = tokens::Request { call: Some(tokens::request::Call::Login(login)) };
    assert!(!shows(&request));
    assert!(format!("{request:?}").contains("LoginRequest"));

    let one_attr = OneAttr::AttributeB(SECRET.into());
    assert!(!shows(&one_attr));
    let value = grep11::AttributeValue { one_attr: Some(one_attr) };
    let template = HashMap::from([(CKA_VALUE, value)]);
    assert!(!shows(&tokens::CreateObjectRequest { template }));

    let pbkdf2 = grep11::Pbkdf2Parm { password: SECRET.into(), ..Default::default() };
    let parameter = Some(grep11::mechanism::Parameter::Pbkdf2Parameter(pbkdf2));
    assert!(!shows(&grep11::Mechanism { parameter, ..Default::default() }));

    assert!(!shows(&kms::CreateRootKeyRequest { name: String::new(), material: SECRET.into() }));
    assert!(!shows(&kms::UnwrapResponse { plaintext: SECRET.into(), ..Default::default() }));

    // What is no secret is shown, or the test would show nothing.
    assert!(shows(&grep11::SignSingleRequest { data: SECRET.into(), ..Default::default() }));
}
