"""GREP11 with a client that knows only what reflection tells it: keys that their owner keeps as blobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from grpc_client import Grep11, grep11_error
from region import Region

CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_SHA256_RSA_PKCS = 0x0, 0x40
CKM_EC_KEY_PAIR_GEN, CKM_ECDSA = 0x1040, 0x1041
CKM_AES_KEY_GEN, CKM_AES_ECB, CKM_AES_CBC_PAD = 0x1080, 0x1081, 0x1085
CKA_CLASS, CKA_KEY_TYPE, CKA_VALUE, CKA_LABEL = 0x0, 0x100, 0x11, 0x3
CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP = 0x104, 0x105, 0x108, 0x10A, 0x106, 0x107
CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_VALUE_LEN, CKA_EXTRACTABLE, CKA_EC_PARAMS = 0x121, 0x122, 0x161, 0x162, 0x180
CKO_SECRET_KEY, CKK_AES = 4, 0x1F
CKR_ARGUMENTS_BAD, CKR_MECHANISM_INVALID, CKR_ATTRIBUTE_SENSITIVE, CKR_SIGNATURE_INVALID = 0x7, 0x70, 0x11, 0xC0
CKR_IBM_BLOBKEY_CONFLICT, CKR_IBM_WK_NOT_INITIALIZED = 0x8001000D, 0x80010009
P_256 = bytes.fromhex("06082a8648ce3d030107")


@pytest.fixture
def grep11(region: Region) -> Iterator[Grep11]:
    client = Grep11(region.env["HSM_GRPC_ENDPOINT"], region.env["HSM_API_KEY"])
    yield client
    client.close()


def mechanism(kind: int, parameter: bytes | None = None) -> dict[str, Any]:
    return {"Mechanism": kind} if parameter is None else {"Mechanism": kind, "ParameterB": parameter}


def template(attributes: dict[int, bool | int | bytes]) -> dict[int, dict[str, Any]]:
    """As IBM's helper does it: flags, numbers and bytes each in their own field."""
    names: dict[type, str] = {bool: "AttributeTF", int: "AttributeI", bytes: "AttributeB"}
    return {kind: {names[type(value)]: value} for kind, value in attributes.items()}


