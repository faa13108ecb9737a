"""Clients that pause, trickle, vanish, or cut their bodies into crumbs."""

from __future__ import annotations

import base64
import hashlib
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from region import Region
from sigv4 import UNSIGNED, UNSIGNED_TRAILER, Signer

IDLE_SECONDS = 2
MIN_RATE = 2000


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    directory = tmp_path_factory.mktemp("impatient")
    region = Region(directory).up()
    config = directory / "config.toml"
    config.write_text(f'idle_timeout = "{IDLE_SECONDS}s"\nmin_rate = {MIN_RATE}\n')
    region.restart_without_up("cos", "--config", config)
    region.s3().create_bucket(Bucket="bucket")
    yield region
    region.down()


def crc32(body: bytes) -> tuple[str, str]:
    return "x-amz-checksum-crc32", base64.b64encode(zlib.crc32(body).to_bytes(4)).decode()


def chunked(body: bytes, step: int) -> tuple[bytes, dict[str, str]]:
    """An unsigned aws-chunked body, and the headers that go with it."""
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    name, value = crc32(body)
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    headers = {"x_amz_decoded_content_length": str(len(body)), "content_encoding": "aws-chunked", "x_amz_trailer": name}
    return framed + f"0\r\n{name}:{value}\r\n\r\n".encode(), headers


def answer_to(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def timed(call: Callable[[], bytes]) -> tuple[bytes, float]:
    begun = time.monotonic()
    return call(), time.monotonic() - begun


@pytest.mark.parametrize("what", ["object", "part", "deletion", "completion"])
def test_a_client_that_vanishes_is_not_waited_for(impatient: Region, what: str) -> None:
    """Bodies of XML had no time limit at all."""
    signer, s3 = Signer.of(impatient.env), impatient.s3()
    upload = s3.create_multipart_upload(Bucket="bucket", Key="key")["UploadId"]
    method, path, query, extra = {
        "object": ("PUT", "bucket/key", "", {}),
        "part": ("PUT", "bucket/key", f"partNumber=1&uploadId={upload}", {}),
        "deletion": ("POST", "bucket", "delete=", {"content_md5": base64.b64encode(hashlib.md5(b"").digest()).decode()}),
        "completion": ("POST", "bucket/key", f"uploadId={upload}", {}),
    }[what]
    with signer.begin(method, path, 100_000, UNSIGNED, query, **extra) as connection:
        connection.sendall(b"<a>" * 100)
        answer, seconds = timed(lambda: answer_to(connection))
    assert answer.startswith(b"HTTP/1.1 400") and b"<Code>RequestTimeout</Code>" in answer, answer
    assert IDLE_SECONDS * 0.9 < seconds < IDLE_SECONDS + 5


def test_a_client_that_trickles_is_too_slow(impatient: Region) -> None:
    """One byte within every idle timeout kept a connection for ever."""
    with Signer.of(impatient.env).begin("PUT", "bucket/key", 100_000, UNSIGNED) as connection:
        begun = time.monotonic()
        connection.settimeout(IDLE_SECONDS / 4)
        answer = b""
        while not answer and time.monotonic() - begun < 10 * IDLE_SECONDS:
            connection.sendall(b"x")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                pass
    assert b"RequestTimeout" in answer


@pytest.mark.parametrize("mode", [UNSIGNED, UNSIGNED_TRAILER])
def test_a_slow_client_that_goes_on_is_waited_for(impatient: Region, mode: str) -> None:
    """One large aws-chunk took longer than the timeout, although bytes came in all the time."""
    body = b"x" * 3_000_000
    framed, extra = (body, {}) if mode == UNSIGNED else chunked(body, len(body))
    signer = Signer.of(impatient.env)
    with signer.begin("PUT", "bucket/slow", len(framed), mode, **extra) as connection:
        for at in range(0, len(framed), 300_000):
            time.sleep(IDLE_SECONDS / 4)
            connection.sendall(framed[at : at + 300_000])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert signer.send("GET", "bucket/slow").body == body


def test_a_client_that_takes_nothing_is_given_up(impatient: Region) -> None:
    signer, size = Signer.of(impatient.env), 64_000_000
    assert signer.send("PUT", "bucket/large", bytes(size)).status == 200
    with signer.begin("GET", "bucket/large", 0, UNSIGNED) as connection:
        time.sleep(IDLE_SECONDS + 2)
        taken = 0
        try:
            while piece := connection.recv(1_000_000):
                taken += len(piece)
        except ConnectionResetError:
            pass
    assert taken < size


def test_a_whole_part_may_be_one_unsigned_chunk(region: Region, bucket: str) -> None:
    """Amazon's CRT sends parts so, of any size."""
    signer = Signer.of(region.env)
    body = b"0123456789abcdef" * (20 * 1024 * 1024 // 16)
    assert signer.send_chunked(f"{bucket}/key", [body], UNSIGNED_TRAILER, crc32(body)).status == 200
    assert signer.send("GET", f"{bucket}/key").body == body


def resident(region: Region) -> int:
    [line] = [line for line in Path(f"/proc/{region.pid('cos')}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) * 1024


def test_a_body_of_crumbs_costs_no_memory(region: Region, bucket: str) -> None:
    """Each byte in a chunk of its own used to cost a buffer."""
    signer, body = Signer.of(region.env), b"crumbs" * 170_000
    framed, extra = chunked(body, 1)
    before = resident(region)
    with signer.begin("PUT", f"{bucket}/key", len(framed), UNSIGNED_TRAILER, **extra) as connection:
        connection.sendall(framed[:-60])
        time.sleep(2)
        assert resident(region) - before < 20_000_000
        connection.sendall(framed[-60:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert signer.send("GET", f"{bucket}/key").body == body
