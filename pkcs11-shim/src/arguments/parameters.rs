//! Mechanisms, and their parameters: one structure for each kind.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::kdf::{Hkdf, Number, Pbkdf2, Salt, Segment, Sp800108};
use hsm_emulator::units::mechanism::{Mechanism, OtherKey, Parameter, Secret};
use hsm_emulator::units::{Error, Result};

use super::Caller;
use crate::mechanisms::{MechanismInfo, Shape};
use crate::message_encryption::AeadMessage;
use crate::nonce::Nonce;

impl<'a> Caller<'a> {
    /// A mechanism with its parameter.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn mechanism(&self, pointer: *const CK_MECHANISM) -> Result<Mechanism> {
        let mechanism = self.value(pointer)?;
        let kind = mechanism.mechanism;
        let bytes = self
            .slice(mechanism.pParameter.cast_const().cast::<u8>(), mechanism.ulParameterLen)
            .map_err(|_| bad_parameter("the parameter's pointer is NULL"))?;
        let parameter = match MechanismInfo::of(kind).map(|info| info.shape) {
            _ if bytes.is_empty() => Parameter::None,
            // The standard wants the IV itself; many applications give this structure, as version 3 has it for GCM.
            Ok(Shape::Value) if kind == CKM_AES_GMAC && bytes.len() == size_of::<CK_GCM_PARAMS>() => {
                match self.gcm(self.structure(bytes)?)? {
                    Parameter::Gcm { iv, aad, tag_bits: 128 } if aad.is_empty() => Parameter::Bytes(iv),
                    _ => {
                        return Err(bad_parameter(
                            "GMAC has a tag of 128 bits, and no other data than the message",
                        ));
                    }
                }
            }
            Ok(Shape::Number) => Parameter::Number(self.structure(bytes)?),
            Ok(Shape::Gcm) => self.gcm(self.structure(bytes)?)?,
            Ok(Shape::Ctr) => ctr(self.structure(bytes)?)?,
            Ok(Shape::Oaep) => {
                let (digest, mgf, label) = self.oaep(self.structure(bytes)?)?;
                Parameter::Oaep { digest, mgf, label }
            }
            Ok(Shape::RsaAes) => self.rsa_aes(self.structure(bytes)?)?,
            Ok(Shape::Pss) => pss(self.structure(bytes)?),
            Ok(Shape::Ecdh1) => self.ecdh1(self.structure(bytes)?)?,
            Ok(Shape::Eddsa) => self.eddsa(self.structure(bytes)?)?,
            Ok(Shape::Ccm) => self.ccm(self.structure(bytes)?)?,
            Ok(Shape::ChaCha20Poly1305) => self.chacha20_poly1305(self.structure(bytes)?)?,
            Ok(Shape::Key) => Parameter::Key(OtherKey::Handle(self.structure(bytes)?)),
            Ok(Shape::Hkdf) => self.hkdf(self.structure(bytes)?)?,
            Ok(Shape::Sp800108) => self.sp800_108(self.structure(bytes)?, Vec::new())?,
            Ok(Shape::Sp800108Feedback) => self.sp800_108_feedback(self.structure(bytes)?)?,
            Ok(Shape::Pbkdf2) => self.pbkdf2(self.structure(bytes)?)?,
            Ok(Shape::SignContext) => self.sign_context(self.structure(bytes)?)?,
            Ok(Shape::Data(iv_bytes)) => self.data(bytes, iv_bytes)?,
            // Nothing, an IV, a public value; or a mechanism that will be refused.
            Ok(Shape::None | Shape::Iv(_) | Shape::Value) | Err(_) if bytes.len() > MAX_PARAMETER_BYTES => {
                return Err(bad_parameter("the parameter is longer than any mechanism wants"));
            }
            Ok(Shape::None | Shape::Iv(_) | Shape::Value) | Err(_) => Parameter::Bytes(bytes.to_vec()),
        };
        Ok(Mechanism { kind, parameter })
    }

    /// The parameter of one message of this mechanism. `to_seal`: its nonce may be one that is to be made.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`.
    pub fn aead_message(
        &self,
        kind: CK_MECHANISM_TYPE,
        pointer: *const std::ffi::c_void,
        len: CK_ULONG,
        to_seal: bool,
    ) -> Result<AeadMessage<'a>> {
        let bytes = self
            .slice(pointer.cast::<u8>(), len)
            .map_err(|_| bad_parameter("the parameter of the message is NULL"))?;
        let (nonce, nonce_len, fixed_bits, generator, tag, tag_bytes) = match kind {
            CKM_AES_GCM => {
                let given: CK_GCM_MESSAGE_PARAMS = self.structure(bytes)?;
                let tag_bytes = CK_ULONG::from(gcm_tag_bits(given.ulTagBits)? / 8);
                (given.pIv, given.ulIvLen, given.ulIvFixedBits, given.ivGenerator, given.pTag, tag_bytes)
            }
            CKM_AES_CCM => {
                let given: CK_CCM_MESSAGE_PARAMS = self.structure(bytes)?;
                let CK_CCM_MESSAGE_PARAMS {
                    pNonce,
                    ulNonceLen,
                    ulNonceFixedBits,
                    nonceGenerator,
                    pMAC,
                    ulMACLen,
                    ..
                } = given;
                if ulMACLen > 16 {
                    return Err(bad_parameter("the MAC of AES-CCM has at most 16 bytes"));
                }
                (pNonce, ulNonceLen, ulNonceFixedBits, nonceGenerator, pMAC, ulMACLen)
            }
            CKM_CHACHA20_POLY1305 => {
                let given: CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS = self.structure(bytes)?;
                (given.pNonce, given.ulNonceLen, 0, CKG_NO_GENERATE, given.pTag, 16)
            }
            _ => return Err(bad_parameter("the mechanism has no parameter for a message")),
        };
        let generator = if to_seal { generator } else { CKG_NO_GENERATE };
        Ok(AeadMessage {
            nonce: self.nonce(nonce, nonce_len, fixed_bits, generator)?,
            tag_bytes: tag_bytes as usize,
            tag: self
                .out_exact(tag, tag_bytes)
                .map_err(|_| bad_parameter("the pointer for the tag is NULL"))?,
        })
    }

    /// The mechanism of an authenticated wrap: with `CK_GCM_WRAP_PARAMS`, or `CK_GCM_PARAMS`. Associated data are an
    /// argument of the call; if there are none, those of the parameter are meant. To wrap, with the nonce that is to be
    /// made, if one is; until then, zeros stand for it.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn authenticated_wrap(
        &self,
        pointer: *const CK_MECHANISM,
        associated: &[u8],
        to_wrap: bool,
    ) -> Result<(Mechanism, Option<Nonce<'a>>)> {
        let given = self.value(pointer)?;
        let len = usize::try_from(given.ulParameterLen).unwrap_or(usize::MAX);
        let (mut mechanism, nonce) =
            if given.mechanism == CKM_AES_GCM && len == size_of::<CK_GCM_WRAP_PARAMS>() {
                let bytes = self
                    .slice(given.pParameter.cast_const().cast::<u8>(), given.ulParameterLen)
                    .map_err(|_| bad_parameter("the parameter's pointer is NULL"))?;
                let wrap: CK_GCM_WRAP_PARAMS = self.structure(bytes)?;
                let generator = if to_wrap { wrap.ivGenerator } else { CKG_NO_GENERATE };
                let nonce = self.nonce(wrap.pIv, wrap.ulIvLen, wrap.ulIvFixedBits, generator)?;
                let mut iv = nonce.given.clone();
                iv.resize(nonce.out.len(), 0);
                let parameter = Parameter::Gcm {
                    iv,
                    aad: self.parameter_bytes(wrap.pAAD, wrap.ulAADLen)?,
                    tag_bits: gcm_tag_bits(wrap.ulTagBits)?,
                };
                (Mechanism { kind: CKM_AES_GCM, parameter }, Some(nonce))
            } else {
                (self.mechanism(pointer)?, None)
            };
        match &mut mechanism.parameter {
            Parameter::Gcm { aad, .. } if !associated.is_empty() => *aad = associated.to_vec(),
            Parameter::Gcm { .. } => {}
            _ if mechanism.kind == CKM_AES_GCM => {
                return Err(bad_parameter("the parameter of AES-GCM is missing"));
            }
            _ => return Err(Error::new(CKR_MECHANISM_INVALID, "the mechanism does not authenticate")),
        }
        Ok((mechanism, nonce))
    }

    /// The nonce of an AEAD message. What the caller gives of it is read as far as it is used.
    fn nonce(
        &self,
        pointer: *mut CK_BYTE,
        len: CK_ULONG,
        fixed_bits: CK_ULONG,
        generator: CK_GENERATOR_FUNCTION,
    ) -> Result<Nonce<'a>> {
        if !(1..=128).contains(&len) || fixed_bits > 8 * len {
            return Err(bad_parameter("a nonce has 1 to 128 bytes, and not more bits that are fixed"));
        }
        let used = match generator {
            CKG_NO_GENERATE | CKG_GENERATE_COUNTER_XOR => len,
            _ => fixed_bits.div_ceil(8),
        };
        Ok(Nonce {
            given: self.parameter_bytes(pointer, used)?,
            fixed_bits: fixed_bits as usize,
            generator,
            out: self
                .out_exact(pointer, len)
                .map_err(|_| bad_parameter("the pointer for the nonce is NULL"))?,
        })
    }

    /// A parameter structure whose size must be the standard's.
    fn structure<T: Copy>(&self, bytes: &[u8]) -> Result<T> {
        if bytes.len() != size_of::<T>() {
            return Err(bad_parameter("the parameter's length is not its structure's"));
        }
        self.value(bytes.as_ptr().cast::<T>())
    }

    fn parameter_bytes(&self, pointer: *const CK_BYTE, len: CK_ULONG) -> Result<Vec<u8>> {
        if len > MAX_NESTED_BYTES {
            return Err(bad_parameter("a length in the parameter is out of range"));
        }
        self.slice(pointer, len)
            .map(<[u8]>::to_vec)
            .map_err(|_| bad_parameter("a pointer in the parameter is NULL"))
    }

    fn gcm(&self, given: CK_GCM_PARAMS) -> Result<Parameter> {
        if !(1..=128).contains(&given.ulIvLen) {
            return Err(bad_parameter("the IV of AES-GCM has 1 to 128 bytes"));
        }
        let iv = self.parameter_bytes(given.pIv, given.ulIvLen)?;
        let aad = self.parameter_bytes(given.pAAD, given.ulAADLen)?;
        Ok(Parameter::Gcm { iv, aad, tag_bits: gcm_tag_bits(given.ulTagBits)? })
    }

    fn sign_context(&self, given: CK_SIGN_ADDITIONAL_CONTEXT) -> Result<Parameter> {
        let context = self.parameter_bytes(given.pContext, given.ulContextLen)?;
        Ok(Parameter::SignContext { hedge: given.hedgeVariant, context })
    }

    fn eddsa(&self, given: CK_EDDSA_PARAMS) -> Result<Parameter> {
        if given.phFlag != CK_FALSE {
            return Err(bad_parameter("EdDSA is offered without pre-hashing only"));
        }
        Ok(Parameter::Bytes(self.parameter_bytes(given.pContextData, given.ulContextDataLen)?))
    }

    /// The data that a key is derived from, with an IV of so many bytes before them.
    fn data(&self, bytes: &[u8], iv_bytes: usize) -> Result<Parameter> {
        let (iv, data, len) = match iv_bytes {
            16 => {
                let given: CK_AES_CBC_ENCRYPT_DATA_PARAMS = self.structure(bytes)?;
                (given.iv.to_vec(), given.pData, given.length)
            }
            8 => {
                let given: CK_DES_CBC_ENCRYPT_DATA_PARAMS = self.structure(bytes)?;
                (given.iv.to_vec(), given.pData, given.length)
            }
            _ => {
                let given: CK_KEY_DERIVATION_STRING_DATA = self.structure(bytes)?;
                (Vec::new(), given.pData, given.ulLen)
            }
        };
        Ok(Parameter::Bytes([iv, self.parameter_bytes(data, len)?].concat()))
    }

    fn ccm(&self, given: CK_CCM_PARAMS) -> Result<Parameter> {
        Ok(Parameter::Ccm {
            data_len: given.ulDataLen,
            nonce: self.parameter_bytes(given.pNonce, given.ulNonceLen)?,
            aad: self.parameter_bytes(given.pAAD, given.ulAADLen)?,
            tag_bytes: given.ulMACLen,
        })
    }

    fn chacha20_poly1305(&self, given: CK_SALSA20_CHACHA20_POLY1305_PARAMS) -> Result<Parameter> {
        let iv = self.parameter_bytes(given.pNonce, given.ulNonceLen)?;
        let aad = self.parameter_bytes(given.pAAD, given.ulAADLen)?;
        Ok(Parameter::Gcm { iv, aad, tag_bits: 128 })
    }

    fn hkdf(&self, given: CK_HKDF_PARAMS) -> Result<Parameter> {
        let salt = match given.ulSaltType {
            CKF_HKDF_SALT_NULL => Salt::Null,
            CKF_HKDF_SALT_DATA => Salt::Data(self.parameter_bytes(given.pSalt, given.ulSaltLen)?),
            CKF_HKDF_SALT_KEY => Salt::Key(OtherKey::Handle(given.hSaltKey)),
            _ if given.bExtract == CK_FALSE => Salt::Null,
            _ => return Err(bad_parameter("HKDF's salt has an unknown type")),
        };
        Ok(Parameter::Hkdf(Hkdf {
            extract: given.bExtract != CK_FALSE,
            expand: given.bExpand != CK_FALSE,
            digest: given.prfHashMechanism,
            salt,
            info: self.parameter_bytes(given.pInfo, given.ulInfoLen)?,
        }))
    }

    fn sp800_108_feedback(&self, given: CK_SP800_108_FEEDBACK_KDF_PARAMS) -> Result<Parameter> {
        let iv = self.parameter_bytes(given.pIV, given.ulIVLen)?;
        let common = CK_SP800_108_KDF_PARAMS {
            prfType: given.prfType,
            ulNumberOfDataParams: given.ulNumberOfDataParams,
            pDataParams: given.pDataParams,
            ulAdditionalDerivedKeys: given.ulAdditionalDerivedKeys,
            pAdditionalDerivedKeys: given.pAdditionalDerivedKeys,
        };
        self.sp800_108(common, iv)
    }

    fn sp800_108(&self, given: CK_SP800_108_KDF_PARAMS, iv: Vec<u8>) -> Result<Parameter> {
        if given.ulAdditionalDerivedKeys != 0 {
            return Err(bad_parameter("SP 800-108 is offered for one key at a time"));
        }
        if given.ulNumberOfDataParams > MAX_SEGMENTS {
            return Err(bad_parameter("the data of SP 800-108 have too many parts"));
        }
        let parts = self
            .slice(given.pDataParams.cast_const(), given.ulNumberOfDataParams)
            .map_err(|_| bad_parameter("the data of SP 800-108 are missing"))?;
        let segments = parts.iter().map(|part| self.segment(part)).collect::<Result<_>>()?;
        Ok(Parameter::Sp800108(Sp800108 { prf: given.prfType, segments, iv }))
    }

    fn segment(&self, part: &CK_PRF_DATA_PARAM) -> Result<Segment> {
        let bytes = self
            .slice(part.pValue.cast_const().cast::<u8>(), part.ulValueLen)
            .map_err(|_| bad_parameter("a part of SP 800-108's data is missing"))?;
        match part.type_ {
            CK_SP800_108_ITERATION_VARIABLE if bytes.is_empty() => Ok(Segment::Iteration),
            // In counter mode, the iteration variable is the counter.
            CK_SP800_108_ITERATION_VARIABLE | CK_SP800_108_COUNTER => {
                let format: CK_SP800_108_COUNTER_FORMAT = self.structure(bytes)?;
                let little_endian = format.bLittleEndian != CK_FALSE;
                Ok(Segment::Counter(Number { little_endian, bits: format.ulWidthInBits }))
            }
            CK_SP800_108_DKM_LENGTH => {
                let format: CK_SP800_108_DKM_LENGTH_FORMAT = self.structure(bytes)?;
                let whole_blocks = match format.dkmLengthMethod {
                    CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS => false,
                    CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS => true,
                    _ => return Err(bad_parameter("the length of SP 800-108 has an unknown method")),
                };
                let little_endian = format.bLittleEndian != CK_FALSE;
                Ok(Segment::Length {
                    whole_blocks,
                    number: Number { little_endian, bits: format.ulWidthInBits },
                })
            }
            CK_SP800_108_BYTE_ARRAY if part.ulValueLen <= MAX_NESTED_BYTES => {
                Ok(Segment::Bytes(bytes.to_vec()))
            }
            CK_SP800_108_KEY_HANDLE => Ok(Segment::Key(OtherKey::Handle(self.structure(bytes)?))),
            _ => Err(bad_parameter("a part of SP 800-108's data has an unknown type")),
        }
    }

    fn pbkdf2(&self, given: CK_PKCS5_PBKD2_PARAMS2) -> Result<Parameter> {
        if given.saltSource != CKZ_SALT_SPECIFIED || given.ulPrfDataLen != 0 {
            return Err(bad_parameter("PBKDF2 takes its salt from the parameter, and no data for its PRF"));
        }
        let mut password_len = given.ulPasswordLen;
        if password_len > MAX_PASSWORD_BYTES {
            // In version 2.40 this was a pointer at the length, and NSS still gives one. The structures are of the same size.
            password_len = self.probe(password_len).unwrap_or(CK_ULONG::MAX);
        }
        if password_len > MAX_PASSWORD_BYTES {
            return Err(bad_parameter("the password is too long"));
        }
        let password = self
            .slice(given.pPassword.cast_const(), password_len)
            .map_err(|_| bad_parameter("the password is missing"))?;
        Ok(Parameter::Pbkdf2(Pbkdf2 {
            prf: given.prf,
            salt: self
                .parameter_bytes(given.pSaltSourceData.cast_const().cast(), given.ulSaltSourceDataLen)?,
            iterations: given.iterations,
            password: Secret::new(password),
        }))
    }

    /// Digest, mask generation function, label.
    fn oaep(
        &self,
        given: CK_RSA_PKCS_OAEP_PARAMS,
    ) -> Result<(CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE, Vec<u8>)> {
        let label = self.parameter_bytes(given.pSourceData.cast(), given.ulSourceDataLen)?;
        if given.source != CKZ_DATA_SPECIFIED && !(given.source == 0 && label.is_empty()) {
            return Err(bad_parameter("OAEP's label has an unknown source"));
        }
        Ok((given.hashAlg, given.mgf, label))
    }

    fn rsa_aes(&self, given: CK_RSA_AES_KEY_WRAP_PARAMS) -> Result<Parameter> {
        let oaep = self.value(given.pOAEPParams.cast_const());
        let oaep = oaep.map_err(|_| bad_parameter("the parameter of OAEP is missing"))?;
        let (digest, mgf, label) = self.oaep(oaep)?;
        Ok(Parameter::RsaAes { aes_bits: given.ulAESKeyBits, digest, mgf, label })
    }

    fn ecdh1(&self, given: CK_ECDH1_DERIVE_PARAMS) -> Result<Parameter> {
        Ok(Parameter::Ecdh1 {
            kdf: given.kdf,
            shared_data: self.parameter_bytes(given.pSharedData, given.ulSharedDataLen)?,
            public_data: self.parameter_bytes(given.pPublicData, given.ulPublicDataLen)?,
        })
    }
}

