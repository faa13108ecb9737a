"""NSS's command line tools: certificates, keys and a TLS server of a token in a module of a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, Token
from region import free_port


class Database:
    """A new database of NSS that knows the library as a module."""

    def __init__(self, directory: Path, token: Token) -> None:
        self.token = token
        self.directory = ("-d", f"sql:{directory}")
        self.password = directory / "password"
        self.noise = directory / "noise"
        self.password.write_text(f"{token.pin}\n")
        self.noise.write_bytes(bytes(range(256)))
        token.run("certutil", "-N", *self.directory, "--empty-password")
        self.modutil("-add", "emulator", "-libfile", LIBRARY, "-force")

    def modutil(self, *arguments: str | Path) -> str:
        return self.token.run("modutil", "-dbdir", self.directory[1], *arguments)

    def certutil(self, *arguments: str, fails: bool = False) -> str:
        """certutil with the token."""
        token = ("-h", self.token.label, "-f", self.password)
        return self.token.run("certutil", *self.directory, *token, *arguments, fails=fails)

    def make(self, name: str, *key: str) -> str:
        """A new key with a certificate that is its own authority; its nickname."""
        sign = ("-S", "-n", name, "-s", f"CN={name}", "-x", "-t", "CTu,Cu,Cu", "-z", str(self.noise))
        self.certutil(*sign, "-m", str(sum(name.encode())), *key)
        return f"{self.token.label}:{name}"


@pytest.fixture(scope="module")
def database(token: Token, tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(tmp_path_factory.mktemp("nss"), token)


RSA = ("-k", "rsa", "-g", "2048")
EC = ("-k", "ec", "-q", "nistp256")


def test_lists_the_module_and_its_token(database: Database) -> None:
    listed = database.modutil("-list", "emulator")
    for line in (f"Library file: {LIBRARY}\n", f"Token Name: {database.token.label} ", "User Pin: Initialized\n"):
        assert line in listed
    assert "emulator" in database.modutil("-list")


@pytest.mark.parametrize(("name", "key"), [("rsa", RSA), ("p256", EC), ("p384", ("-k", "ec", "-q", "nistp384"))])
def test_makes_keys_with_certificates(database: Database, name: str, key: tuple[str, ...]) -> None:
    nickname = database.make(name, *key)
    certificates = database.certutil("-L")
    assert any(line.split() == [nickname, "CTu,Cu,Cu"] for line in certificates.splitlines()), certificates
    assert nickname in database.certutil("-K")
    Path("certificate.pem").write_text(database.certutil("-L", "-n", nickname, "-a"))
    run = database.token.run
    assert "OK" in run("openssl", "verify", "-check_ss_sig", "-CAfile", "certificate.pem", "certificate.pem")


def test_signs_requests_and_certificates_of_other_keys(database: Database) -> None:
    authority = database.make("authority", *RSA, "--keyUsage", "certSigning")
    noise = ("-z", str(database.noise))
    database.certutil("-R", "-s", "CN=asked", *EC, *noise, "-a", "-o", "request.pem")
    database.token.run("openssl", "req", "-in", "request.pem", "-verify", "-noout")
    database.certutil("-S", "-n", "signed", "-s", "CN=signed", *EC, *noise, "-c", authority, "-t", ",,", "-m", "7")
    for file, nickname in (("authority.pem", authority), ("signed.pem", f"{database.token.label}:signed")):
        Path(file).write_text(database.certutil("-L", "-n", nickname, "-a"))
    assert "signed.pem: OK" in database.token.run("openssl", "verify", "-CAfile", "authority.pem", "signed.pem")


@pytest.mark.parametrize("kind", [("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")])
def test_imports_keys_with_certificates(database: Database, kind: tuple[str, ...]) -> None:
    name = f"imported-{kind[0][:2]}"
    run = database.token.run
    key = ("-keyout", "key.pem", "-out", "certificate.pem")
    run("openssl", "req", "-x509", "-newkey", *kind, "-nodes", *key, "-subj", f"/CN={name}")
    bundle = ("-inkey", "key.pem", "-in", "certificate.pem", "-name", name)
    run("openssl", "pkcs12", "-export", *bundle, "-out", "bundle.p12", "-passout", "pass:secret")
    into = ("-h", database.token.label, "-k", database.password)
    imported = run("pk12util", "-i", "bundle.p12", *database.directory, *into, "-W", "secret")
    assert "PKCS12 IMPORT SUCCESSFUL" in imported
    nickname = f"{database.token.label}:{name}"
    assert Path("certificate.pem").read_text() == database.certutil("-L", "-n", nickname, "-a").replace("\r", "")
    assert f" {name}\n" in database.certutil("-K")

    database.certutil("-D", "-n", nickname)
    assert nickname not in database.certutil("-L")
    database.certutil("-D", "-n", nickname, fails=True)


def test_signs_and_decrypts_messages(database: Database) -> None:
    nickname = database.make("mail", *RSA)
    Path("certificate.pem").write_text(database.certutil("-L", "-n", nickname, "-a"))
    Path("message").write_text("a message\r\n" * 1000)
    run = database.token.run
    cmsutil = ("cmsutil", *database.directory, "-f", database.password)
    run(*cmsutil, "-S", "-N", nickname, "-H", "SHA256", "-i", "message", "-o", "signed")
    verify = ("-verify", "-binary", "-inform", "DER", "-in", "signed", "-CAfile", "certificate.pem", "-purpose", "any")
    run("openssl", "cms", *verify, "-out", "verified")
    assert Path("verified").read_bytes() == Path("message").read_bytes()
    encrypt = ("-encrypt", "-binary", "-aes256", "-in", "message", "-outform", "DER", "-out", "encrypted")
    run("openssl", "cms", *encrypt, "certificate.pem")
    run(*cmsutil, "-D", "-i", "encrypted", "-o", "decrypted")
    assert Path("decrypted").read_bytes() == Path("message").read_bytes()


@pytest.mark.parametrize(("name", "key"), [("tls-rsa", RSA), ("tls-ec", EC)])
def test_serves_tls_with_a_key_in_the_token(database: Database, name: str, key: tuple[str, ...]) -> None:
    nickname = database.make(name, *key)
    Path("certificate.pem").write_text(database.certutil("-L", "-n", nickname, "-a"))
    token, port = database.token, free_port()
    server = ("selfserv", *database.directory, "-n", nickname, "-w", token.pin, "-p", str(port), "-V", "tls1.2:")
    client = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "certificate.pem", "-verify_return_error")
    with token.serving(*server, port=port):
        for version in ("-tls1_2", "-tls1_3"):
            talked = token.run(*client, version, stdin="GET / HTTP/1.0\r\n\r\n")
            assert "Verify return code: 0 (ok)" in talked
