"""Java's keytool and jarsigner, and a program that uses a token, through SunPKCS11."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from pkcs11_token import LIBRARY, Token

PROGRAM = Path(__file__).parent / "java" / "Use.java"
# Programs that end within a second need no better compiler.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Without the attributes, secret keys would be sensitive, and Java could not compare what they do.
CONFIGURATION = """
name = emulator
library = {library}
slot = {slot}
attributes(*, CKO_SECRET_KEY, *) = {{
    CKA_SENSITIVE = false
    CKA_EXTRACTABLE = true
}}
"""


class KeyStore:
    """A token, as a keystore that keytool has put an RSA and an EC key into, with certificates."""

    def __init__(self, token: Token, directory: Path) -> None:
        self.token = token
        self.configuration = directory / "provider.cfg"
        self.configuration.write_text(CONFIGURATION.format(library=LIBRARY, slot=token.slot()))
        store = ("-keystore", "NONE", "-storetype", "PKCS11", "-storepass", token.pin)
        self.options = (*store, "-addprovider", "SunPKCS11", "-providerArg", self.configuration)
        for alias, kind in (("rsa", ("RSA", "-keysize", "2048")), ("ec", ("EC", "-groupname", "secp256r1"))):
            self.keytool("-genkeypair", "-alias", alias, "-keyalg", *kind, "-dname", f"CN={alias}")

    def run(self, *command: str | Path) -> str:
        return self.token.run(*command, JAVA_TOOL_OPTIONS=QUICK)

    def keytool(self, *arguments: str | Path) -> str:
        return self.run("keytool", *arguments, *self.options)


@pytest.fixture(scope="module")
def keystore(token: Token, tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(token, tmp_path_factory.mktemp("java"))


def test_the_next_keytool_sees_keys_and_certificates(keystore: KeyStore) -> None:
    listed = keystore.keytool("-list")
    assert "Your keystore contains 2 entries" in listed
    for alias in ("rsa", "ec"):
        assert f"\n{alias}, PrivateKeyEntry, \nCertificate fingerprint (SHA-256): " in listed


def test_signs_an_archive(keystore: KeyStore) -> None:
    with ZipFile("archive.jar", "w") as archive:
        archive.writestr("file", "content")
    for alias in ("rsa", "ec"):
        keystore.run("jarsigner", *keystore.options, "-signedjar", f"{alias}.jar", "archive.jar", alias)
        # By the certificate inside, which has to be the token's.
        assert "\njar verified." in keystore.run("jarsigner", "-verify", "-strict", *keystore.options, f"{alias}.jar", alias)
    with ZipFile("rsa.jar", "a") as archive:
        archive.writestr("added", "later")
    assert "contains unsigned entries" in keystore.run("jarsigner", "-verify", "rsa.jar")


def test_requests_imports_and_deletes(keystore: KeyStore) -> None:
    run = keystore.run
    keystore.keytool("-certreq", "-alias", "ec", "-file", "request.pem")
    assert "self-signature verify OK" in run("openssl", "req", "-verify", "-in", "request.pem", "-noout")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-subj", "/CN=new")
    bundle = ("-inkey", "key", "-in", "cert", "-name", "imported", "-out", "bundle.p12", "-passout", "pass:secret")
    run("openssl", "pkcs12", "-export", *bundle)
    into = ("-destkeystore", "NONE", "-deststoretype", "PKCS11", "-deststorepass", keystore.token.pin)
    source = ("-srckeystore", "bundle.p12", "-srcstoretype", "PKCS12", "-srcstorepass", "secret")
    run("keytool", "-importkeystore", *source, *into, *keystore.options[-4:])
    keystore.keytool("-genseckey", "-alias", "secret", "-keyalg", "AES", "-keysize", "256")
    listed = keystore.keytool("-list")
    assert "\nimported, PrivateKeyEntry, " in listed and "\nsecret, SecretKeyEntry, " in listed
    keystore.keytool("-exportcert", "-rfc", "-alias", "imported", "-file", "exported")
    run("openssl", "x509", "-in", "exported", "-out", "exported")
    assert Path("exported").read_text() == Path("cert").read_text()
    for alias in ("imported", "secret"):
        keystore.keytool("-delete", "-alias", alias)
    assert "Your keystore contains 2 entries" in keystore.keytool("-list")


def test_a_program_computes_what_java_does_without_a_token(keystore: KeyStore) -> None:
    steps = keystore.run("java", PROGRAM, keystore.configuration, keystore.token.pin, "rsa", "ec")
    assert steps.endswith("\ndeleted: ok\n"), steps
