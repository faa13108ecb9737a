"""Power fails a hundred times while clients write: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import ibm_botocore.exceptions
import pytest

from grpc_client import Kms
from region import BIN, Region, clean_environment, eventually, keyed_bucket

KILLS = int(os.environ.get("KILLS", "60"))
SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
ABSENT = None
# What a client sees when a process dies under it, or has died.
Broken = (ibm_botocore.exceptions.BotoCoreError, ibm_botocore.exceptions.ClientError, grpc.RpcError)


@dataclass
class Model:
    """What a key may hold: what was acknowledged last, or anything that was tried since."""

    acknowledged: bytes | None = ABSENT
    tried: list[bytes | None] = field(default_factory=list)

    def allows(self, value: bytes | None) -> bool:
        return value == self.acknowledged or value in self.tried

    def settle(self, value: bytes | None) -> None:
        self.acknowledged, self.tried = value, []


class Writer(threading.Thread):
    """Writes to keys of its own for as long as the gate is open; notes every acknowledgement."""

    def __init__(self, name: str, dice: random.Random, gate: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.dice, self.gate = dice, gate
        self.idle = threading.Event()
        self.finished = False
        self.acknowledged = self.broken = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.finished:
                if not self.gate.is_set():
                    self.idle.set()
                    self.gate.wait(0.5)
                    continue
                self.idle.clear()
                try:
                    self.step()
                    self.acknowledged += 1
                except Broken as error:
                    self.must_be_an_outage(error)
                    self.broken += 1
                    time.sleep(0.01)
        except BaseException as failure:  # reported by the main thread
            self.failure = failure
            self.idle.set()

    @staticmethod
    def must_be_an_outage(error: Exception) -> None:
        """A 4xx is an answer, and none of these requests deserves one."""
        if isinstance(error, ibm_botocore.exceptions.ClientError):
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500, error
        elif isinstance(error, grpc.RpcError):
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error

    def step(self) -> None:
        raise NotImplementedError

    def check(self, everything: bool) -> int:
        raise NotImplementedError


class ObjectWriter(Writer):
    """Puts, overwrites and deletes objects, small and large, in one request or in parts."""

    def __init__(self, region: Region, bucket: str, multipart: bool, name: str, *rest: Any) -> None:
        super().__init__(name, *rest)
        self.client = region.ibm_s3()
        self.bucket, self.multipart = bucket, multipart
        self.models: dict[str, Model] = {}
        self.changed: set[str] = set()
        self.uploads: set[tuple[str, str]] = set()

    def step(self) -> None:
        key = f"{self.name}/{self.dice.randrange(40)}"
        model = self.models.setdefault(key, Model())
        self.changed.add(key)
        if model.acknowledged is not ABSENT and self.dice.random() < 0.15:
            model.tried.append(ABSENT)
            self.client.delete_object(Bucket=self.bucket, Key=key)
            model.settle(ABSENT)
        elif self.multipart:
            parts = [self.dice.randbytes(5 * 1024 * 1024), self.dice.randbytes(self.dice.randrange(1, 1000))]
            self.put_in_parts(key, model, parts)
        else:
            body = self.dice.randbytes(self.dice.choice([0, 1, 100, 10_000, 65_536, 65_537, 300_000, 2_000_000]))
            model.tried.append(body)
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body)
            model.settle(body)

    def put_in_parts(self, key: str, model: Model, bodies: list[bytes]) -> None:
        where = {"Bucket": self.bucket, "Key": key}
        upload = {**where, "UploadId": self.client.create_multipart_upload(**where)["UploadId"]}
        self.uploads.add((key, upload["UploadId"]))
        parts = []
        for number, body in enumerate(bodies, 1):
            etag = self.client.upload_part(**upload, PartNumber=number, Body=body)["ETag"]
            parts.append({"PartNumber": number, "ETag": etag})
        whole = b"".join(bodies)
        model.tried.append(whole)
        self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        model.settle(whole)

    def check(self, everything: bool) -> int:
        """Reads back what changed since the last time, or everything. Returns how many keys were read."""
        keys = sorted(self.models if everything else self.changed)
        for key in keys:
            model, found = self.models[key], self.read(key)
            assert model.allows(found), (
                f"seed {SEED}: {key} holds {describe(found)}; acknowledged {describe(model.acknowledged)}, "
                f"tried {[describe(value) for value in model.tried]}"
            )
            model.settle(found)
        self.changed.clear()
        return len(keys)

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except ibm_botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return ABSENT
            raise


def describe(value: bytes | None) -> str:
    return "nothing" if value is ABSENT else f"{len(value)} bytes {hashlib.sha256(value).hexdigest()[:8]}"


class KeyWriter(Writer):
    """Creates root keys, wraps under them, rotates some."""

    def __init__(self, region: Region, *rest: Any) -> None:
        super().__init__("root keys", *rest)
        self.region = region
        self.kms = Kms(region.env["HSM_GRPC_ENDPOINT"], region.env["HSM_API_KEY"])
        self.wrapped: dict[str, list[tuple[str, bytes]]] = {}
        self.versions: dict[str, int] = {}
        self.tried = 0

    def step(self) -> None:
        if not self.wrapped or self.dice.random() < 0.4:
            self.tried += 1
            key = self.kms.CreateRootKey(name="kill test").id
            self.versions[key] = 1
            self.wrapped[key] = []
        else:
            key = self.dice.choice(sorted(self.wrapped))
        if self.dice.random() < 0.3:
            # Counted by what is there later: a rotation without an answer may have happened.
            self.versions[key] = len(self.kms.Rotate(key=key).versions)
        made = self.kms.Wrap(key=key)
        self.wrapped[key].append((made.ciphertext, made.plaintext))

    def check(self, everything: bool) -> int:
        self.kms.patient = True
        try:
            return self._check(everything)
        finally:
            self.kms.patient = False

    def _check(self, everything: bool) -> int:
        listed = {key.id: key for key in self.kms.ListRootKeys(limit=5000).keys}
        assert self.wrapped.keys() <= listed.keys(), f"seed {SEED}: an acknowledged root key is gone"
        assert len(listed) <= self.tried + 1  # the one of scripts/up
        for key in listed.values():
            assert key.state == 1 and key.versions, f"seed {SEED}: half a key: {key}"
        keys = sorted(self.wrapped) if everything else sorted(self.wrapped)[-5:]
        for key in keys:
            assert len(listed[key].versions) >= self.versions[key], f"seed {SEED}: an acknowledged rotation is gone"
            for ciphertext, plaintext in self.wrapped[key]:
                assert self.kms.Unwrap(key=key, ciphertext=ciphertext).plaintext == plaintext
        for key in listed.keys() - self.wrapped.keys():  # never acknowledged, but there: then it is whole
            made = self.kms.Wrap(key=key)
            assert self.kms.Unwrap(key=key, ciphertext=made.ciphertext).plaintext == made.plaintext
        return len(keys)


def files_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def test_nothing_acknowledged_is_lost_and_nothing_half_written_appears(new_region: Callable[..., Region]) -> None:
    print(f"seed {SEED}, {KILLS} moments")  # KILL_SEED repeats it
    region = new_region(lease_seconds=5)
    client = region.ibm_s3()
    bucket = keyed_bucket(client, "killed", region.env["ROOT_KEY_CRN"])
    client.put_object(Bucket=bucket, Key="first", Body=b"x" * 100_000)
    client.delete_object(Bucket=bucket, Key="first")
    files_at_rest = files_below(region.state / "cos")

    dice = random.Random(SEED)
    gate = threading.Event()
    writers: list[Writer] = [
        ObjectWriter(region, bucket, False, "one", random.Random(SEED + 1), gate),
        ObjectWriter(region, bucket, False, "two", random.Random(SEED + 2), gate),
        ObjectWriter(region, bucket, True, "parts", random.Random(SEED + 3), gate),
        KeyWriter(region, random.Random(SEED + 4), gate),
    ]
    for writer in writers:
        writer.start()

    def check(everything: bool) -> int:
        for writer in writers:
            if writer.failure:
                raise AssertionError(f"seed {SEED}: {writer.name} failed") from writer.failure
        return sum(writer.check(everything) for writer in writers)

    killed = {"hsm": 0, "cos": 0}
    for _ in range(KILLS):  # moments: both may die at one
        gate.set()
        time.sleep(dice.uniform(0.02, 0.4))
        victims = dice.choice([["hsm"], ["cos"], ["cos"], ["hsm", "cos"]])
        region.kill(*victims)
        for victim in victims:
            killed[victim] += 1
        time.sleep(dice.uniform(0, 0.05))  # the other one goes on for a moment
        gate.clear()
        for writer in writers:
            assert writer.idle.wait(60), f"{writer.name} hangs"
        region.up()
        check(everything=False)

    # A last restart sweeps what was left half-way; then everything is there, and nothing else.
    region.kill("hsm", "cos")
    region.up()
    read = check(everything=True)
    acknowledged = {writer.name: writer.acknowledged for writer in writers}
    print(f"killed {killed}, acknowledged {acknowledged}, broken {[writer.broken for writer in writers]}, read {read}")
    assert min(acknowledged.values()) >= KILLS / 4, "too little was written between the kills"
    assert sum(writer.broken for writer in writers) >= KILLS / 4, "the kills hit nobody"
    for writer in writers:
        writer.finished = True

    listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = {item["Key"] for page in listed for item in page.get("Contents", [])}
    models = {key: model for writer in writers if isinstance(writer, ObjectWriter) for key, model in writer.models.items()}
    assert keys == {key for key, model in models.items() if model.acknowledged is not ABSENT}

    # With every object and upload gone, no file is left that was not there before.
    for key in keys:
        client.delete_object(Bucket=bucket, Key=key)
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    client.delete_bucket(Bucket=bucket)
    region.kill("cos")
    region.up()

    def left_over() -> list[str]:
        left = files_below(region.state / "cos") - files_at_rest
        return sorted(str(path) for path in left if not path.name.endswith(("-wal", "-shm")))

    eventually(lambda: not left_over(), f"orphans are swept: {left_over()[:10]}")


@pytest.mark.parametrize("moment", range(8))
def test_a_first_start_that_is_killed_can_be_repeated(tmp_path: Path, moment: int) -> None:
    """The instance is being initialised: whatever was done, the next start serves."""
    region = Region(tmp_path)
    region.state.mkdir()
    (region.state / "layout").write_text("1\n")  # as scripts/up begins a state
    first = subprocess.Popen(
        [BIN / "hsm-emulator", "serve", "--state", region.state / "hsm", "--listen", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    time.sleep(random.Random(SEED + moment).uniform(0, 0.12))
    first.kill()
    first.wait()
    try:
        region.up()
        bucket = keyed_bucket(region.ibm_s3(), "bucket", region.env["ROOT_KEY_CRN"])
        region.ibm_s3().put_object(Bucket=bucket, Key="key", Body=b"x")
    finally:
        region.down()