fn gcm_tag_bits(given: CK_ULONG) -> Result<u32> {
    match u32::try_from(given) {
        Ok(bits @ 32..=128) if bits % 8 == 0 => Ok(bits),
        _ => Err(bad_parameter("the tag of AES-GCM has 32 to 128 bits")),
    }
}

fn ctr(given: CK_AES_CTR_PARAMS) -> Result<Parameter> {
    match u32::try_from(given.ulCounterBits) {
        Ok(counter_bits @ 1..=128) => Ok(Parameter::Ctr { counter_bits, counter_block: given.cb }),
        _ => Err(bad_parameter("the counter has 1 to 128 bits")),
    }
}

fn pss(given: CK_RSA_PKCS_PSS_PARAMS) -> Parameter {
    Parameter::Pss { digest: given.hashAlg, mgf: given.mgf, salt_len: given.sLen }
}

fn bad_parameter(message: &'static str) -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, message)
}

/// Initialisation vectors; the public value of 8192 bits.
const MAX_PARAMETER_BYTES: usize = 1024;
/// AAD, labels, points.
const MAX_NESTED_BYTES: CK_ULONG = 16 << 20;
/// Parts of SP 800-108's data: each kind once, and some bytes between them.
const MAX_SEGMENTS: CK_ULONG = 64;
const MAX_PASSWORD_BYTES: CK_ULONG = 4096;