def aes_key(grep11: Grep11, bits: int = 256, **more: bool) -> Any:
    wanted = {CKA_VALUE_LEN: bits // 8, CKA_ENCRYPT: True, CKA_DECRYPT: True, CKA_WRAP: True, CKA_UNWRAP: True}
    wanted[CKA_EXTRACTABLE] = more.get("extractable", False)
    return grep11.GenerateKey(Mech=mechanism(CKM_AES_KEY_GEN), Template=template(wanted))


def refused(call: Any) -> int:
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == grpc.StatusCode.UNKNOWN
    return grep11_error(error.value)


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_a_secret_key_is_generated_and_used(grep11: Grep11, bits: int) -> None:
    made = aes_key(grep11, bits)
    assert made.KeyBytes == made.Key.KeyBlobs[0]
    zero = grep11.EncryptSingle(Mech=mechanism(CKM_AES_ECB), Key=made.Key, Plain=bytes(16)).Ciphered
    assert made.CheckSum == zero[:3] + bits.to_bytes(4)
    cbc, text = mechanism(CKM_AES_CBC_PAD, os.urandom(16)), os.urandom(1000)
    ciphered = grep11.EncryptSingle(Mech=cbc, Key=made.Key, Plain=text).Ciphered
    assert ciphered != text
    assert grep11.DecryptSingle(Mech=cbc, Key=made.Key, Ciphered=ciphered).Plain == text


def test_an_rsa_key_pair_signs(grep11: Grep11) -> None:
    # 65537 as a number, as IBM's clients send it.
    public = template({CKA_MODULUS_BITS: 2048, CKA_PUBLIC_EXPONENT: 65537, CKA_VERIFY: True})
    pair = grep11.GenerateKeyPair(
        Mech=mechanism(CKM_RSA_PKCS_KEY_PAIR_GEN), PubKeyTemplate=public, PrivKeyTemplate=template({CKA_SIGN: True})
    )
    assert pair.PrivKeyBytes == pair.PrivKey.KeyBlobs[0] and pair.PubKeyBytes == pair.PubKey.KeyBlobs[0]
    signing = mechanism(CKM_SHA256_RSA_PKCS)
    signature = grep11.SignSingle(Mech=signing, PrivKey=pair.PrivKey, Data=b"text").Signature
    grep11.VerifySingle(Mech=signing, PubKey=pair.PubKey, Data=b"text", Signature=signature)
    assert refused(
        lambda: grep11.VerifySingle(Mech=signing, PubKey=pair.PubKey, Data=b"test", Signature=signature)
    ) == CKR_SIGNATURE_INVALID  # fmt: skip


def test_an_ec_key_pair_signs(grep11: Grep11) -> None:
    pair = grep11.GenerateKeyPair(
        Mech=mechanism(CKM_EC_KEY_PAIR_GEN),
        PubKeyTemplate=template({CKA_EC_PARAMS: P_256, CKA_VERIFY: True}),
        PrivKeyTemplate=template({CKA_SIGN: True}),
    )
    signing = mechanism(CKM_ECDSA)
    signature = grep11.SignSingle(Mech=signing, PrivKey=pair.PrivKey, Data=bytes(32)).Signature
    grep11.VerifySingle(Mech=signing, PubKey=pair.PubKey, Data=bytes(32), Signature=signature)


def test_a_key_is_wrapped_and_unwrapped(grep11: Grep11) -> None:
    kek, key = aes_key(grep11), aes_key(grep11, extractable=True)
    cbc = mechanism(CKM_AES_CBC_PAD, bytes(16))
    wrapped = grep11.WrapKey(Mech=cbc, KeK=kek.Key, Key=key.Key).Wrapped
    wanted = template(
        {CKA_CLASS: CKO_SECRET_KEY, CKA_KEY_TYPE: CKK_AES, CKA_VALUE_LEN: 32, CKA_ENCRYPT: True, CKA_DECRYPT: True}
    )
    unwrapped = grep11.UnwrapKey(Mech=cbc, KeK=kek.Key, Wrapped=wrapped, Template=wanted)
    assert unwrapped.UnwrappedBytes == unwrapped.Unwrapped.KeyBlobs[0] != key.KeyBytes
    assert unwrapped.CheckSum == key.CheckSum
    ciphered = grep11.EncryptSingle(Mech=cbc, Key=key.Key, Plain=b"text").Ciphered
    assert grep11.DecryptSingle(Mech=cbc, Key=unwrapped.Unwrapped, Ciphered=ciphered).Plain == b"text"


def test_attributes_are_read_and_changed(grep11: Grep11) -> None:
    key = aes_key(grep11).KeyBytes
    changed = grep11.SetAttributeValue(Object=key, Attributes=template({CKA_LABEL: b"mine"})).Object
    asked = template({CKA_LABEL: b"", CKA_VALUE_LEN: 0})
    answer = grep11.GetAttributeValue(Object=changed, Attributes=asked).Attributes
    assert answer[CKA_LABEL].AttributeB == b"mine" and answer[CKA_VALUE_LEN].AttributeB[0] == 32
    value = template({CKA_VALUE: b""})
    assert refused(lambda: grep11.GetAttributeValue(Object=key, Attributes=value)) == CKR_ATTRIBUTE_SENSITIVE


def test_what_makes_no_sense_is_refused(grep11: Grep11) -> None:
    key = aes_key(grep11)
    assert refused(lambda: grep11.GenerateRandom(Len=0)) == CKR_ARGUMENTS_BAD
    assert refused(lambda: grep11.GenerateRandom(Len=1_000_001)) == CKR_ARGUMENTS_BAD
    assert len(grep11.GenerateRandom(Len=1_000_000).Rnd) == 1_000_000
    assert refused(lambda: grep11.EncryptSingle(Key=key.Key, Plain=b"text")) == CKR_ARGUMENTS_BAD
    unknown = mechanism(0x7FFF_FFFF)
    assert refused(lambda: grep11.EncryptSingle(Mech=unknown, Key=key.Key, Plain=b"text")) == CKR_MECHANISM_INVALID
    altered = bytearray(key.KeyBytes)
    altered[-1] ^= 1
    for blob in (b"", b"no blob", bytes(altered)):
        ecb = mechanism(CKM_AES_ECB)
        call = lambda: grep11.EncryptSingle(Mech=ecb, Key={"KeyBlobs": [blob]}, Plain=bytes(16))  # noqa: B023, E731
        assert refused(call) == CKR_IBM_BLOBKEY_CONFLICT
    # Only between the commit and the end of a rotation.
    assert refused(lambda: grep11.RewrapKeyBlob(WrappedKey=key.Key)) == CKR_IBM_WK_NOT_INITIALIZED


def test_every_call_needs_the_right_token(region: Region) -> None:
    stranger = Grep11(region.env["HSM_GRPC_ENDPOINT"], "no such API key")
    with pytest.raises(grpc.RpcError) as error:
        stranger.GenerateRandom(Len=8)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    stranger.close()
