"""The HSM in another process: TLS, client certificates, IBM's configuration file; a Unix socket, and our own file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, Token
from region import BIN, clean_environment, eventually

Server = Callable[..., dict[str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Starts the emulator with a TLS port, and gives the environment of the library."""
    running: list[subprocess.Popen[bytes]] = []
    state = tmp_path / "hsm"

    def start(*options: str | Path) -> dict[str, str]:
        command = [BIN / "hsm-emulator", "serve", "--state", state, "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", *options]
        with open(tmp_path / "log", "ab") as log:
            running.append(subprocess.Popen(command, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        files = [state / "endpoint", state / "tls-endpoint"]
        eventually(lambda: all(file.exists() for file in files), "the server serves")
        return {
            **clean_environment(),
            "HSM_GRPC_ENDPOINT": (state / "tls-endpoint").read_text().strip(),
            "HSM_API_KEY_FILE": str(state / "api-key"),
            "HSM_CA_FILE": str(state / "tls/certificate.pem"),
        }

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert not (state / "tls-endpoint").exists()


def list_slots(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["pkcs11-tool", "--module", LIBRARY, "--list-slots"], env=environment, capture_output=True, text=True, timeout=60
    )


def accepted(environment: dict[str, str]) -> None:
    done = list_slots(environment)
    assert done.returncode == 0 and "uninitialized" in done.stdout, done.stdout + done.stderr


def refused(environment: dict[str, str], reason: str) -> None:
    done = list_slots(environment)
    assert done.returncode != 0 and reason in done.stderr, done.stdout + done.stderr


def certificate(directory: Path, name: str, authority: str | None = None) -> tuple[Path, Path]:
    """A certificate and its key; without an authority, its own."""
    crt, key = directory / f"{name}.crt", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-out", crt, "-keyout", key]
    if authority:
        command += ["-CA", directory / f"{authority}.crt", "-CAkey", directory / f"{authority}.key"]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return crt, key


def test_the_server_makes_its_own_certificate(server: Server, tmp_path: Path) -> None:
    environment = server()
    accepted(environment)
    accepted({**environment, "HSM_GRPC_ENDPOINT": environment["HSM_GRPC_ENDPOINT"].replace("127.0.0.1", "localhost")})
    refused({name: value for name, value in environment.items() if name != "HSM_CA_FILE"}, "certificate")
    certificate(tmp_path, "stranger")
    refused({**environment, "HSM_CA_FILE": str(tmp_path / "stranger.crt")}, "certificate")
    plain = environment["HSM_GRPC_ENDPOINT"].replace("https", "http")
    refused({**environment, "HSM_GRPC_ENDPOINT": plain}, "can't be reached")
    private = tmp_path / "hsm/tls/key.pem"
    assert private.stat().st_mode & 0o777 == 0o600


def test_clients_prove_themselves(server: Server, tmp_path: Path) -> None:
    certificate(tmp_path, "ca")
    server_crt, server_key = certificate(tmp_path, "server", "ca")
    client_crt, client_key = certificate(tmp_path, "client", "ca")
    stranger_crt, stranger_key = certificate(tmp_path, "stranger")
    environment = server("--tls-certificate", server_crt, "--tls-key", server_key, "--tls-client-ca", tmp_path / "ca.crt")
    environment["HSM_CA_FILE"] = str(tmp_path / "ca.crt")

    def with_client(crt: Path, key: Path) -> dict[str, str]:
        return {**environment, "HSM_CLIENT_CERTIFICATE_FILE": str(crt), "HSM_CLIENT_KEY_FILE": str(key)}

    accepted(with_client(client_crt, client_key))
    refused(environment, "can't be reached")
    refused(with_client(stranger_crt, stranger_key), "can't be reached")
    refused({**environment, "HSM_CLIENT_KEY_FILE": str(client_key)}, "go together")
    refused(with_client(client_crt, tmp_path / "nowhere"), "nowhere")

    # The same by the file that IBM's library is configured with.
    host, port = environment["HSM_GRPC_ENDPOINT"].removeprefix("https://").split(":")
    yaml = tmp_path / "grep11client.yaml"
    yaml.write_text(
        f"""iamcredentialtemplate: &defaultiamcredential
  enabled: true
  endpoint: "https://iam.cloud.ibm.com"
  apikey:
tokens:
  0:
    grep11connection:
      address: "{host}"
      port: "{port}"
      tls:
        enabled: true
        mutual: true
        cacert: {tmp_path}/ca.crt
        certfile: {client_crt}
        keyfile: {client_key}
    storage:
      remotestore:
        enabled: true
    users:
      2:
        name: "Anonymous"
        iamauth:
          <<: *defaultiamcredential
          apikey: "{Path(environment["HSM_API_KEY_FILE"]).read_text().strip()}"
"""
    )
    os.chmod(yaml, 0o600)
    accepted({**clean_environment(), "EP11CLIENT_CFG": str(yaml)})
    yaml.write_text(yaml.read_text().replace("mutual: true", "mutual: false"))
    refused({**clean_environment(), "EP11CLIENT_CFG": str(yaml)}, "can't be reached")


def test_a_file_names_a_unix_socket(server: Server, tmp_path: Path) -> None:
    path, file = tmp_path / "socket", tmp_path / "hsm.toml"
    key = server("--socket", path)["HSM_API_KEY_FILE"]
    assert path.is_socket() and path.stat().st_mode & 0o077 == 0
    file.write_text(f'backend = "remote"\nendpoints = ["unix:{path}"]\napi_key_file = "{key}"\n')
    environment = {**clean_environment(), "HSM_PKCS11_CONFIG": str(file)}
    accepted(environment)
    token = Token("by the socket", environment)
    token.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "01")
    assert "Private Key Object; EC" in token.pkcs11_tool("--list-objects")
    # The environment wins over the file.
    refused({**environment, "HSM_GRPC_ENDPOINT": f"unix:{tmp_path}/nowhere"}, "can't be reached")
    file.write_text(file.read_text().replace("endpoints", "endpoint"))
    refused(environment, "endpoint")


def test_who_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """A connection is made, and nobody answers: an error, where the tool would otherwise hang until it is killed."""
    (tmp_path / "key").write_text("key")
    certificate(tmp_path, "ca")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **clean_environment(),
            "HSM_GRPC_ENDPOINT": f"https://127.0.0.1:{silent.getsockname()[1]}",
            "HSM_API_KEY_FILE": str(tmp_path / "key"),
            "HSM_CA_FILE": str(tmp_path / "ca.crt"),
        }
        refused(environment, "took too long")
