"""Root keys over gRPC, with a client in another language."""

from __future__ import annotations

import base64
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from grpc_client import Kms, channel_to, refusal
from region import Region

ACTIVE, SUSPENDED, DESTROYED = 1, 2, 5
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def kms(region: Region) -> Iterator[Kms]:
    client = Kms(region.env["HSM_GRPC_ENDPOINT"], region.env["HSM_API_KEY"])
    yield client
    client.close()


@pytest.fixture
def key(kms: Kms) -> str:
    return str(kms.CreateRootKey(name="test").id)


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return refusal(error.value)


def test_the_health_service_says_serving(region: Region) -> None:
    with channel_to(region.env["HSM_GRPC_ENDPOINT"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", Kms.service):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(region: Region, kms: Kms) -> None:
    with channel_to(region.env["HSM_GRPC_ENDPOINT"]) as channel:
        listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {Kms.service, "grpc.health.v1.Health"} <= listed
    assert {"CreateRootKey", "Wrap", "Unwrap", "Rotate", "Disable", "Enable", "Delete"} <= kms.methods


@pytest.mark.parametrize("token", [None, "", "wrong", "x" * 5000])
def test_every_call_needs_the_right_token(region: Region, kms: Kms, token: str | None) -> None:
    stranger = Kms(region.env["HSM_GRPC_ENDPOINT"], token)
    for method in sorted(kms.methods):
        assert refused(lambda: getattr(stranger, method)())[0] == Code.UNAUTHENTICATED, method
    stranger.close()


def test_the_token_is_a_bearer_token(region: Region) -> None:
    stranger = Kms(region.env["HSM_GRPC_ENDPOINT"], region.env["HSM_API_KEY"], scheme="Basic")
    assert refused(stranger.GetInstance)[0] == Code.UNAUTHENTICATED
    stranger.close()


def test_the_instance_names_itself(region: Region, kms: Kms) -> None:
    instance = kms.GetInstance()
    assert instance.id == region.env["INSTANCE_ID"]
    assert uuid.UUID(instance.id)
    assert instance.crn == f"crn:v1:bluemix:public:hs-crypto:{instance.region}:a/{instance.account}:{instance.id}::"
    assert instance.region == region.env["AWS_DEFAULT_REGION"]


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("imported", [False, True])
def test_a_life_from_creation_to_destruction(kms: Kms, bits: int, imported: bool) -> None:
    material = bytes(range(bits // 8)) if imported else b""
    made = kms.CreateRootKey(name="a life", material=material)
    assert (made.state, made.imported, made.name) == (ACTIVE, imported, "a life")
    assert made.bits == (bits if imported else 256)
    assert made.crn == kms.GetInstance().crn.removesuffix("::") + f":key:{made.id}"
    assert len(made.versions) == 1 and made.created
    for name in (made.id, made.crn):
        assert kms.GetRootKey(key=name) == made

    wrapped = kms.Wrap(key=made.id, plaintext=b"data key", aad=["a", "b"])
    assert wrapped.key_version == made.versions[0].id
    unwrapped = kms.Unwrap(key=made.crn, ciphertext=wrapped.ciphertext, aad=["a", "b"])
    assert (unwrapped.plaintext, unwrapped.rewrapped_ciphertext) == (b"data key", "")

    if imported:
        assert refused(lambda: kms.Rotate(key=made.id)) == (Code.INVALID_ARGUMENT, "KEY_PAYLOAD_REQ_ERR")
    rotated = kms.Rotate(key=made.id, material=bytes(reversed(material)))
    assert len(rotated.versions) == 2 and rotated.versions[1] == made.versions[0] and rotated.rotated
    unwrapped = kms.Unwrap(key=made.id, ciphertext=wrapped.ciphertext, aad=["a", "b"])
    assert (unwrapped.plaintext, unwrapped.key_version) == (b"data key", made.versions[0].id)
    assert unwrapped.rewrapped_key_version == rotated.versions[0].id
    again = kms.Unwrap(key=made.id, ciphertext=unwrapped.rewrapped_ciphertext, aad=["a", "b"])
    assert (again.plaintext, again.rewrapped_ciphertext) == (b"data key", "")

    assert kms.Disable(key=made.id).state == SUSPENDED
    assert kms.Enable(key=made.id).state == ACTIVE
    assert kms.Unwrap(key=made.id, ciphertext=wrapped.ciphertext, aad=["a", "b"]).plaintext == b"data key"

    gone = kms.Delete(key=made.id)
    assert (gone.state, len(gone.versions)) == (DESTROYED, 0) and gone.deleted


def test_the_state_is_checked_at_every_use(kms: Kms, key: str) -> None:
    wrapped = kms.Wrap(key=key, plaintext=b"x").ciphertext
    uses: dict[str, Callable[[], Any]] = {
        "wrap": lambda: kms.Wrap(key=key, plaintext=b"x"),
        "generate": lambda: kms.Wrap(key=key),
        "unwrap": lambda: kms.Unwrap(key=key, ciphertext=wrapped),
        "rotate": lambda: kms.Rotate(key=key),
    }
    invalid = (Code.FAILED_PRECONDITION, "KEY_ACTION_INVALID_STATE_ERR")
    deleted = (Code.FAILED_PRECONDITION, "KEY_DELETED_ERR")

    for use in uses.values():
        use()
    assert refused(lambda: kms.Enable(key=key)) == invalid
    kms.Disable(key=key)
    for name, use in uses.items():
        assert refused(use) == invalid, name
    assert refused(lambda: kms.Disable(key=key)) == invalid
    kms.Enable(key=key)
    for use in uses.values():
        use()
    kms.Delete(key=key)
    for name, use in {**uses, "enable": lambda: kms.Enable(key=key), "disable": lambda: kms.Disable(key=key)}.items():
        assert refused(use) == deleted, name
    assert kms.GetRootKey(key=key).state == DESTROYED


def test_wrapping_nothing_generates_a_data_key(kms: Kms, key: str) -> None:
    made = [kms.Wrap(key=key) for _ in range(3)]
    assert {len(each.plaintext) for each in made} == {32}
    assert len({each.plaintext for each in made}) == 3
    for each in made:
        assert kms.Unwrap(key=key, ciphertext=each.ciphertext).plaintext == each.plaintext


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 32, 1000, 4096])
def test_data_keys_of_any_size_come_back(kms: Kms, key: str, size: int) -> None:
    plaintext = bytes(index % 251 for index in range(size))
    wrapped = kms.Wrap(key=key, plaintext=plaintext)
    assert wrapped.plaintext == b""
    assert kms.Unwrap(key=key, ciphertext=wrapped.ciphertext).plaintext == plaintext


UNPROCESSABLE = (Code.INVALID_ARGUMENT, "UNPROCESSABLE_CIPHERTEXT_ERR")


def test_other_authenticated_data_is_refused(kms: Kms, key: str) -> None:
    wrapped = kms.Wrap(key=key, plaintext=b"secret", aad=["one", "two"]).ciphertext
    for aad in ([], ["one"], ["two", "one"], ["onetwo"], ["one", "two", ""], ["one", "tw", "o"]):
        assert refused(lambda: kms.Unwrap(key=key, ciphertext=wrapped, aad=aad)) == UNPROCESSABLE, aad
    plain = kms.Wrap(key=key, plaintext=b"secret").ciphertext
    for aad in ([""], ["one"]):
        assert refused(lambda: kms.Unwrap(key=key, ciphertext=plain, aad=aad)) == UNPROCESSABLE, aad


def test_an_altered_ciphertext_is_refused(kms: Kms, key: str) -> None:
    wrapped = kms.Wrap(key=key, plaintext=b"secret").ciphertext
    body = bytearray(base64.b64decode(wrapped, validate=True))
    assert isinstance(json.loads(body), dict)
    for index, value in enumerate(body):
        altered = body.copy()
        altered[index] = value ^ 1
        text = base64.b64encode(altered).decode()
        assert refused(lambda: kms.Unwrap(key=key, ciphertext=text))[0] in (
            Code.INVALID_ARGUMENT,
            Code.NOT_FOUND,
        ), index
    for text in ("", "no base64!", base64.b64encode(b"{}").decode(), wrapped[:-8], wrapped + "AAAA"):
        assert refused(lambda: kms.Unwrap(key=key, ciphertext=text))[0] == Code.INVALID_ARGUMENT, text
    assert kms.Unwrap(key=key, ciphertext=wrapped).plaintext == b"secret"


def test_another_keys_ciphertext_is_refused(kms: Kms, key: str) -> None:
    other = kms.CreateRootKey(name="other").id
    wrapped = kms.Wrap(key=other, plaintext=b"secret").ciphertext
    assert refused(lambda: kms.Unwrap(key=key, ciphertext=wrapped)) == UNPROCESSABLE


def test_unknown_keys_are_not_found(kms: Kms) -> None:
    missing = str(uuid.uuid4())
    not_found = (Code.NOT_FOUND, "KEY_NOT_FOUND_ERR")
    for method in ("GetRootKey", "Wrap", "Rotate", "Disable", "Enable", "Delete"):
        assert refused(lambda: getattr(kms, method)(key=missing)) == not_found, method
    assert refused(lambda: kms.GetRootKey(key=f"crn:v1:bluemix:public:hs-crypto:us-south:a/1:2:key:{missing}"))[0] in (
        Code.NOT_FOUND,
        Code.INVALID_ARGUMENT,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x"},
        {"name": "x" * 91},
        {"name": "right", "material": b"x" * 15},
        {"name": "right", "material": b"x" * 33},
        {"name": "right", "material": b"x" * 64},
    ],
    ids=["short name", "long name", "15 bytes", "33 bytes", "64 bytes"],
)
def test_fields_out_of_range_are_refused_at_creation(kms: Kms, fields: dict[str, Any]) -> None:
    before = kms.ListRootKeys(limit=1).total
    assert refused(lambda: kms.CreateRootKey(**fields)) == (Code.INVALID_ARGUMENT, "INVALID_FIELD_ERR")
    assert kms.ListRootKeys(limit=1).total == before


def test_fields_out_of_range_are_refused_at_use(kms: Kms, key: str) -> None:
    invalid = (Code.INVALID_ARGUMENT, "INVALID_FIELD_ERR")
    assert refused(lambda: kms.Wrap(key=key, plaintext=b"x" * 4097)) == invalid
    assert refused(lambda: kms.Wrap(key=key, plaintext=b"x", aad=["x"] * 127)) == invalid
    assert refused(lambda: kms.Wrap(key=key, plaintext=b"x", aad=["x" * 256])) == invalid
    assert refused(lambda: kms.Rotate(key=key, material=b"x" * 32))[0] == Code.INVALID_ARGUMENT
    assert refused(lambda: kms.ListRootKeys(limit=5001)) == invalid


def test_keys_are_listed_in_pages(kms: Kms) -> None:
    made = {kms.CreateRootKey(name="listed").id for _ in range(5)}
    destroyed = made.pop()
    kms.Delete(key=destroyed)
    pages = [kms.ListRootKeys(limit=3, offset=offset) for offset in range(0, kms.ListRootKeys().total, 3)]
    ids = list(itertools.chain.from_iterable([key.id for key in page.keys] for page in pages))
    assert ids == sorted(ids) and len(set(ids)) == len(ids) == pages[0].total
    assert made <= set(ids) and destroyed not in ids
    everything = kms.ListRootKeys(limit=5000, include_destroyed=True)
    assert destroyed in [key.id for key in everything.keys] and everything.total == len(everything.keys)
