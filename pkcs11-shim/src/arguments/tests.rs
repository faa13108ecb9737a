use super::*;
use hsm_emulator::units::mechanism::Parameter;

fn caller() -> Caller<'static> {
    // SAFETY: the tests give NULL or pointers at live values.
    unsafe { Caller::new() }
}

fn code<T>(result: Result<T>) -> CK_RV {
    result.err().expect("an error").code
}

#[test]
fn null_with_length_zero_is_empty_and_null_otherwise_is_refused() {
    assert!(caller().slice::<u8>(ptr::null(), 0).expect("empty").is_empty());
    assert_eq!(code(caller().slice::<u8>(ptr::null(), 1)), CKR_ARGUMENTS_BAD);
    assert_eq!(code(caller().slice(b"x".as_ptr(), CK_ULONG::MAX)), CKR_ARGUMENTS_BAD);
    assert_eq!(code(caller().value::<CK_MECHANISM>(ptr::null())), CKR_ARGUMENTS_BAD);
    assert_eq!(code(caller().out::<CK_ULONG>(ptr::null_mut())), CKR_ARGUMENTS_BAD);
}

#[test]
fn buffers_follow_the_two_call_convention() {
    let mut len: CK_ULONG = 77;
    let query = caller().out_buffer(ptr::null_mut(), &raw mut len).expect("a query");
    assert_eq!(query.room(), Room::Query);
    query.deliver(Output::Length(3)).expect("delivered");
    assert_eq!(len, 3);

    let mut bytes = [0u8; 4];
    len = 2;
    let small = caller().out_buffer(bytes.as_mut_ptr(), &raw mut len).expect("a buffer");
    assert_eq!(small.room(), Room::Bytes(2));
    assert_eq!(code(small.deliver(Output::Public(vec![1, 2, 3]))), CKR_BUFFER_TOO_SMALL);
    assert_eq!((len, bytes), (3, [0; 4]));

    len = 4;
    let enough = caller().out_buffer(bytes.as_mut_ptr(), &raw mut len).expect("a buffer");
    enough.deliver(Output::Public(vec![1, 2, 3])).expect("delivered");
    assert_eq!((len, bytes), (3, [1, 2, 3, 0]));
    assert_eq!(code(caller().out_buffer(bytes.as_mut_ptr(), ptr::null_mut())), CKR_ARGUMENTS_BAD);
}

fn attribute(type_: CK_ATTRIBUTE_TYPE, value: &mut [u8]) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_, pValue: value.as_mut_ptr().cast(), ulValueLen: value.len() as CK_ULONG }
}

#[test]
fn templates_are_normalised() {
    let mut truth = [7];
    let mut class = CKO_SECRET_KEY.to_le_bytes();
    let template = [attribute(CKA_TOKEN, &mut truth), attribute(CKA_CLASS, &mut class)];
    let attributes = caller().template(template.as_ptr(), 2).expect("a template");
    assert_eq!(attributes.get(CKA_TOKEN), Some(&[1][..]));
    assert_eq!(attributes.ulong(CKA_CLASS), Some(CKO_SECRET_KEY));
}

#[test]
fn templates_with_faults_are_refused() {
    let mut four = [0; 4];
    for kind in [CKA_TOKEN, CKA_CLASS, CKA_ALLOWED_MECHANISMS] {
        let template = [attribute(kind, &mut four)];
        assert_eq!(code(caller().template(template.as_ptr(), 1)), CKR_ATTRIBUTE_VALUE_INVALID);
    }
    let template = [attribute(CKA_LABEL, &mut four), attribute(CKA_LABEL, &mut [1])];
    assert_eq!(code(caller().template(template.as_ptr(), 2)), CKR_TEMPLATE_INCONSISTENT);
    let template = [CK_ATTRIBUTE { type_: CKA_LABEL, pValue: ptr::null_mut(), ulValueLen: 1 }];
    assert_eq!(code(caller().template(template.as_ptr(), 1)), CKR_ARGUMENTS_BAD);
    assert_eq!(code(caller().template(template.as_ptr(), CK_ULONG::MAX)), CKR_ARGUMENTS_BAD);
}

#[test]
fn every_attribute_is_answered_even_after_a_failure() {
    let mut label = [0; 8];
    let mut small = [0; 1];
    let mut template = [
        attribute(CKA_VALUE, &mut []),
        attribute(CKA_LABEL, &mut label),
        attribute(CKA_ID, &mut small),
        CK_ATTRIBUTE { type_: CKA_ID, pValue: ptr::null_mut(), ulValueLen: 0 },
    ];
    let result = caller().fill_template(template.as_mut_ptr(), 4, |kind| match kind {
        CKA_VALUE => Err(Error::new(CKR_ATTRIBUTE_SENSITIVE, "")),
        CKA_LABEL => Ok(AttributeValue::Public(b"name".to_vec())),
        _ => Ok(AttributeValue::Public(vec![1, 2])),
    });
    assert_eq!(code(result), CKR_ATTRIBUTE_SENSITIVE);
    let lengths = template.map(|entry| entry.ulValueLen);
    assert_eq!(lengths, [CK_UNAVAILABLE_INFORMATION, 4, CK_UNAVAILABLE_INFORMATION, 2]);
    assert_eq!(&label[..4], b"name");
}

fn parsed<T>(kind: CK_MECHANISM_TYPE, parameter: &mut T, len: usize) -> Result<Mechanism> {
    let pointer: *mut T = parameter;
    let mechanism =
        CK_MECHANISM { mechanism: kind, pParameter: pointer.cast(), ulParameterLen: len as CK_ULONG };
    caller().mechanism(&raw const mechanism)
}

#[test]
fn parameters_are_checked() {
    let mut iv = [0; 12];
    let gcm = |tag_bits, iv: *mut u8, iv_len| CK_GCM_PARAMS {
        pIv: iv,
        ulIvLen: iv_len,
        ulIvBits: 96,
        pAAD: ptr::null_mut(),
        ulAADLen: 0,
        ulTagBits: tag_bits,
    };
    let size = size_of::<CK_GCM_PARAMS>();
    let good = parsed(CKM_AES_GCM, &mut gcm(96, iv.as_mut_ptr(), 12), size).expect("valid");
    assert_eq!(good.parameter, Parameter::Gcm { iv: vec![0; 12], aad: vec![], tag_bits: 96 });
    for (mut bad, size) in [
        (gcm(96, iv.as_mut_ptr(), 12), size - 8),
        (gcm(97, iv.as_mut_ptr(), 12), size),
        (gcm(136, iv.as_mut_ptr(), 12), size),
        (gcm(CK_ULONG::MAX, iv.as_mut_ptr(), 12), size),
        (gcm(96, iv.as_mut_ptr(), 0), size),
        (gcm(96, ptr::null_mut(), 12), size),
        (gcm(96, iv.as_mut_ptr(), CK_ULONG::MAX), size),
    ] {
        assert_eq!(code(parsed(CKM_AES_GCM, &mut bad, size)), CKR_MECHANISM_PARAM_INVALID);
    }
    let mut ctr = CK_AES_CTR_PARAMS { ulCounterBits: 0, cb: [0; 16] };
    assert_eq!(
        code(parsed(CKM_AES_CTR, &mut ctr, size_of::<CK_AES_CTR_PARAMS>())),
        CKR_MECHANISM_PARAM_INVALID
    );
    let plain = CK_MECHANISM { mechanism: CKM_AES_CBC, pParameter: ptr::null_mut(), ulParameterLen: 16 };
    assert_eq!(code(caller().mechanism(&raw const plain)), CKR_MECHANISM_PARAM_INVALID);
}
