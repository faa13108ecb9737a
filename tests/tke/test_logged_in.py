"""An application of the PKCS #11 library that is logged in, and within an operation, while the master key is rotated goes on
afterwards as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pkcs11_token import LIBRARY, PIN, Token
from region import clean_environment
from tke_desk import Desk

APPLICATION = f"""
import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass

session = pkcs11.lib({str(LIBRARY)!r}).get_token(token_label="kept").open(rw=True, user_pin={PIN!r})
for stored in (True, False):
    data = {{Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: stored, Attribute.VALUE: b"sealed"}}
    session.create_object({{**data, Attribute.LABEL: f"data {{stored}}"}})

def found(template):
    return [found[Attribute.LABEL] for found in session.get_objects(template)]

assert found({{Attribute.VALUE: b"sealed"}}) == ["data True", "data False"]
key = session.generate_key(pkcs11.KeyType.AES, 256, label="aes", store=True, capabilities=None)
signer = session.create_domain_parameters(
    pkcs11.KeyType.EC, {{Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}}, local=True
).generate_keypair(store=True, label="ec")
secret = session.generate_key(pkcs11.KeyType.AES, 128, label="wrapped", store=True, template={{Attribute.EXTRACTABLE: True}})
iv = bytes(16)
blob, wrapped = key.encrypt(b"before", mechanism_param=iv), key.wrap_key(secret, mechanism=Mechanism.AES_KEY_WRAP)

def parts():
    yield b"first " * 16
    print("ready", flush=True)
    input()
    yield b"second"

# An operation that begins before the rotation and ends after it.
whole = b"".join(key.encrypt(parts(), mechanism_param=iv))
assert key.decrypt(whole, mechanism_param=iv) == b"first " * 16 + b"second"
assert key.decrypt(blob, mechanism_param=iv) == b"before"
assert key.wrap_key(secret, mechanism=Mechanism.AES_KEY_WRAP) == wrapped
public, private = signer
assert public.verify(b"data", private.sign(b"data", mechanism=Mechanism.ECDSA_SHA256), mechanism=Mechanism.ECDSA_SHA256)
# What was sealed for the session alone is not sealed anew, and its value is not found any more.
assert found({{Attribute.VALUE: b"sealed"}}) == ["data True"]
key[Attribute.LABEL] = "renamed"
assert found({{Attribute.LABEL: "renamed"}}) == ["renamed"]
session.generate_key(pkcs11.KeyType.AES, 256, label="new", store=True)
secret.destroy()
assert found({{Attribute.LABEL: "wrapped"}}) == []
print("done", flush=True)
"""


def test_rotation_under_a_logged_in_application(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    environment = {
        **clean_environment(),
        "HSM_GRPC_ENDPOINT": desk.endpoint,
        "HSM_API_KEY_FILE": str(Path(desk.state) / "api-key"),
    }
    Token("kept", environment)
    with subprocess.Popen(
        [sys.executable, "-c", APPLICATION],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as application:
        assert application.stdin and application.stdout
        assert application.stdout.readline() == "ready\n", application.stdout.read()
        before = desk.current_patterns()
        for _ in range(2):
            desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords="pw-ann pw-ben")
        assert not set(before) & set(desk.current_patterns())
        printed, _ = application.communicate("\n", timeout=60)
        assert printed == "done\n"
        assert application.returncode == 0
