"""In SoftHSM's place: hsm-util beside the real softhsm2-util, and the library by both names."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pytest

from region import BIN, Region, clean_environment
from softhsm import INIT, LIBRARY, PIN, SO_PIN, Peer, check_signature, in_its_place, pem_key, public_key, the_real_one


@pytest.fixture
def ours(tmp_path: Path) -> Peer:
    return in_its_place(tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Peer:
    return the_real_one(tmp_path)


def neutral(text: str, peer: Peer) -> list[str]:
    """The lines without what is by chance: numbers of slots, serial numbers, directories."""
    text = text.replace(str(peer.tokens), "TOKENS").replace(str(peer.library), "LIBRARY")
    text = re.sub(r"\b[0-9a-f]{16}\b", "SERIAL", text)
    text = re.sub(r"\b0x[0-9a-f]{5,8}( *)$", "0xSLOT", text, flags=re.M)
    return re.sub(r"\b\d{5,10}\b", "SLOT", text).splitlines()


def same(ours: Peer, real: Peer, *arguments: str | Path) -> None:
    """Both must say the same, and exit with the same code."""
    mine, theirs = ours.util(*arguments), real.util(*arguments)
    assert neutral(mine.stdout, ours) == neutral(theirs.stdout, real), arguments
    assert neutral(mine.stderr, ours) == neutral(theirs.stderr, real), arguments
    assert mine.returncode == theirs.returncode, arguments


def test_both_say_the_same_about_tokens(ours: Peer, real: Peer) -> None:
    pins = ["--so-pin", SO_PIN, "--pin", PIN]
    same(ours, real, "--show-slots")
    same(ours, real, *INIT, "one")
    same(ours, real, "--init", "--fr", "--label=two", *pins)
    same(ours, real, "--init-token", "--token", "two", "--label", "three", *pins)
    same(ours, real, "--init-token", "--token", "three", "--label", "four", "--so-pin", "9999", "--pin", PIN)
    same(ours, real, "--init-token", "--slot", "3", "--label", "four", *pins)
    same(ours, real, "--init-token", "--slot", "-1", "--label", "four", *pins)
    same(ours, real, "--init-token", "--token", "none", "--label", "four", *pins)
    same(ours, real, "--init-token", "--token", "x" * 33, "--label", "four", *pins)
    same(ours, real, "--init-token", "--serial", "x" * 17, "--label", "four", *pins)
    same(ours, real, "--init-token", "--label", "four", *pins)
    same(ours, real, "--init-token", "--free", *pins)
    same(ours, real, "--init-token", "--free", "--label", "x" * 33, *pins)
    same(ours, real, "--init-token", "--free", "--label", "four", "--so-pin", "1", "--pin", PIN)
    same(ours, real, *INIT, "one")
    same(ours, real, "--init-token", "--token", "one", "--label", "four", *pins)
    same(ours, real, "--init-token", "--slot", "4", "--label", "blanks at the end  ", *pins)
    same(ours, real, "--version")


def test_slots_are_shown_to_the_letter(ours: Peer, real: Peer) -> None:
    for peer in (ours, real):
        peer.init("shown")
    mine, theirs = (peer.util("--show-slots").stdout for peer in (ours, real))
    assert neutral(mine, ours) == neutral(theirs, real)
    # Padding included, which does not depend on the numbers.
    assert [len(line) for line in mine.splitlines() if line.startswith(" ")] == [
        len(line) for line in theirs.splitlines() if line.startswith(" ")
    ]
    # The slot's number is in the serial number.
    serial = re.search(r"Serial number: +([0-9a-f]{16})", mine)[1]
    assert int(re.search(r"Slot (\d+)", mine)[1]) == int(serial, 16) & 0x7FFFFFFF


def test_what_cannot_be_done_fails_alike(ours: Peer, real: Peer) -> None:
    for peer in (ours, real):
        assert peer.util().returncode == 1
        assert peer.util("--show-slots", "--delete-token").returncode == 1
        assert peer.util("--help").returncode == 0
        # As getopt has it: the help, and no failure.
        assert peer.util("--no-such-option").returncode == 0
        missing = peer.util("--module", "/none/such.so", "--show-slots")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert missing.stderr.startswith("ERROR: Could not load the PKCS#11 library/module: /none/such.so: cannot open")
        peer.tokens.rmdir()
        assert (peer.util("--show-slots").returncode, peer.util("--show-slots").stdout) == (1, "")
        peer.conf.unlink()
        assert (peer.util("--show-slots").returncode, peer.util("--show-slots").stdout) == (1, "")


def test_tokens_are_deleted(ours: Peer, real: Peer) -> None:
    for peer in (ours, real):
        for label in ("one", "two", "two"):
            peer.init(label)
        assert peer.util("--delete-token").returncode == 1
        twice = peer.util("--delete-token", "--token", "two")
        assert (twice.returncode, twice.stderr) == (1, "ERROR: Found multiple matching tokens.\n")
        assert peer.util("--delete-token", "--token", "none").stderr == (
            "ERROR: Could not find a token using --serial or --token.\n"
        )
        done = peer.util("--delete-token", "--token", "one")
        found, deleted = done.stdout.splitlines()
        assert re.fullmatch(r"Found token \([0-9a-f-]+\) with matching token label\.", found)
        assert re.fullmatch(rf"The token \({peer.tokens}/.+\) has been deleted\.", deleted)
        assert done.returncode == 0
        assert "one " not in peer.util("--show-slots").stdout
        serial = re.search(r"Serial number: +([0-9a-f]{16})", peer.util("--show-slots").stdout)[1]
        assert peer.util("--delete-token", "--serial", serial, "--token", "two").returncode == 0
        assert peer.util("--show-slots").stdout.count("Label:            two") == 1


def test_a_remote_token_is_not_deleted(region: Region) -> None:
    environment = {**clean_environment(), **{name: region.env[name] for name in ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")}}
    done = subprocess.run(
        [BIN / "hsm-util", "--delete-token", "--token", "any"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "hsm-emulator token delete" in done.stderr


def test_a_remote_token_is_made_and_used(region: Region, tmp_path: Path) -> None:
    environment = {**clean_environment(), **{name: region.env[name] for name in ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")}}

    def util(*arguments: str | Path) -> str:
        done = subprocess.run([BIN / "hsm-util", *arguments], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = util(*INIT, "of hsm-util").splitlines()[-1]
    slot = made.removeprefix("The token has been initialized and is reassigned to slot ")
    key = pem_key(tmp_path, "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    imported = util("--import", key, "--slot", slot, "--label", "key", "--id", "01", "--pin", PIN)
    assert imported == "The key pair has been imported.\n"
    assert "Manufacturer ID:  HSM emulator" in util("--show-slots")


@pytest.mark.parametrize("answers", [["1234", "1234"], ["123", "1234", "9999", "1234", "1234"]])
def test_pins_are_asked_for_twice_without_an_echo(ours: Peer, answers: Sequence[str]) -> None:
    arguments = ["--init-token", "--free", "--label", "asked", "--so-pin", SO_PIN]
    child = pexpect.spawn(str(ours.command), arguments, env=ours.environment, encoding="utf-8", timeout=30)
    transcript = child.logfile_read = io.StringIO()
    for answer in answers:
        child.expect(r"Please (re)?enter user PIN: ")
        child.sendline(answer)
    child.expect(r"reassigned to slot \d+")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    said = transcript.getvalue()
    assert "=== User PIN (4-255 characters) ===" in said
    assert not any(f" {answer}" in said for answer in answers), said
    refused = ["ERROR: The length of the PIN is out of range.", "ERROR: The entered PINs are not equal."]
    assert [line in said for line in refused] == [len(answers) > 2] * 2
    login = ["--login", "--pin", PIN, "--list-objects"]
    ours.tool("--token-label", "asked", *login)


KEYS = {
    "rsa": (["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "SHA256-RSA-PKCS", ["-rawin", "-digest", "sha256"]),
    "p256": (["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ECDSA", []),
    "p521": (["EC", "-pkeyopt", "ec_paramgen_curve:P-521"], "ECDSA", []),
    "ed25519": (["ED25519"], "EDDSA", ["-rawin"]),
}


@pytest.mark.parametrize("kind", KEYS)
def test_imported_keys_sign(ours: Peer, tmp_path: Path, kind: str) -> None:
    algorithm, mechanism, verification = KEYS[kind]
    key = pem_key(tmp_path, *algorithm, encrypted_by="secret")
    slot = ours.init("import")
    arguments = ["--import", key, "--slot", slot, "--label", kind, "--id", "A1b2", "--pin", PIN]
    refused = ours.util(*arguments)
    assert refused.stderr == "ERROR: Could not read the PKCS#8 file. Maybe it is encypted (--file-pin <PIN>)\n"
    refused = ours.util(*arguments, "--file-pin", "wrong")
    assert refused.stderr == "ERROR: Could not decrypt the PKCS#8 file. Maybe wrong PIN to file (--file-pin <PIN>)\n"
    done = ours.util(*arguments, "--file-pin", "secret")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The key pair has been imported.\n", "")
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(os.urandom(32))
    by_key = ["--login", "--pin", PIN, "--id", "a1b2", "--mechanism", mechanism, "--input-file", data]
    format_ = ["--signature-format", "openssl"] if mechanism == "ECDSA" else []
    ours.tool("--sign", *by_key, *format_, "--output-file", signature)
    check_signature(tmp_path, public_key(tmp_path, key, "-passin", "pass:secret"), signature, data, *verification)
    ours.tool("--verify", *by_key, *format_, "--signature-file", signature)
    private = ours.tool("--list-objects", "--type", "privkey", "--login", "--pin", PIN)
    assert "sensitive" in private and kind in private


def test_imports_are_refused_alike(ours: Peer, real: Peer, tmp_path: Path) -> None:
    key = pem_key(tmp_path, "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    (tmp_path / "no-key").write_text("no key")
    for peer in (ours, real):
        peer.init("import")
    into = ["--token", "import", "--pin", PIN]
    named = ["--label", "k", "--id", "01"]
    same(ours, real, "--import", key, *named, "--pin", PIN)
    same(ours, real, "--import", key, "--token", "none", *named, "--pin", PIN)
    same(ours, real, "--import", key, "--slot", "5", *named, "--pin", PIN)
    same(ours, real, "--import", key, *into, "--id", "01")
    same(ours, real, "--import", key, *into, "--label", "k")
    same(ours, real, "--import", key, *into, "--label", "k", "--id", "1")
    same(ours, real, "--import", key, *into, "--label", "k", "--id", "0g")
    same(ours, real, "--import", key, "--token", "import", *named, "--pin", "9999")
    same(ours, real, "--import", key, *into, *named, "--file-pin", "any")
    same(ours, real, "--import", tmp_path / "no-key", *into, *named)
    same(ours, real, "--import", key, *into, *named)
    same(ours, real, "--import", key, *into, *named)
    same(ours, real, "--import", key, *into, *named, "--force")
    same(ours, real, "--import", key, *into, "--label", "alone", "--id", "02", "--no-public-key")
    for peer in (ours, real):
        objects = peer.tool("--list-objects", "--login", "--pin", PIN)
        assert objects.count("Private Key Object") == 3
        assert objects.count("Public Key Object") == 2


def test_aes_keys_and_certificates_are_imported(ours: Peer, real: Peer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef")
    key = pem_key(tmp_path, "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    certificate = tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=imported", "-days", "30", "-out", certificate]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    data = tmp_path / "data"
    data.write_bytes(bytes(16))
    encrypted = []
    for peer in (ours, real):
        peer.init("import")
        into = ["--token", "import", "--pin", PIN, "--label", "k", "--id", "01"]
        done = peer.util("--import", secret, "--aes", *into)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [done.stdout.splitlines()[0]]
        out = tmp_path / "encrypted"
        peer.tool("--encrypt", "--login", "--pin", PIN, "--id", "01", "-m", "AES-ECB", "-i", data, "-o", out)
        encrypted.append(out.read_bytes())
    assert encrypted[0] == encrypted[1]
    done = ours.util("--import", certificate, "--import-type", "cert", *into)
    assert done.stdout.endswith("The certificate has been imported.\n")
    listed = ours.tool("--list-objects", "--type", "cert")
    assert "CN=imported" in listed and "serial:" in listed


def test_the_library_is_the_same_by_both_names(ours: Peer, real: Peer, tmp_path: Path) -> None:
    by_name = tmp_path / "libsofthsm2.so"
    by_name.symlink_to(LIBRARY)
    for peer in (ours, real):
        peer.init("named")
    theirs = real.tool("--show-info", "--list-slots")
    for library in (LIBRARY, by_name):
        shown = neutral_slots(ours.tool("--show-info", "--list-slots", library=library))
        # The one difference: it offers the newer standard, too.
        assert shown.replace("Cryptoki version 3.2", "Cryptoki version 2.40") == neutral_slots(theirs)
    # By its own name, and told where the HSM is, it is itself; by the other name SoftHSM, wherever the HSM is.
    elsewhere = {**ours.environment, "HSM_PKCS11_STATE": str(tmp_path / "state")}
    for library, manufacturer in ((LIBRARY, "HSM emulator"), (by_name, "SoftHSM")):
        command = ["pkcs11-tool", "--module", library, "--show-info", "--list-slots"]
        done = subprocess.run(command, env=elsewhere, capture_output=True, text=True, timeout=60)
        assert f"Manufacturer     {manufacturer}\n" in done.stdout
        assert "named" not in done.stdout


def neutral_slots(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]{5,8}", "0xSLOT", text)
    return re.sub(r"serial num +: [0-9a-f]{16}", "serial num: SERIAL", text)


# Is each slot's token removable? pkcs11-tool does not say.
REMOVABLE = """
import pkcs11, sys
removable = pkcs11.constants.SlotFlag.REMOVABLE_DEVICE
print(*[removable in slot.flags for slot in pkcs11.lib(sys.argv[1]).get_slots()])
"""


def test_the_configuration_is_followed(ours: Peer) -> None:
    with open(ours.conf, "a") as conf:
        conf.write(
            "objectstore.backend = file\nlog.level = DEBUG\nslots.removable = true\nlibrary.reset_on_fork = true\n"
            "slots.mechanisms = -CKM_SHA_1,CKM_AES_GCM,CKM_UNHEARD_OF\n"
        )
    ours.init("configured")
    offered = ours.tool("--list-mechanisms")
    assert "AES-GCM" not in offered and "SHA-1," not in offered and "SHA256" in offered
    removable = ours.run(sys.executable, "-c", REMOVABLE, LIBRARY)
    assert removable.stdout.split() == ["True", "True"], removable.stderr
    refused = ours.run("pkcs11-tool", "--module", LIBRARY, "--hash", "-m", "SHA-1", "-i", ours.conf, "-o", "/dev/null")
    assert refused.returncode != 0 and "CKR_MECHANISM_INVALID" in refused.stderr + refused.stdout
    ours.conf.write_text(f"directories.tokendir = {ours.tokens}\nslots.mechanisms = CKM_SHA256\n")
    assert [line.split(",")[0].strip() for line in ours.tool("--list-mechanisms").splitlines()[1:]] == ["SHA256"]


def test_a_token_directory_of_softhsm_is_left_alone(ours: Peer, real: Peer) -> None:
    real.init("theirs")
    before = sorted((path, path.read_bytes()) for path in real.tokens.rglob("*") if path.is_file())
    ours.conf.write_text(real.conf.read_text())
    ours.init("ours")
    assert [entry for entry in before if entry[0].read_bytes() != entry[1]] == []
    assert "theirs" not in ours.util("--show-slots").stdout
    assert "ours" not in real.util("--show-slots").stdout
    assert "theirs" in real.util("--show-slots").stdout


# How other projects find the slot of a new token.
SCRIPTS = {
    "BIND": "\"$UTIL\" --init-token --free --pin 1234 --so-pin 5678 --label bind | "
    "awk '/^The token has been initialized and is reassigned to slot/ { print $NF }'",
    "pkcs11key": "\"$UTIL\" --slot 0 --init-token --label pkcs11key --pin 1234 --so-pin 5678 | sed -n 's/.*to slot \\(.*\\)/\\1/p'",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_of_other_projects_find_the_slot(ours: Peer, script: str) -> None:
    environment = {**ours.environment, "UTIL": str(ours.command)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    slot = done.stdout.strip()
    assert f"Slot {slot}\n" in ours.util("--show-slots").stdout
    ours.tool("--slot", slot, "--login", "--pin", PIN, "--list-objects")


def test_the_library_in_use_is_shown(ours: Peer) -> None:
    assert ours.util("--show-config", "default-pkcs11-lib").stdout == f"{LIBRARY}\n"
    assert f"state = {ours.tokens / 'hsm-emulator'}\n" in ours.util("--show-config").stdout
    assert ours.util("--show-config", "nothing").returncode == 1
