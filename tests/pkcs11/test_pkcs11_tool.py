"""OpenSC's pkcs11-tool: its own tests, and keys, certificates and data; openssl checks what it made."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, Token

IV = "000102030405060708090a0b0c0d0e0f"
RSA, EC, ED25519, AES = "01", "02", "03", "04"
KEY_PAIRS = {RSA: "rsa:2048", EC: "EC:prime256v1", ED25519: "EC:edwards25519"}


@pytest.fixture(scope="module")
def keys(token: Token) -> Token:
    """The token with a key of each type."""
    for number, kind in KEY_PAIRS.items():
        made = token.pkcs11_tool("--keypairgen", "--key-type", kind, "--id", number, "--label", f"key {number}")
        assert "sensitive, always sensitive, never extractable, local" in made
    token.pkcs11_tool("--keygen", "--key-type", "AES:32", "--id", AES, "--label", "aes")
    return token


@pytest.fixture(autouse=True)
def files(work_directory: None) -> None:
    """What tests sign and encrypt."""
    Path("data").write_bytes(os.urandom(100_000))
    Path("hash").write_bytes(os.urandom(32))


def public_key(token: Token, number: str) -> None:
    """Writes public.pem. The tool writes some types of key as DER and others as PEM; openssl reads both."""
    token.pkcs11_tool("--read-object", "--type", "pubkey", "--id", number, "--output-file", "public")
    token.run("openssl", "pkey", "-pubin", "-in", "public", "-out", "public.pem")


def certificate(token: Token) -> None:
    """Writes certificate, in DER, and the key of it to key.pem."""
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x")
    token.run(*make, "-keyout", "key.pem", "-outform", "DER", "-out", "certificate")


def test_its_own_tests_pass(keys: Token) -> None:
    tested = keys.pkcs11_tool("--test")
    assert "No errors" in tested
    for step in ("SHA-1", "SHA256", "SHA1-RSA-PKCS", "RSA-X-509", "RSA-PKCS"):
        assert f" {step}: OK" in tested
    assert tested.count("RSA-PKCS-OAEP: mgf not set, defaulting to MGF1-SHA256\nOK") == 2, "with a label and without"


def test_its_own_test_of_a_curve_passes(keys: Token) -> None:
    key = ("--key-type", "EC:prime256v1", "--id", "77", "--label", "curve")
    assert "==> OK" in keys.pkcs11_tool("--session-rw", "--test-ec", *key)


def test_its_own_test_of_what_a_browser_does_passes(keys: Token) -> None:
    certificate(keys)
    key = ("--key-type", "rsa:2048", "--id", "78", "--label", "browser")
    assert "==> OK, successful!" in keys.pkcs11_tool("--session-rw", "--moz-cert", "certificate", *key)


def test_its_own_test_of_a_forked_process_passes(keys: Token) -> None:
    keys.run("pkcs11-tool", "--module", LIBRARY, "--test-fork")


def test_threads_of_its_own_share_the_library(keys: Token) -> None:
    """Threads that initialise the library and look at slots and tokens, while the program tests its keys."""
    threads = ("--test-threads", "IN:GI:SL:T0", "--test-threads", "IL:SL:T0:GI:T0", "--test-threads", "IL:SL:T0:T0")
    done = keys.pkcs11_tool("--use-locking", *threads, "--test")
    assert "all threads have ended with CKR_OK" in done and "No errors" in done, done


def test_lists_slots_mechanisms_and_objects(keys: Token) -> None:
    slots = keys.run("pkcs11-tool", "--module", LIBRARY, "--list-token-slots")
    assert keys.label in slots and "login required, rng, token initialized, PIN initialized" in slots
    mechanisms = keys.pkcs11_tool("--list-mechanisms")
    for mechanism in ("RSA-PKCS-KEY-PAIR-GEN", "ECDSA-SHA256", "EDDSA", "AES-GCM", "ECDH1-DERIVE", "SHA3-512"):
        assert f"\n  {mechanism}, " in mechanisms
    objects = keys.pkcs11_tool("--list-objects")
    assert "Public Key Object; RSA 2048 bits" in objects
    for kind in ("EC", "EC_EDWARDS"):
        assert f"Private Key Object; {kind}\n" in objects
    before_login = keys.run("pkcs11-tool", "--module", LIBRARY, "--token-label", keys.label, "--list-objects")
    assert "Public Key Object" in before_login and "Private Key Object" not in before_login


PSS = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")


@pytest.mark.parametrize(
    ("number", "mechanism", "digest"),
    [
        (RSA, "SHA1-RSA-PKCS", ("-sha1",)),
        (RSA, "SHA224-RSA-PKCS", ("-sha224",)),
        (RSA, "SHA256-RSA-PKCS", ("-sha256",)),
        (RSA, "SHA384-RSA-PKCS", ("-sha384",)),
        (RSA, "SHA512-RSA-PKCS", ("-sha512",)),
        (RSA, "SHA1-RSA-PKCS-PSS", ("-sha1", *PSS)),
        (RSA, "SHA256-RSA-PKCS-PSS", ("-sha256", *PSS)),
        (RSA, "SHA384-RSA-PKCS-PSS", ("-sha384", *PSS)),
        (RSA, "SHA512-RSA-PKCS-PSS", ("-sha512", *PSS)),
        (EC, "ECDSA-SHA1", ("-sha1",)),
        (EC, "ECDSA-SHA256", ("-sha256",)),
        (EC, "ECDSA-SHA384", ("-sha384",)),
        (EC, "ECDSA-SHA512", ("-sha512",)),
    ],
)
def test_openssl_verifies_signatures_of_long_data(keys: Token, number: str, mechanism: str, digest: tuple[str, ...]) -> None:
    public_key(keys, number)
    form = ("--signature-format", "openssl") if number == EC else ()
    key = ("--mechanism", mechanism, "--id", number, *form, "--input-file", "data")
    keys.pkcs11_tool("--sign", *key, "--output-file", "signature")
    verify = ("openssl", "dgst", *digest, "-verify", "public.pem", "-signature", "signature")
    assert "Verified OK" in keys.run(*verify, "data")
    assert "Signature is valid" in keys.pkcs11_tool("--verify", *key, "--signature-file", "signature")
    keys.run(*verify, "hash", fails=True)
    key = (*key[:-1], "hash")
    assert "Invalid signature" in keys.pkcs11_tool("--verify", *key, "--signature-file", "signature")


@pytest.mark.parametrize(
    ("number", "mechanism", "options"),
    [
        (RSA, "RSA-PKCS", ()),
        (RSA, "RSA-PKCS-PSS", ("-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss")),
        (EC, "ECDSA", ()),
        (ED25519, "EDDSA", ("-rawin",)),
    ],
)
def test_openssl_verifies_signatures_of_one_call(keys: Token, number: str, mechanism: str, options: tuple[str, ...]) -> None:
    public_key(keys, number)
    form = ("--signature-format", "openssl") if number == EC else ()
    hashed = ("--hash-algorithm", "SHA256") if mechanism.endswith("PSS") else ()
    key = ("--mechanism", mechanism, "--id", number, *form, *hashed, "--input-file", "hash")
    keys.pkcs11_tool("--sign", *key, "--output-file", "signature")
    verify = ("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-in", "hash", "-sigfile", "signature")
    assert "Verified Successfully" in keys.run(*verify, *options)
    assert "Signature is valid" in keys.pkcs11_tool("--verify", *key, "--signature-file", "signature")


def test_openssl_verifies_an_ed25519_signature_of_long_data(keys: Token) -> None:
    """The tool signs what is longer than its buffer in parts. CKM_EDDSA is for single and multiple parts (PKCS #11 v3.1, 6.3.15)."""
    public_key(keys, ED25519)
    key = ("--mechanism", "EDDSA", "--id", ED25519, "--input-file", "data")
    keys.pkcs11_tool("--sign", *key, "--output-file", "signature")
    verify = ("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "data", "-sigfile", "signature")
    assert "Verified Successfully" in keys.run(*verify)
    assert "Signature is valid" in keys.pkcs11_tool("--verify", *key, "--signature-file", "signature")


def test_openssl_computes_the_same_digests_and_macs(keys: Token) -> None:
    for mechanism, name in (("SHA-1", "sha1"), ("SHA256", "sha256"), ("SHA512", "sha512"), ("SHA3-256", "sha3-256")):
        keys.pkcs11_tool("--hash", "--mechanism", mechanism, "--input-file", "data", "--output-file", "digest")
        expected = keys.run("openssl", "dgst", f"-{name}", "data").split()[-1]
        assert Path("digest").read_bytes().hex() == expected
    make = ("--keygen", "--key-type", "GENERIC:32", "--id", "30", "--label", "hmac", "--usage-sign", "--extractable")
    secret = re.search("VALUE: +([0-9a-f]{64})\n", keys.pkcs11_tool(*make))
    assert secret
    for digest in ("SHA256", "SHA384", "SHA512"):
        key = ("--mechanism", f"{digest}-HMAC", "--id", "30", "--input-file", "data")
        keys.pkcs11_tool("--sign", *key, "--output-file", "mac")
        expected = keys.run("openssl", "dgst", f"-{digest}", "-mac", "HMAC", "-macopt", f"hexkey:{secret[1]}", "data")
        assert Path("mac").read_bytes().hex() == expected.split()[-1]
        assert "Signature is valid" in keys.pkcs11_tool("--verify", *key, "--signature-file", "mac")


def test_openssl_decrypts_what_a_secret_key_encrypted(keys: Token) -> None:
    """This version of the tool knows no other mode: it calls CTR and GCM "illegal or not supported" itself."""
    secret = os.urandom(32)
    Path("secret").write_bytes(secret)
    keys.pkcs11_tool("--write-object", "secret", "--type", "secrkey", "--key-type", "AES:32", "--id", "31")
    Path("data").write_bytes(os.urandom(96 * 1024))
    for mechanism, mode, options in (
        ("AES-ECB", "ecb", ("-nopad",)),
        ("AES-CBC", "cbc", ("-nopad", "-iv", IV)),
        ("AES-CBC-PAD", "cbc", ("-iv", IV)),
    ):
        key = ("--mechanism", mechanism, "--id", "31", "--iv", IV)
        keys.pkcs11_tool("--encrypt", *key, "--input-file", "data", "--output-file", "encrypted")
        openssl = ("openssl", "enc", "-d", f"-aes-256-{mode}", "-K", secret.hex(), *options)
        keys.run(*openssl, "-in", "encrypted", "-out", "decrypted")
        assert Path("decrypted").read_bytes() == Path("data").read_bytes(), mechanism
        keys.pkcs11_tool("--decrypt", *key, "--input-file", "encrypted", "--output-file", "by the token")
        assert Path("by the token").read_bytes() == Path("data").read_bytes(), mechanism


def test_decrypts_what_openssl_encrypted_to_its_rsa_key(keys: Token) -> None:
    """The tool itself only encrypts with secret keys."""
    public_key(keys, RSA)
    encrypt = ("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "public.pem", "-in", "hash", "-out", "encrypted")
    decrypt = ("--decrypt", "--id", RSA, "--input-file", "encrypted", "--output-file", "decrypted", "--mechanism")
    keys.run(*encrypt)
    keys.pkcs11_tool(*decrypt, "RSA-PKCS")
    assert Path("decrypted").read_bytes() == Path("hash").read_bytes()
    for digest in ("sha1", "sha256", "sha384", "sha512"):
        oaep = ("rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}")
        keys.run(*encrypt, *(word for option in oaep for word in ("-pkeyopt", option)))
        name = digest.upper().replace("SHA1", "SHA-1")
        hashes = ("--hash-algorithm", name, "--mgf", f"MGF1-{digest.upper()}")
        keys.pkcs11_tool(*decrypt, "RSA-PKCS-OAEP", *hashes)
        assert Path("decrypted").read_bytes() == Path("hash").read_bytes(), digest


def test_derives_the_secret_that_openssl_derives(keys: Token) -> None:
    public_key(keys, EC)
    keys.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "peer.pem")
    keys.run("openssl", "pkey", "-in", "peer.pem", "-pubout", "-outform", "DER", "-out", "peer.der")
    derive = ("--derive", "--mechanism", "ECDH1-DERIVE", "--id", EC, "--input-file", "peer.der", "--output-file", "shared")
    keys.pkcs11_tool(*derive)
    keys.run("openssl", "pkeyutl", "-derive", "-inkey", "peer.pem", "-peerkey", "public.pem", "-out", "expected")
    assert Path("shared").read_bytes() == Path("expected").read_bytes()


def test_wraps_and_unwraps_keys(keys: Token) -> None:
    secret = os.urandom(32)
    Path("secret").write_bytes(secret)
    write = ("--write-object", "secret", "--type", "secrkey", "--key-type", "AES:32", "--extractable")
    keys.pkcs11_tool(*write, "--id", "40", "--label", "to be wrapped")
    for number, (mechanism, wrapping) in enumerate((("RSA-PKCS", RSA), ("AES-KEY-WRAP", AES), ("AES-CBC-PAD", AES)), 41):
        key = ("--mechanism", mechanism, "--id", wrapping, "--iv", IV)
        keys.pkcs11_tool("--wrap", *key, "--application-id", "40", "--output-file", "wrapped")
        unwrapped = ("--key-type", "AES:", "--application-id", str(number), "--application-label", "new", "--extractable")
        made = keys.pkcs11_tool("--unwrap", *key, "--input-file", "wrapped", *unwrapped)
        assert f"VALUE:      {secret.hex()}" in made, mechanism


def test_writes_reads_and_deletes_certificates_data_and_keys(keys: Token) -> None:
    certificate(keys)
    keys.run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "DER", "-out", "private")
    keys.run("openssl", "pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public")
    for file, kind in (("certificate", "cert"), ("private", "privkey"), ("public", "pubkey")):
        keys.pkcs11_tool("--write-object", file, "--type", kind, "--id", "50", "--label", "written")
    for file, kind in (("certificate", "cert"), ("public", "pubkey")):
        keys.pkcs11_tool("--read-object", "--type", kind, "--id", "50", "--output-file", "read")
        assert Path("read").read_bytes() == Path(file).read_bytes()
    key = ("--mechanism", "ECDSA-SHA256", "--id", "50", "--input-file", "data")
    keys.pkcs11_tool("--sign", *key, "--output-file", "signature")
    assert "Signature is valid" in keys.pkcs11_tool("--verify", *key, "--signature-file", "signature")

    # Small ones: the tool reads no more than 5,000 bytes of an object, whatever the library.
    application = ("--application-id", "1.2.3.4", "--application-label", "tests")
    keys.pkcs11_tool("--write-object", "hash", "--type", "data", "--label", "public", *application)
    keys.pkcs11_tool("--write-object", "hash", "--type", "data", "--label", "private", "--private")
    for selection in (("--label", "public"), ("--label", "private"), application[:2]):
        keys.pkcs11_tool("--read-object", "--type", "data", *selection, "--output-file", "read")
        assert Path("read").read_bytes() == Path("hash").read_bytes()

    keys.pkcs11_tool("--set-id", "51", "--type", "pubkey", "--id", "50")
    for kind, selection in (("cert", "--id=50"), ("privkey", "--id=50"), ("pubkey", "--id=51"), ("data", "--label=public")):
        keys.pkcs11_tool("--delete-object", "--type", kind, selection)
        keys.pkcs11_tool("--delete-object", "--type", kind, selection, fails=True)
    objects = keys.pkcs11_tool("--list-objects")
    assert "written" not in objects and "'public'" not in objects and "'private'" in objects


def test_changes_pins(keys: Token) -> None:
    keys.pkcs11_tool("--change-pin", "--new-pin", "another one")
    assert "CKR_PIN_INCORRECT" in keys.pkcs11_tool("--list-objects", fails=True)
    keys.pkcs11_tool("--pin", "another one", "--change-pin", "--new-pin", keys.pin)
    assert "Private Key Object" in keys.pkcs11_tool("--list-objects")


def test_gives_random_bytes(keys: Token) -> None:
    for file in ("one", "other"):
        keys.pkcs11_tool("--generate-random", "32", "--output-file", file)
        assert len(Path(file).read_bytes()) == 32
    assert Path("one").read_bytes() != Path("other").read_bytes()
