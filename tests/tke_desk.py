"""An operator's desk: `tke` at a terminal or in a script, the files in CLOUDTKEFILES, and the instance it administers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pexpect
import pytest

from grpc_client import Grep11, Kms
from region import BIN, Region, clean_environment, eventually, port_answers

ALL_UNITS = "1 2 3 4"
SIGNERS = ["pw-ann", "pw-ben"]


class Desk:
    """An instance whose units are in imprint mode, two operational and two recovery ones, and its operator.

    Administrator `ann` has the password `pw-ann`; the key part with the description `11` has the value `11` * 32
    and the password `11`.
    """

    def __init__(self, directory: Path) -> None:
        self.begun = time.monotonic()
        self.directory = directory
        self.state = directory / "state" / "hsm"
        self.files = directory / "files"
        self.files.mkdir()
        self.region: Region | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.flags: tuple[str, ...] = ()

    # --- the instance ---------------------------------------------------------

    def serve(self, *flags: str) -> Desk:
        """Starts the instance alone, on any port."""
        self.flags = flags
        self._server = subprocess.Popen(
            [BIN / "hsm-emulator", "serve", "--imprint", "--state", self.state, "--listen", "127.0.0.1:0", *flags],
            env=clean_environment(),
            stderr=subprocess.DEVNULL,
        )
        endpoint = self.state / "endpoint"
        eventually(lambda: endpoint.exists() and endpoint.read_text().strip(), "the endpoint is known")
        eventually(lambda: port_answers(int(self.endpoint.rpartition(":")[2])), "the server listens")
        return self

    def serve_with_storage(self) -> Region:
        """Goes on with the storage service beside it, started as users start it."""
        self.stop()
        (self.directory / "state" / "layout").write_text("1\n")
        self.region = Region(self.directory).up()
        return self.region

    def kill(self) -> None:
        """What happens to the region in a disaster."""
        assert self._server
        self._server.kill()
        self._server.wait()
        (self.state / "endpoint").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stops whatever runs."""
        if self.region:
            self.region.down()
        if self._server:
            self._server.terminate()
            self._server.wait()
        self.region = self._server = None

    @property
    def endpoint(self) -> str:
        return (self.state / "endpoint").read_text().strip()

    def kms(self) -> Kms:
        return Kms(self.endpoint, (self.state / "api-key").read_text())

    def grep11(self) -> Grep11:
        return Grep11(self.endpoint, (self.state / "api-key").read_text())

    def hsm(self, *arguments: str) -> Any:
        """`hsm-emulator ...` and its JSON."""
        done = self._hsm(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def hsm_refused(self, *arguments: str) -> str:
        done = self._hsm(*arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def events(self) -> list[Any]:
        """The audit log."""
        command = [BIN / "hsm-emulator", "audit", "show", "--state", self.state]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return [json.loads(line)["event"] for line in shown.splitlines()]

    def power(self, unit: int, on: bool) -> None:
        """What happens to a unit in the data centre."""
        self.hsm("unit", "start" if on else "stop", self.hsm("unit", "list")[unit - 1]["hsm_id"])

    def _hsm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "hsm-emulator", *arguments, "--state", self.state, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
        self.tell("hsm-emulator", arguments, done.returncode)
        return done

    def tell(self, program: str, arguments: Iterable[str], code: int) -> None:
        """A line of the timeline, for those who watch a drill."""
        if "DRILL_TIMELINE" in os.environ:
            outcome = "" if code == 0 else "   (refused)"
            print(f"  +{time.monotonic() - self.begun:6.3f} s  {program} {' '.join(arguments)}{outcome}", flush=True)

    # --- tke --------------------------------------------------------------------

    def at_terminal(self, arguments: str, *dialogue: tuple[str, str]) -> str:
        """Runs `tke` at a terminal: pairs of an expected question and the answer to it. Gives what it prints."""
        child = self.spawn(arguments)
        printed = ""
        for question, answer in dialogue:
            child.expect_exact(question)
            printed += child.before + child.after
            child.expect_exact("> ")
            printed += child.before + child.after
            child.sendline(answer)
        child.expect(pexpect.EOF)
        printed += child.before
        child.close()
        self.tell("tke", [*arguments.split(), "  (at a terminal)"], child.exitstatus)
        assert child.exitstatus == 0, printed
        return printed.replace("\r\n", "\n")

    def spawn(self, arguments: str, *flags: str) -> pexpect.spawn:
        """`tke` at a terminal."""
        command = [*arguments.split(), *flags, "--state", str(self.state)]
        return pexpect.spawn(
            str(BIN / "tke"), command, env=self._environment(), encoding="utf-8", dimensions=(50, 200), timeout=60
        )

    def tke(self, *arguments: str, passwords: str = "") -> str:
        """Runs `tke` in a script, with these passwords, separated by spaces. Gives what it prints."""
        done = self._tke(*arguments, passwords=passwords)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, passwords: str = "") -> str:
        """What `tke` says when it fails."""
        done = self._tke(*arguments, passwords=passwords)
        assert done.returncode == 1, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.tke(*arguments, "--json"))

    def password_file(self, passwords: str) -> Path:
        path = self.directory / "passwords"
        path.touch(mode=0o600)
        path.write_text("".join(f"{password}\n" for password in passwords.split()))
        return path

    def start(self, *arguments: str, passwords: str, stdout: Any) -> subprocess.Popen[bytes]:
        """Starts `tke` and does not wait for it."""
        command = [BIN / "tke", *arguments, "--state", self.state, "--password-file", self.password_file(passwords)]
        return subprocess.Popen(
            command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
        )

    def _tke(self, *arguments: str, passwords: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "tke", *arguments, "--state", self.state, "--password-file", self.password_file(passwords)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=self._environment(), stdin=subprocess.DEVNULL
        )
        self.tell("tke", arguments, done.returncode)
        return done

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in clean_environment().items() if not name.startswith("TKE_")}
        return {**inherited, "CLOUDTKEFILES": str(self.files)}

    # --- what operators do again and again ----------------------------------------

    def select(self, units: str) -> None:
        """These units and no others."""
        numbers = " ".join(str(unit["crypto_unit_num"]) for unit in self.json("cryptounits")["crypto_units"])
        self.tke("cryptounit-rm", "--units", numbers)
        self.tke("cryptounit-add", "--units", units)

    def add_administrators(self, *names: str) -> None:
        """Makes and selects their signature keys, and installs them in the selected units, which are in imprint mode."""
        for name in names:
            self.tke("sigkey-add", "--name", name, passwords=f"pw-{name}")
        known = self.json("sigkeys")["signature_keys"]
        chosen = " ".join(str(key["keynum"]) for key in known if key["description"] in names)
        self.tke("sigkey-sel", "--keynum", chosen, passwords=" ".join(f"pw-{name}" for name in names))
        self.install(*names)

    def install(self, *names: str, signers: str = "") -> None:
        """Installs administrators in the selected units."""
        for key in self.json("sigkeys")["signature_keys"]:
            if key["description"] in names:
                passwords = f"pw-{key['description']} {signers}"
                self.tke("cryptounit-admin-add", "--keynum", str(key["keynum"]), passwords=passwords)

    def set_thresholds(self, signature: int, revocation: int, passwords: str) -> None:
        self.tke(*thresholds(signature, revocation), passwords=passwords)

    def add_parts(self, *values: str) -> None:
        for value in values:
            path = self.directory / "value"
            path.write_text(value * 32)
            self.tke("mk-add", "--value-file", str(path), "--description", value, passwords=value)
            path.unlink()

    def load(self, *parts: str) -> None:
        """Loads these parts into the new registers of the selected units, and commits."""
        known = {part["description"]: str(part["keynum"]) for part in self.json("mks")["master_key_parts"]}
        numbers = " ".join(known[part] for part in parts)
        self.tke("cryptounit-mk-load", "--keynum", numbers, passwords=f"pw-ann {' '.join(parts)}")
        self.tke("cryptounit-mk-commit", passwords=self.signers())

    def set_immediate(self) -> None:
        self.tke("cryptounit-mk-setimm", "--yes", passwords="pw-ann")

    def signers(self) -> str:
        """Passwords for as many signatures as the selected units want."""
        first = self.json("cryptounit-thrhlds")["signature_thresholds"][0]
        return " ".join(SIGNERS[: first["signature_threshold"]])

    def restore(self, unit: int, source: int) -> None:
        """Gives a unit in imprint mode what the others have: ann and ben, thresholds of 2, a recovery unit's master key."""
        self.select(str(unit))
        self.install("ann", "ben")
        self.set_thresholds(2, 2, " ".join(SIGNERS))
        recover = ["auto-mk-recover", "--source", str(source), "--units", str(unit)]
        self.tke(*recover, passwords=" ".join(SIGNERS))
        self.select(ALL_UNITS)

    def initialise(self, threshold: int = 2) -> Desk:
        """By key files: ann and ben, and the master key of the parts 11 and 22, in all units."""
        self.select(ALL_UNITS)
        self.add_administrators("ann", "ben")
        self.set_thresholds(threshold, threshold, " ".join(SIGNERS[:threshold]))
        self.add_parts("11", "22")
        self.load("11", "22")
        self.set_immediate()
        return self

    def initialise_by_recovery_unit(self) -> Desk:
        """`auto-init`: ann and ben, and a random master key."""
        names = ("--name", "ann", "--name", "ben")
        self.tke(
            "auto-init", "--signature-threshold", "2", "--revocation-threshold", "2", "--administrators", "2", *names, "--yes",
            passwords="pw-ann pw-ben",
        )  # fmt: skip
        return self

    # --- what the units say -------------------------------------------------------

    def registers(self) -> list[tuple[str, str, str, str]]:
        """Of every selected unit: state and pattern of the new register, and of the current one."""
        shown = self.json("cryptounit-mk")
        rows = zip(shown["new_master_key_register"], shown["current_master_key_register"], strict=True)
        return [
            (new["status"], new["verification_pattern"], current["status"], current["verification_pattern"])
            for new, current in rows
        ]

    def current_patterns(self) -> list[str]:
        return [pattern for *_, pattern in self.registers()]

    def same(self) -> bool:
        """The verdict of `cryptounit-compare`, in its last line and as JSON."""
        same = self.json("cryptounit-compare")["same"]
        verdict = "All crypto units are configured the same." if same else "WARNING: Crypto units are configured differently."
        assert self.tke("cryptounit-compare").splitlines()[-1] == f"==> {verdict} <=="
        return same


