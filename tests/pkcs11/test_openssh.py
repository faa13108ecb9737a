"""OpenSSH with keys of a token: an agent, log-ins at a real server, certificates; and git, which signs through it."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, Token
from region import eventually, free_port

KINDS = {"rsa": "rsa:2048", "ec": "EC:prime256v1"}
SHOWN = {"rsa": "RSA", "ec": "ECDSA"}
kinds = pytest.mark.parametrize("name", KINDS)
USER = getpass.getuser()


class Keys:
    """A token with an RSA and an EC key, and what ssh says their public keys are."""

    def __init__(self, token: Token, directory: Path) -> None:
        self.token = token
        for number, (name, kind) in enumerate(KINDS.items(), 1):
            token.pkcs11_tool("--keypairgen", "--key-type", kind, "--id", f"{number:02}", "--label", name)
        self.public = {line.split()[2]: line for line in self.run("ssh-keygen", "-D", LIBRARY).splitlines()}
        ask = directory / "ask"
        ask.write_text(f"#!/bin/sh\necho {token.pin}\n")
        ask.chmod(0o700)
        self.asking = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}

    def run(self, *command: str | Path, **variables: str) -> str:
        return self.token.run(*command, **variables)

    @contextmanager
    def agent(self) -> Iterator[dict[str, str]]:
        """An agent with the keys of the token; the environment of its clients."""
        socket = Path("agent").resolve()
        command = ["ssh-agent", "-D", "-a", socket, "-P", str(LIBRARY.resolve())]
        agent = subprocess.Popen(command, env=self.token.environment, stdout=subprocess.DEVNULL)
        try:
            eventually(socket.exists, "the agent listens")
            variables = {"SSH_AUTH_SOCK": str(socket)}
            assert "Card added" in self.run("ssh-add", "-s", LIBRARY, **self.asking, **variables)
            yield variables
        finally:
            # Its helper, in which the library is, ends when the agent does.
            agent.terminate()
            agent.wait()


@pytest.fixture(scope="module")
def keys(token: Token, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(token, tmp_path_factory.mktemp("ssh"))


@contextmanager
def server(keys: Keys, trusted: str = "", authority: str = "") -> Iterator[tuple[str | Path, ...]]:
    """sshd that lets in one key, or whom an authority certified; the command that logs in there."""
    Path("keys").write_text(trusted)
    Path("authorities").write_text(authority)
    port = free_port()
    here = Path.cwd()
    keys.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "host")
    Path("known").write_text(f"[127.0.0.1]:{port} {Path('host.pub').read_text()}")
    Path("config").write_text(f"""
ListenAddress 127.0.0.1:{port}
HostKey {here}/host
PidFile none
StrictModes no
AuthenticationMethods publickey
LogLevel VERBOSE
AuthorizedKeysFile {here}/keys
TrustedUserCAKeys {here}/authorities
""")
    if os.geteuid() == 0:
        # The directory that Debian's start script makes, and that the server insists on.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = ("IdentityFile=none", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={here}/known")
    client = ("ssh", "-F", "none", "-p", str(port), *(word for option in options for word in ("-o", option)))
    with keys.token.serving("/usr/sbin/sshd", "-D", "-e", "-f", here / "config", port=port):
        yield client


def test_lists_its_keys(keys: Keys) -> None:
    assert {name: line.split()[0] for name, line in keys.public.items()} == {
        "rsa": "ssh-rsa",
        "ec": "ecdsa-sha2-nistp256",
    }


@kinds
def test_logs_in_with_a_key_of_the_token(keys: Keys, name: str) -> None:
    with server(keys, trusted=keys.public[name]) as client:
        login = (*client, "-I", LIBRARY, f"{USER}@127.0.0.1", "echo", "I am", USER)
        assert f"I am {USER}\n" in keys.run(*login, **keys.asking)
    accepted = Path("server.log").read_text()
    assert f"Accepted publickey for {USER} " in accepted and f" ssh2: {SHOWN[name]} SHA256:" in accepted


def test_is_not_let_in_without_the_key(keys: Keys) -> None:
    keys.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "other")
    with server(keys, trusted=Path("other.pub").read_text()) as client:
        login = (*client, "-I", LIBRARY, f"{USER}@127.0.0.1", "true")
        assert "Permission denied (publickey)" in keys.token.run(*login, fails=True, **keys.asking)


@kinds
def test_logs_in_through_an_agent(keys: Keys, name: str) -> None:
    with server(keys, trusted=keys.public[name]) as client, keys.agent() as agent:
        listed = keys.run("ssh-add", "-L", **agent)
        assert all(line in listed for line in keys.public.values())
        for turn in ("first", "second"):
            assert f"{turn}\n" in keys.run(*client, f"{USER}@127.0.0.1", "echo", turn, **agent)
        assert "Card removed" in keys.run("ssh-add", "-e", LIBRARY, **agent)
        assert "The agent has no identities" in keys.token.run("ssh-add", "-l", fails=True, **agent)


@kinds
def test_signs_certificates_of_users(keys: Keys, name: str) -> None:
    Path("authority.pub").write_text(keys.public[name])
    keys.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "user")
    sign = ("ssh-keygen", "-q", "-s", "authority.pub", "-D", LIBRARY, "-I", "a user", "-n", USER, "-V", "+1d", "user.pub")
    keys.run(*sign, **keys.asking)
    assert f"Signing CA: {SHOWN[name]} " in keys.run("ssh-keygen", "-L", "-f", "user-cert.pub")
    with server(keys, authority=keys.public[name]) as client:
        assert "inside\n" in keys.run(*client, "-i", "user", f"{USER}@127.0.0.1", "echo", "inside")


@kinds
def test_git_signs_commits_and_tags(keys: Keys, name: str) -> None:
    Path("allowed").write_text(f'a@b.example namespaces="git" {keys.public[name]}\n')
    Path("gitconfig").write_text(f"""
[user]
    name = A
    email = a@b.example
    signingKey = key::{keys.public[name]}
[gpg]
    format = ssh
[gpg "ssh"]
    allowedSignersFile = {Path.cwd()}/allowed
""")
    own = {"GIT_CONFIG_GLOBAL": str(Path("gitconfig").resolve()), "GIT_CONFIG_NOSYSTEM": "1"}
    keys.run("git", "init", "-q", "-b", "main", "repository", **own)
    git = ("git", "-C", "repository")
    with keys.agent() as agent:
        keys.run(*git, "commit", "-q", "-S", "--allow-empty", "-m", "signed", **own, **agent)
        keys.run(*git, "tag", "-s", "-m", "signed", "one", **own, **agent)
    good = 'Good "git" signature for a@b.example with '
    assert good in keys.run(*git, "verify-commit", "HEAD", **own)
    assert good in keys.run(*git, "verify-tag", "one", **own)
    keys.run(*git, "commit", "-q", "--allow-empty", "-m", "not signed", **own)
    keys.token.run(*git, "verify-commit", "HEAD", fails=True, **own)


def test_leaves_ed25519_keys_out(keys: Keys) -> None:
    """OpenSSH 9.2 reads RSA and ECDSA keys of tokens, and goes on with those when it meets another type: with SoftHSM, too."""
    keys.token.pkcs11_tool("--keypairgen", "--key-type", "EC:edwards25519", "--id", "03", "--label", "ed25519")
    listed = keys.run("ssh-keygen", "-D", LIBRARY)
    assert "skipping unsupported key type" in listed
    assert all(line in listed for line in keys.public.values())
    for kind in ("privkey", "pubkey"):
        keys.token.pkcs11_tool("--delete-object", "--type", kind, "--id", "03")
