"""GnuTLS's p11tool and certtool: keys, certificates and secrets of a token, by their URLs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, SO_PIN, Token


def p11tool(token: Token, *arguments: str, selection: str = "", fails: bool = False) -> str:
    """p11tool with what `selection` picks in the token, asking nothing."""
    pins = {"GNUTLS_PIN": token.pin, "GNUTLS_SO_PIN": SO_PIN}
    url = f"pkcs11:token={token.label}{selection}"
    return token.run("p11tool", "--provider", LIBRARY, "--batch", "--login", *arguments, url, fails=fails, **pins)


def certificate(token: Token) -> None:
    """key.pem, public.pem, and certificate.pem, which says x."""
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x")
    token.run(*make, "-keyout", "key.pem", "-out", "certificate.pem")
    token.run("openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")


def signs(token: Token, key: str, signature: str, *options: str) -> None:
    """Its test of a signature; the token verifies it, too."""
    tested = p11tool(token, "--test-sign", *options, selection=key)
    assert f"Signing using {signature}... ok" in tested
    for verification in ("private key parameters", "public key in the token"):
        assert f"Verifying against {verification}... ok" in tested


def test_lists_tokens_and_mechanisms(token: Token) -> None:
    tokens = token.run("p11tool", "--provider", LIBRARY, "--list-tokens")
    assert f"Label: {token.label}\n" in tokens and "Flags: RNG, Requires login\n" in tokens
    assert f";token={token.label}\n" in token.run("p11tool", "--provider", LIBRARY, "--list-token-urls")
    mechanisms = p11tool(token, "--list-mechanisms")
    for mechanism in ("CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_ECDSA", "CKM_EDDSA", "CKM_AES_GCM"):
        assert f"] {mechanism} " in mechanisms


@pytest.mark.parametrize(
    ("kind", "listed", "signature"),
    [
        (("rsa", "--bits", "2048"), "RSA-2048", "RSA"),
        (("ecdsa", "--curve", "secp256r1"), "EC/ECDSA-SECP256R1", "ECDSA"),
        (("ecdsa", "--curve", "secp521r1"), "EC/ECDSA-SECP521R1", "ECDSA"),
    ],
)
def test_generates_keys_that_sign(token: Token, kind: tuple[str, ...], listed: str, signature: str) -> None:
    label = "-".join(kind)
    generated = p11tool(token, "--generate-privkey", *kind, "--label", label, "--outfile", "public.pem")
    assert "Generating an" in generated
    key = f";object={label};type=private"
    assert f"Type: Private key ({listed})" in p11tool(token, "--info", selection=key)
    signs(token, key, f"{signature}-SHA256")
    signs(token, key, f"{signature}-SHA512", "--hash", "sha512")
    if signature == "RSA":
        signs(token, key, "RSA-PSS-SHA256", "--sign-params", "RSA-PSS")
    p11tool(token, "--export-pubkey", "--outfile", "exported.pem", selection=key)
    assert Path("exported.pem").read_bytes() == Path("public.pem").read_bytes()
    token.run("openssl", "pkey", "-pubin", "-in", "exported.pem", "-noout")


def test_signs_with_an_ed25519_key_of_another_program(token: Token) -> None:
    """p11tool 3.7 asks for a key pair by the mechanism of signatures, CKM_EDDSA: no library makes one of that, SoftHSM neither. 3.8.2 does not."""
    refused = p11tool(token, "--generate-privkey", "ed25519", "--label", "ed25519", fails=True)
    assert "PKCS #11 unsupported feature" in refused
    token.pkcs11_tool("--keypairgen", "--key-type", "EC:edwards25519", "--id", "25", "--label", "ed25519")
    key = ";object=ed25519;type=private"
    assert "Type: Private key (EdDSA (Ed25519))" in p11tool(token, "--info", selection=key)
    signs(token, key, "EdDSA-Ed25519", "--hash", "sha512")


def test_gives_random_bytes(token: Token) -> None:
    for file in ("one", "other"):
        p11tool(token, "--generate-random", "32", "--outfile", file)
        assert len(Path(file).read_bytes()) == 32
    assert Path("one").read_bytes() != Path("other").read_bytes()


def test_writes_lists_exports_changes_and_deletes(token: Token) -> None:
    certificate(token)
    number = ("--id", "c0ffee", "--label", "written")
    p11tool(token, "--write", "--load-certificate", "certificate.pem", *number)
    p11tool(token, "--write", "--load-privkey", "key.pem", *number)
    p11tool(token, "--write", "--load-pubkey", "public.pem", *number)
    p11tool(token, "--write", "--secret-key", os.urandom(32).hex(), "--label", "secret")
    objects = p11tool(token, "--list-all")
    for kind in ("Private key (EC/ECDSA-SECP256R1)", "Public key (EC/ECDSA-SECP256R1)", "X.509 Certificate (EC/ECDSA-SECP256R1)"):
        assert f"\tType: {kind}\n" in objects
    assert "\tType: Secret key\n\tLabel: secret\n" in objects
    assert "Label: written\n" in p11tool(token, "--list-privkeys")
    assert "Label: written\n" in p11tool(token, "--list-certs"), "certificates that have a private key"
    for export in ("--export", "--export-chain"):
        p11tool(token, export, "--outfile", "exported.pem", selection=";object=written;type=cert")
        token.run("openssl", "x509", "-in", "exported.pem", "-out", "exported.pem")
        assert Path("exported.pem").read_bytes() == Path("certificate.pem").read_bytes()
    signs(token, ";id=%C0%FF%EE;type=private", "ECDSA-SHA256")

    p11tool(token, "--set-label", "renamed", selection=";object=written;type=cert")
    p11tool(token, "--set-id", "0102", selection=";object=renamed;type=cert")
    assert "\tLabel: renamed\n" in p11tool(token, "--info", selection=";id=%01%02")
    for label in ("written", "renamed", "secret"):
        p11tool(token, "--delete", selection=f";object={label}")
        p11tool(token, "--delete", selection=f";object={label}", fails=True)
    objects = p11tool(token, "--list-all")
    assert not any(f"Label: {label}\n" in objects for label in ("written", "renamed", "secret"))


def test_certtool_makes_a_certificate_of_a_key_in_the_token(token: Token) -> None:
    p11tool(token, "--generate-privkey", "rsa", "--bits", "2048", "--label", "authority", "--outfile", "authority.pem")
    Path("template").write_text('cn = "authority"\nca\ncert_signing_key\nexpiration_days = 1\n')
    key, public = (f"pkcs11:token={token.label};object=authority;type={kind}" for kind in ("private", "public"))
    keys = ("--provider", LIBRARY, "--load-privkey", key, "--load-pubkey", public)
    make = ("certtool", *keys, "--generate-self-signed", "--template", "template", "--outfile", "certificate.pem")
    token.run(*make, GNUTLS_PIN=token.pin)
    assert "certificate.pem: OK" in token.run("openssl", "verify", "-CAfile", "certificate.pem", "certificate.pem")
    p11tool(token, "--write", "--load-certificate", "certificate.pem", "--label", "authority")
    assert "Label: authority\n" in p11tool(token, "--list-certs")


def test_initialises_a_token_and_its_pin(backend: dict[str, str]) -> None:
    token = Token("to be wiped", backend)
    token.label = "to%20be%20wiped"
    p11tool(token, "--generate-privkey", "ecdsa", "--curve", "secp256r1", "--label", "lost", "--outfile", "public.pem")
    p11tool(token, "--initialize", "--label", "wiped")
    token.label, token.pin = "wiped", "87654321"
    p11tool(token, "--initialize-pin")
    assert "No matching objects found" in p11tool(token, "--list-all", fails=True)
    p11tool(token, "--generate-privkey", "ecdsa", "--curve", "secp256r1", "--label", "new", "--outfile", "public.pem")
    assert "Label: new\n" in p11tool(token, "--list-all")