class StoredKey:
    """A root key, and a data key that it has wrapped."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.id: str = desk.hsm("root-key", "create", "--name", "orders")["id"]
        kms = desk.kms()
        self.wrapped: str = kms.Wrap(key=self.id, plaintext=b"data key").ciphertext
        kms.close()

    def unwraps(self) -> bool:
        kms = self.desk.kms()
        try:
            return kms.Unwrap(key=self.id, ciphertext=self.wrapped).plaintext == b"data key"
        finally:
            kms.close()

    def refusal(self) -> str:
        """Why it does not unwrap."""
        with pytest.raises(grpc.RpcError) as error:
            self.unwraps()
        details = error.value.details()
        # While no unit serves it is worth a later try; a key under another master key than theirs is not.
        gone = "CKR_IBM_WKID_MISMATCH" in details
        assert error.value.code() == (grpc.StatusCode.FAILED_PRECONDITION if gone else grpc.StatusCode.UNAVAILABLE)
        return details


def thresholds(signature: int, revocation: int) -> list[str]:
    return [
        "cryptounit-thrhld-set", "--signature-threshold", str(signature), "--revocation-threshold", str(revocation),
    ]  # fmt: skip


def pattern_of(*parts: str) -> str:
    """The verification pattern of a master key: SHA-256(0x01 || XOR of its parts), the last four bytes zero."""
    key = bytes(32)
    for part in parts:
        key = bytes(a ^ b for a, b in zip(key, bytes.fromhex(part * 32), strict=True))
    return hashlib.sha256(b"\1" + key).hexdigest()[:56] + "0" * 8


EMPTY_PATTERN = "0" * 64


def table(header: list[str], rows: list[list[str]]) -> str:
    """As `tke` prints tables: left-aligned, as wide as the widest cell, three spaces after each."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "".join("".join(f"{cell:<{width}}   " for cell, width in zip(line, widths, strict=True)) + "\n" for line in lines)


def register_table(units: list[str], status: str, pattern: str) -> str:
    """The table of a register that is the same in these units."""
    rows = []
    for unit in units:
        rows += [[unit, status, pattern[:32]], ["", "", pattern[32:]]]
    return table(["CRYPTO UNIT NUM", "STATUS", "VERIFICATION PATTERN"], rows)
