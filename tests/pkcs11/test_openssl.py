"""OpenSSL through libp11's engine: keys by their URI (RFC 7512) for TLS, certificates, messages and files.

The provider for OpenSSL 3, pkcs11-provider, is not among the packages of Debian 12.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, Token
from region import free_port

CONFIGURATION = f"""
openssl_conf = openssl_init
[openssl_init]
engines = engine_section
[engine_section]
pkcs11 = pkcs11_section
[pkcs11_section]
engine_id = pkcs11
MODULE_PATH = {LIBRARY}
init = 0
[req]
distinguished_name = name
[name]
"""
ENGINE = ("-engine", "pkcs11", "-keyform", "engine")
KINDS = {"rsa": "rsa:2048", "ec": "EC:prime256v1"}
kinds = pytest.mark.parametrize("name", KINDS)
PSS = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")


class Keys:
    """A token with a key of each kind, and certificates that OpenSSL made of them."""

    def __init__(self, token: Token, directory: Path) -> None:
        self.token = token
        self.directory = directory
        self.configuration = directory / "openssl.cnf"
        self.configuration.write_text(CONFIGURATION)
        for number, (name, kind) in enumerate(KINDS.items(), 1):
            token.pkcs11_tool("--keypairgen", "--key-type", kind, "--id", f"{number:02}", "--label", name)
            make = ("openssl", "req", "-x509", *ENGINE, "-key", self.uri(name), "-subj", "/CN=localhost", "-days", "1")
            self.run(*make, "-out", self.certificate(name))
            self.run("openssl", "x509", "-in", self.certificate(name), "-pubkey", "-noout", "-out", self.public(name))

    def run(self, *command: str | Path, stdin: str = "", fails: bool = False) -> str:
        return self.token.run(*command, stdin=stdin, fails=fails, OPENSSL_CONF=str(self.configuration))

    def uri(self, name: str, kind: str = "private") -> str:
        return f"pkcs11:token={self.token.label};object={name};type={kind};pin-value={self.token.pin}"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def public(self, name: str) -> Path:
        return self.directory / f"{name}.pem"


@pytest.fixture(scope="module")
def keys(token: Token, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(token, tmp_path_factory.mktemp("openssl"))


@pytest.fixture(autouse=True)
def data(work_directory: None) -> None:
    Path("data").write_bytes(os.urandom(100_000))


@kinds
def test_signs_certificates(keys: Keys, name: str) -> None:
    certificate = keys.certificate(name)
    assert "OK" in keys.run("openssl", "verify", "-check_ss_sig", "-CAfile", certificate, certificate)
    keys.run("openssl", "req", "-new", *ENGINE, "-key", keys.uri(name), "-subj", "/CN=x", "-out", "request")
    assert "self-signature verify OK" in keys.run("openssl", "req", "-verify", "-in", "request", "-noout")
    keys.run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-subj", "/CN=y", "-out", "request")
    authority = ("-CA", certificate, "-CAkeyform", "engine", "-engine", "pkcs11", "-CAkey", keys.uri(name))
    keys.run("openssl", "x509", "-req", "-in", "request", *authority, "-CAcreateserial", "-out", "signed.crt")
    assert "signed.crt: OK" in keys.run("openssl", "verify", "-CAfile", certificate, "signed.crt")


@pytest.mark.parametrize(
    ("name", "options"), [("rsa", ("-sha256",)), ("rsa", ("-sha512", *PSS)), ("ec", ("-sha256",)), ("ec", ("-sha512",))]
)
def test_signs_files(keys: Keys, name: str, options: tuple[str, ...]) -> None:
    keys.run("openssl", "dgst", *ENGINE, "-sign", keys.uri(name), *options, "-out", "signature", "data")
    verify = ("openssl", "dgst", "-verify", keys.public(name), *options, "-signature", "signature", "data")
    assert "Verified OK" in keys.run(*verify)
    with Path("data").open("ab") as data:
        data.write(b"x")
    keys.run(*verify, fails=True)


@kinds
def test_signs_messages(keys: Keys, name: str) -> None:
    signer = ("-inkey", keys.uri(name), "-signer", keys.certificate(name))
    keys.run("openssl", "cms", "-sign", "-binary", "-nodetach", *ENGINE, *signer, "-in", "data", "-out", "message")
    verify = ("-verify", "-binary", "-CAfile", keys.certificate(name), "-purpose", "any", "-in", "message")
    assert "CMS Verification successful" in keys.run("openssl", "cms", *verify, "-out", "verified")
    assert Path("verified").read_bytes() == Path("data").read_bytes()


def test_decrypts(keys: Keys) -> None:
    keys.run("openssl", "cms", "-encrypt", "-binary", "-aes256", "-in", "data", "-out", "message", keys.certificate("rsa"))
    recipient = ("-inkey", keys.uri("rsa"), "-recip", keys.certificate("rsa"))
    keys.run("openssl", "cms", "-decrypt", *ENGINE, *recipient, "-in", "message", "-out", "decrypted")
    assert Path("decrypted").read_bytes() == Path("data").read_bytes()
    Path("short").write_bytes(os.urandom(32))
    for options in ((), ("-pkeyopt", "rsa_padding_mode:oaep")):
        key = ("-pubin", "-inkey", keys.public("rsa"))
        keys.run("openssl", "pkeyutl", "-encrypt", *key, *options, "-in", "short", "-out", "encrypted")
        key = (*ENGINE, "-inkey", keys.uri("rsa"))
        keys.run("openssl", "pkeyutl", "-decrypt", *key, *options, "-in", "encrypted", "-out", "decrypted")
        assert Path("decrypted").read_bytes() == Path("short").read_bytes()


def test_derives(keys: Keys) -> None:
    keys.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "peer")
    keys.run("openssl", "pkey", "-in", "peer", "-pubout", "-out", "peer.pem")
    derive = ("openssl", "pkeyutl", "-derive")
    keys.run(*derive, *ENGINE, "-inkey", keys.uri("ec"), "-peerkey", "peer.pem", "-out", "ours")
    keys.run(*derive, "-inkey", "peer", "-peerkey", keys.public("ec"), "-out", "theirs")
    assert Path("ours").read_bytes() == Path("theirs").read_bytes()


@kinds
def test_reads_public_keys_and_random_bytes(keys: Keys, name: str) -> None:
    key = ("-engine", "pkcs11", "-inform", "engine", "-pubin", "-in", keys.uri(name, "public"))
    keys.run("openssl", "pkey", *key, "-pubout", "-out", "public.pem")
    assert Path("public.pem").read_bytes() == keys.public(name).read_bytes()
    assert len(bytes.fromhex(keys.run("openssl", "rand", "-engine", "pkcs11", "-hex", "32").split("\n")[1])) == 32


@kinds
def test_serves_tls(keys: Keys, name: str) -> None:
    """A handshake of each version, on a server and with a client whose keys are in the token."""
    port = free_port()
    own = ("-key", keys.uri(name), "-cert", keys.certificate(name))
    trust = ("-CAfile", keys.certificate(name), "-verify_return_error")
    server = ("openssl", "s_server", *ENGINE, *own, *trust, "-Verify", "1", "-accept", str(port), "-www")
    client = ("openssl", "s_client", *ENGINE, *own, *trust, "-connect", f"localhost:{port}", "-verify_hostname", "localhost")
    with keys.token.serving(*server, port=port, OPENSSL_CONF=str(keys.configuration)):
        for version in ("-tls1_2", "-tls1_3"):
            talked = keys.run(*client, version, "-ign_eof", stdin="GET / HTTP/1.0\r\n\r\n")
            assert "Verify return code: 0 (ok)" in talked
            assert "HTTP/1.0 200 ok" in talked, "the server has accepted the client's certificate"


def test_a_wrong_pin_is_refused(keys: Keys) -> None:
    wrong = keys.uri("rsa").replace(keys.token.pin, "987654")
    sign = ("openssl", "dgst", *ENGINE, "-sha256", "-out", "signature", "-sign")
    assert "Login failed" in keys.run(*sign, wrong, "data", fails=True)
    keys.run(*sign, keys.uri("rsa"), "data")


def test_an_ed25519_key_hides_the_others(backend: dict[str, str], keys: Keys) -> None:
    """libp11 0.4.12 gives up at the first key of a type that it does not know, whichever key was asked for: with SoftHSM, too."""
    token = Token("openssl-ed25519", backend)
    for number, kind in (("01", "rsa:2048"), ("02", "EC:edwards25519")):
        token.pkcs11_tool("--keypairgen", "--key-type", kind, "--id", number, "--label", "key")
    uri = keys.uri("key").replace(f"token={keys.token.label};", f"token={token.label};")
    sign = ("openssl", "dgst", *ENGINE, "-sha256", "-out", "signature", "-sign", uri, "data")
    assert "Unable to enumerate private keys" in keys.run(*sign, fails=True)
    for kind in ("privkey", "pubkey"):
        token.pkcs11_tool("--delete-object", "--type", kind, "--id", "02")
    keys.run(*sign)
