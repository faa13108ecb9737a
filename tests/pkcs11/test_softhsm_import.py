"""Tokens of a real SoftHSM are taken over: both of its stores, and everything that is in a token."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from region import BIN, Region, clean_environment
from softhsm import PIN, SO_PIN, Done, Peer, check_signature, in_its_place, pem_key, public_key, the_real_one

DATABASE = Path(__file__).with_name("softhsm-2.6.1.sql")
DATABASE_KEY = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEefnbnHs9TXPN7GdEyo37TUs8cEMY
gcseuxiQz6PhaxHthcfGDx/UIDxe3LMko950J1YdlaQAuUbFkU8IwQO0Nw==
-----END PUBLIC KEY-----
"""
LOGIN = ["--login", "--pin", PIN]
PINS = ["--so-pin", SO_PIN, "--pin", PIN]


@pytest.fixture
def ours(tmp_path: Path) -> Peer:
    return in_its_place(tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Peer:
    return the_real_one(tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A token directory of a SoftHSM with its other store, which Debian's is built without."""
    token = tmp_path / "database" / "d1ba5fd8-64ed-1f1e-eb09-cc7055d24b96"
    token.mkdir(parents=True)
    with sqlite3.connect(token / "sqlite3.db") as connection:
        connection.executescript(DATABASE.read_text())
    connection.close()
    return token.parent


def take_over(ours: Peer, tokens: Path, *options: str) -> Done:
    return ours.util("--import-softhsm", tokens, *PINS, *options)


def generate(real: Peer, *kinds: str) -> None:
    for number, kind in enumerate(kinds, 1):
        secret = kind.startswith(("aes", "GENERIC"))
        generator = ["--keygen"] if secret else ["--keypairgen"]
        real.tool(*generator, "--key-type", kind, "--id", f"0{number}", "--label", kind, *LOGIN)


def objects(peer: Peer, label: str) -> list[str]:
    """What pkcs11-tool shows of a token's objects, in an order of its own."""
    shown = peer.tool("--token-label", label, "--list-objects", *LOGIN)
    each = re.split(r"^(?=\w.*[Oo]bject)", shown, flags=re.M)
    # SoftHSM's objects have no unique ID.
    return sorted(re.sub(r"^(Data object) \d+|^ *Unique ID: .*\n", lambda found: found[1] or "", text, flags=re.M) for text in each)


def sign(peer: Peer, directory: Path, key: str, mechanism: str) -> tuple[Path, Path]:
    """Data and its signature by a key."""
    data, signature = directory / "data", directory / "signature"
    data.write_bytes(os.urandom(32))
    form = ["--signature-format", "openssl"] if mechanism == "ECDSA" else []
    peer.tool("--sign", "--id", key, "-m", mechanism, "-i", data, "-o", signature, *form, *LOGIN)
    return data, signature


def test_all_of_a_token_is_taken_over(ours: Peer, real: Peer, tmp_path: Path) -> None:
    slot = real.init("moving")
    generate(real, "rsa:2048", "EC:prime256v1", "EC:secp521r1", "EC:edwards25519", "aes:32", "GENERIC:48")
    key = pem_key(tmp_path, "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    imported = real.util("--import", key, "--token", "moving", "--label", "imported", "--id", "0A", "--pin", PIN)
    assert imported.returncode == 0, imported.stderr
    (tmp_path / "note").write_text("a note\n")
    for private in ([], ["--private"]):
        write = ["--write-object", tmp_path / "note", "--type", "data", "--application-label", "notes"]
        real.tool(*write, "--label", f"note {private}", *private, *LOGIN)
    certificate = tmp_path / "certificate.der"
    make = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=moving", "-outform", "DER", "-out", certificate]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    real.tool("--write-object", certificate, "--type", "cert", "--id", "0A", "--label", "certificate", *LOGIN)
    public = {}
    for number, mechanism in (("01", "SHA256-RSA-PKCS"), ("02", "ECDSA"), ("03", "ECDSA"), ("0a", "SHA256-RSA-PKCS")):
        exported = tmp_path / f"{number}.der"
        real.tool("--read-object", "--type", "pubkey", "--id", number, "-o", exported)
        public[number] = (mechanism, public_key(tmp_path, exported, "-pubin", "-inform", "DER").rename(exported))

    done = take_over(ours, real.tokens)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r'The token "moving" \([0-9a-f]{16}\) has been imported with 15 objects\.\n', done.stdout)
    # The same serial number, so the same slot.
    assert f"Slot {slot}\n" in ours.util("--show-slots").stdout
    assert objects(ours, "moving") == objects(real, "moving")
    for number, (mechanism, exported) in public.items():
        data, signature = sign(ours, tmp_path, number, mechanism)
        verification = ["-rawin", "-digest", "sha256"] if "RSA" in mechanism else []
        check_signature(tmp_path, exported, signature, data, *verification)
    # What the one has encrypted, signed or hashed, the other knows.
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for out, peer in ((theirs, real), (mine, ours)):
        peer.tool("--encrypt", "--id", "05", "-m", "AES-ECB", "-i", data, "-o", out, *LOGIN)
        peer.tool("--sign", "--id", "04", "-m", "EDDSA", "-i", data, "-o", f"{out}.signature", *LOGIN)
        peer.tool("--sign", "--id", "06", "-m", "SHA256-HMAC", "-i", data, "-o", f"{out}.mac", *LOGIN)
    for suffix in ("", ".signature", ".mac"):
        assert Path(f"{theirs}{suffix}").read_bytes() == Path(f"{mine}{suffix}").read_bytes()
    read = ["--read-object", "--type", "data", "--label", "note ['--private']", *LOGIN]
    assert ours.tool(*read) == "a note\n"
    # The SO's PIN has come, too.
    again = ours.util("--init-token", "--token", "moving", "--label", "again", *PINS)
    assert again.returncode == 0, again.stderr


def test_a_database_is_taken_over(ours: Peer, database: Path, tmp_path: Path) -> None:
    done = take_over(ours, database)
    assert done.stdout == 'The token "database" (eb09cc7055d24b96) has been imported with 5 objects.\n', done.stderr
    public = tmp_path / "public.pem"
    public.write_text(DATABASE_KEY)
    data, signature = sign(ours, tmp_path, "02", "ECDSA")
    check_signature(tmp_path, public, signature, data)
    assert ours.tool("--read-object", "--type", "data", "--label", "private", *LOGIN) == "hello\n"
    assert "CN=me" in "".join(objects(ours, "database"))


def test_pins_are_checked_and_a_token_comes_once(ours: Peer, database: Path) -> None:
    for pins in (["--so-pin", "5679", "--pin", PIN], ["--so-pin", SO_PIN, "--pin", "1235"]):
        done = ours.util("--import-softhsm", database, *pins)
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith(" is wrong\n")
    assert take_over(ours, database).returncode == 0
    again = take_over(ours, database)
    assert again.returncode == 1 and "already" in again.stderr
    assert ours.util("--show-slots").stdout.count("Initialized:      yes") == 1


def test_one_of_several_tokens_is_chosen(ours: Peer, real: Peer) -> None:
    slots = {label: real.init(label) for label in ("one", "two")}
    several = take_over(ours, real.tokens)
    assert several.returncode == 1 and several.stderr.count(str(real.tokens)) == 2
    assert take_over(ours, real.tokens, "--token", "none").returncode == 1
    assert take_over(ours, real.tokens, "--token", "two").returncode == 0
    shown = ours.util("--show-slots").stdout
    assert f"Slot {slots['two']}\n" in shown and f"Slot {slots['one']}\n" not in shown
    serial = re.search(r"Serial number: +([0-9a-f]{16})", real.util("--show-slots").stdout)[1]
    directory = next(real.tokens.glob(f"*{serial[4:]}"))
    done = take_over(ours, directory)
    assert serial in done.stdout + done.stderr, "the directory of one token will do"


def test_the_token_directory_may_be_the_one_in_use(ours: Peer, real: Peer) -> None:
    slot = real.init("stays")
    generate(real, "EC:prime256v1")
    ours.conf.write_text(real.conf.read_text())
    assert take_over(ours, real.tokens, "--token", "stays").returncode == 0
    assert f"Slot {slot}\n" in ours.util("--show-slots").stdout
    assert objects(ours, "stays") == objects(real, "stays")


def test_what_cannot_be_kept_is_named_and_left_out_by_force(ours: Peer, real: Peer) -> None:
    real.init("partly")
    generate(real, "EC:prime256v1", "GENERIC:16")
    # A secret key of a type that nobody has: CKA_KEY_TYPE, the kind of value, CKK_GENERIC_SECRET.
    generic, unknown = (struct.pack(">QQQ", 0x100, 2, key_type) for key_type in (0x10, 0x7FFFFFFF))
    for path in real.tokens.glob("*/*.object"):
        path.write_bytes(path.read_bytes().replace(generic, unknown))
    refused = take_over(ours, real.tokens)
    assert refused.returncode == 1
    assert refused.stderr.startswith("ERROR: Nothing is imported") and '.object ("GENERIC:16"): ' in refused.stderr
    assert "partly" not in ours.util("--show-slots").stdout
    forced = take_over(ours, real.tokens, "--force")
    assert forced.returncode == 0 and "with 2 objects" in forced.stdout
    assert forced.stderr.count("Left out: ") == 1


def test_damage_is_found_and_the_file_named(ours: Peer, real: Peer) -> None:
    real.init("damaged")
    generate(real, "EC:prime256v1")
    token = next(real.tokens.iterdir())
    for name in sorted(path.name for path in token.glob("*.object")):
        whole = (token / name).read_bytes()
        for damaged in (whole[:-1], whole[:8] + os.urandom(64) + whole[72:], b"", os.urandom(200)):
            (token / name).write_bytes(damaged)
            done = take_over(ours, real.tokens)
            assert (done.returncode, done.stdout) == (1, ""), name
            assert str(token) in done.stderr or name in done.stderr, done.stderr
        (token / name).write_bytes(whole)
    os.mkfifo(token / "pipe.object")
    assert "pipe.object" in take_over(ours, real.tokens).stderr
    (token / "pipe.object").unlink()
    assert take_over(ours, real.tokens).returncode == 0


def test_without_a_user_pin_the_so_sets_it_later(ours: Peer, real: Peer) -> None:
    real.tool("--init-token", "--slot-index", "0", "--label", "no user", "--so-pin", SO_PIN)
    done = ours.util("--import-softhsm", real.tokens, "--so-pin", SO_PIN)
    assert done.returncode == 0, done.stderr
    assert "User PIN init.:   no" in ours.util("--show-slots").stdout
    by_so = ["--login", "--login-type", "so", "--so-pin", SO_PIN]
    ours.tool("--token-label", "no user", *by_so, "--init-pin", "--new-pin", PIN)
    ours.tool("--token-label", "no user", "--list-objects", *LOGIN)


def test_nothing_to_take_over(ours: Peer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for directory in ("empty", "none"):
        done = take_over(ours, tmp_path / directory)
        assert (done.returncode, done.stdout) == (1, "")


def test_a_remote_hsm_takes_none(region: Region, database: Path) -> None:
    remote = {name: region.env[name] for name in ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")}
    command = [BIN / "hsm-util", "--import-softhsm", database, *PINS]
    done = subprocess.run(command, env={**clean_environment(), **remote}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "remote" in done.stderr


def test_a_copy_of_the_directory_is_enough(ours: Peer, real: Peer, tmp_path: Path) -> None:
    real.init("copied")
    generate(real, "aes:16")
    shutil.copytree(real.tokens, tmp_path / "copy")
    before = objects(real, "copied")
    shutil.rmtree(real.tokens)
    assert take_over(ours, tmp_path / "copy").returncode == 0
    assert objects(ours, "copied") == before
