"""Nothing secret lies on the disk: not in a state directory, not in a log, not in a core."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import resource
import secrets
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpc_client import Kms
from region import Region, alive, clean_environment, eventually, keyed_bucket


def canary(name: str) -> str:
    """32 characters that nobody else writes."""
    return f"{name}-{secrets.token_hex(16)}"[:32]


def forms(secret: str | bytes) -> set[bytes]:
    """How a secret may appear: as it is, in hexadecimal, in base64 at any alignment."""
    raw = secret.encode() if isinstance(secret, str) else secret
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    if isinstance(secret, str):
        found.add(secret.encode("utf-16-le"))
    for shift in range(3):
        # Characters that depend on neighbours are cut off.
        encoded = base64.b64encode(bytes(shift) + raw)
        found.add(encoded[4 if shift else 0 : len(encoded) - 4])
    return found


def files_with(wanted: Iterable[bytes], directory: Path) -> list[str]:
    wanted = list(wanted)
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_socket()]
    assert files, f"nothing to search in {directory}"
    return [str(path) for path in files if any(each in path.read_bytes() for each in wanted)]


@contextmanager
def cores_allowed() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def pkcs11_tool(region: Region, *arguments: str | Path, **environment: str) -> str:
    done = subprocess.run(
        ["pkcs11-tool", "--module", region.env["PKCS11_MODULE"], *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def test_nothing_secret_reaches_the_disk(new_region: Callable[..., Region], tmp_path: Path) -> None:
    secrets_by_name: dict[str, str | bytes] = {}

    def secret(name: str) -> str:
        return str(secrets_by_name.setdefault(name, canary(name)))

    with cores_allowed():
        region = new_region()
    client = region.ibm_s3()

    # Root key material, and data keys that a client wraps.
    material = tmp_path / "material"
    material.write_text(secret("root-key"))
    imported = region.root_key("create", "--name", "imported", "--material-file", material)
    material.write_text(secret("rotated-root-key"))
    region.root_key("rotate", imported["id"], "--material-file", material)
    material.unlink()
    kms = Kms(region.env["HSM_GRPC_ENDPOINT"], region.env["HSM_API_KEY"])
    wrapped = kms.Wrap(key=imported["id"], plaintext=secret("data-key").encode(), aad=["public"])
    assert kms.Unwrap(key=imported["id"], ciphertext=wrapped.ciphertext, aad=["public"]).plaintext

    # Objects and what belongs to them, under a generated and an imported key.
    clear_name = canary("object-name")
    for number, crn in enumerate([region.env["ROOT_KEY_CRN"], imported["crn"]]):
        bucket = keyed_bucket(client, f"bucket-{number}", crn)
        for size in (1, 3000, 100_000):  # in the database, in a file, in several segments
            body = secret("object-body").encode() * size
            client.put_object(Bucket=bucket, Key=f"{clear_name}-{size}", Body=body, Metadata={"m": secret("metadata")})
            client.copy_object(
                Bucket=bucket, Key=f"copy-{size}", CopySource={"Bucket": bucket, "Key": f"{clear_name}-{size}"}
            )
            assert client.get_object(Bucket=bucket, Key=f"{clear_name}-{size}")["Body"].read() == body
        md5 = hashlib.md5(secret("object-body").encode()).hexdigest()
        assert client.head_object(Bucket=bucket, Key=f"{clear_name}-1")["ETag"] == f'"{md5}"'
        secrets_by_name["etag"] = md5
        upload = client.create_multipart_upload(Bucket=bucket, Key="parts", Metadata={"m": secret("part-metadata")})
        upload = {name: upload[name] for name in ("Bucket", "Key", "UploadId")}
        client.upload_part(**upload, PartNumber=1, Body=secret("part").encode() * 200_000)

    # The bucket keys, which the storage service has in memory and nobody on the disk.
    with sqlite3.connect(f"file:{region.state / 'cos' / 'metadata.sqlite'}?mode=ro", uri=True) as metadata:
        rows = metadata.execute("SELECT name, id, root_key_crn, wrapped_key FROM buckets").fetchall()
    metadata.close()
    for name, identity, crn, wrapped_key in rows:
        aad = [str(uuid.UUID(bytes=identity)), crn]
        secrets_by_name[f"key of {name}"] = kms.Unwrap(key=crn, ciphertext=wrapped_key, aad=aad).plaintext
    kms.close()

    # PINs and key values through PKCS #11, in both backends.
    value = tmp_path / "value"
    embedded = region.state / "pkcs11"
    embedded.mkdir(mode=0o700)
    remote = {"HSM_GRPC_ENDPOINT": region.env["HSM_GRPC_ENDPOINT"], "HSM_API_KEY_FILE": region.env["HSM_API_KEY_FILE"]}
    for where, environment in (("embedded", {"HSM_PKCS11_STATE": str(embedded)}), ("remote", remote)):
        so_pin, pin = secret(f"so-{where}"), secret(f"pin-{where}")
        value.write_text(secret(f"value-{where}"))
        pkcs11_tool(region, "--init-token", "--label", where, "--so-pin", so_pin, **environment)
        officer = ["--token-label", where, "--login", "--login-type", "so", "--so-pin", so_pin]
        pkcs11_tool(region, *officer, "--init-pin", "--new-pin", pin, **environment)
        login = ["--token-label", where, "--login", "--pin", pin]
        pkcs11_tool(
            region, *login, "--write-object", value, "--type", "secrkey", "--key-type", "AES:32", "--label", "canary",
            "--sensitive", **environment,
        )  # fmt: skip
        assert "canary" in pkcs11_tool(region, *login, "--list-objects", "--type", "secrkey", **environment)
        value.unlink()
    assert any(embedded.iterdir())

    def leaks() -> dict[str, list[str]]:
        found = {name: files_with(forms(text), region.state) for name, text in secrets_by_name.items()}
        return {name: files for name, files in found.items() if files}

    assert len(secrets_by_name) == 16
    assert leaks() == {}
    # The search finds what is there: object names stay clear.
    assert files_with(forms(clear_name), region.state)

    # Processes that die badly leave no memory behind.
    pids = [region.pid("hsm"), region.pid("cos")]
    for pid in pids:
        os.kill(pid, signal.SIGABRT)
    for pid in pids:
        eventually(lambda: not alive(pid), "the process has died")
    cores = [path for path in [*region.state.rglob("*core*"), *Path.cwd().glob("core*")] if path.is_file()]
    assert cores == []
    assert leaks() == {}
    region.up()
    client.abort_multipart_upload(**upload)
    assert leaks() == {}


def windows(data: bytes, size: int) -> set[bytes]:
    return {data[at : at + size] for at in range(len(data) - size + 1)}


def master_keys_in(directory: Path) -> list[bytes]:
    """Every 32 bytes whose verification pattern, SHA-256(0x01 || key), begins as 16 other bytes there do."""
    everything = [path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()]
    identifiers = set().union(*(windows(data, 16) for data in everything))
    candidates = set().union(*(windows(data, 32) for data in everything))
    return [key for key in candidates if hashlib.sha256(b"\x01" + key).digest()[:16] in identifiers]


def test_the_master_key_is_nowhere(new_region: Callable[..., Region]) -> None:
    region = new_region()
    keyed_bucket(region.ibm_s3(), "bucket", region.env["ROOT_KEY_CRN"])
    region.down()
    assert master_keys_in(region.state) == []

    # The search finds a master key where there is one.
    key = random.Random(1).randbytes(32)
    pattern = hashlib.sha256(b"\x01" + key).digest()
    (region.state / "planted").write_bytes(b"head" + key + b"between" + pattern[:16] + b"tail")
    assert master_keys_in(region.state) == [key]


def is_open_to_others(path: Path) -> bool:
    try:
        return path.stat().st_mode & 0o077 != 0
    except FileNotFoundError:
        # Some are there for a moment only.
        return False


def test_what_lies_on_the_disk_is_for_its_owner_alone(region: Region) -> None:
    files = {path.relative_to(region.state) for path in region.state.rglob("*") if path.is_file()}
    known = ("hsm/api-key", "hsm/keystore.sqlite", "cos/credentials.json", "env", "hsm.log", "cos.log")
    assert {(region.state / name).stat().st_mode & 0o777 for name in known} == {0o600}
    assert [str(path) for path in files if is_open_to_others(region.state / path)] == []
    for directory in (region.state, region.state / "hsm", region.state / "cos"):
        assert directory.stat().st_mode & 0o777 == 0o700
