"""scripts/install: what it lays in place works from there, and everything else is left as it was."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from region import clean_environment, run_script

OPTIONS = ["--no-build", "--as-softhsm"]
MULTIARCH = f"lib/{platform.machine()}-linux-gnu"


def install(prefix: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_script("install", "--prefix", prefix, *options)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir() or path.is_symlink())


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    return prefix


def test_everything_is_in_its_place_and_goes_again(prefix: Path) -> None:
    assert install(prefix, *OPTIONS).returncode == 0
    assert tree(prefix) == sorted(
        [
            *(f"bin/{name}" for name in ("hsm-emulator", "tke", "cos-service", "hsm-util", "softhsm2-util")),
            *("lib/libhsm_pkcs11.so", "lib/softhsm/libsofthsm2.so", "lib/pkcs11/libsofthsm2.so"),
            *(f"{MULTIARCH}/softhsm/libsofthsm2.so", f"{MULTIARCH}/pkcs11/libsofthsm2.so"),
            *(f"share/p11-kit/modules/{name}.module" for name in ("hsm-emulator", "softhsm2")),
            "share/hsm-emulator/installed",
        ]
    )
    assert f"module: {prefix}/lib/softhsm/libsofthsm2.so\n" in (prefix / "share/p11-kit/modules/softhsm2.module").read_text()
    # Again, over its own.
    assert install(prefix, *OPTIONS).returncode == 0
    assert install(prefix, "--uninstall").returncode == 0
    assert list(prefix.rglob("*")) == []
    assert install(prefix, "--uninstall").returncode == 1


def test_without_softhsms_names_there_are_none(prefix: Path) -> None:
    assert install(prefix, "--no-build").returncode == 0
    assert not any("softhsm" in path for path in tree(prefix))


def test_what_is_installed_takes_softhsms_place(prefix: Path, tmp_path: Path) -> None:
    assert install(prefix, *OPTIONS).returncode == 0
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\n")
    environment = {**clean_environment(), "SOFTHSM2_CONF": str(conf)}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    util = prefix / "bin/softhsm2-util"
    assert run(util, "--version") == "2.6.1\n"
    assert run(util, "--show-config", "default-pkcs11-lib") == f"{prefix}/lib/softhsm/libsofthsm2.so\n"
    run(util, "--init-token", "--free", "--label", "installed", "--pin", "1234", "--so-pin", "5678")
    for library in ("lib/softhsm", "lib/pkcs11", f"{MULTIARCH}/softhsm", f"{MULTIARCH}/pkcs11"):
        shown = run("pkcs11-tool", "--module", prefix / library / "libsofthsm2.so", "--show-info", "--list-slots")
        assert "Manufacturer     SoftHSM\n" in shown and "installed" in shown
    # Without the configuration, each name is what it says.
    environment = {**clean_environment(), "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    shown = run("pkcs11-tool", "--module", prefix / "lib/libhsm_pkcs11.so", "--show-info", "--list-slots")
    assert "Manufacturer     HSM emulator\n" in shown and "installed" not in shown


def test_both_libraries_can_be_in_one_process(prefix: Path, tmp_path: Path) -> None:
    assert install(prefix, *OPTIONS).returncode == 0
    (tmp_path / "tokens").mkdir()
    conf = tmp_path / ".config/softhsm2/softhsm2.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    environment = {**clean_environment(), "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    libraries = [prefix / "lib/libhsm_pkcs11.so", prefix / "lib/softhsm/libsofthsm2.so"]
    command = [sys.executable, "-c", BOTH, *libraries]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["HSM emulator", "SoftHSM"], done.stderr
    assert (tmp_path / "tokens/hsm-emulator").is_dir() and (tmp_path / "data/hsm-emulator/pkcs11").is_dir()


# C_Initialize and C_GetInfo of each library; manufacturerID is behind two bytes of version.
BOTH = """
import ctypes, sys
for path in sys.argv[1:]:
    library = ctypes.CDLL(path)
    assert library.C_Initialize(None) == 0
    info = ctypes.create_string_buffer(88)
    assert library.C_GetInfo(info) == 0
    print(info.raw[2:34].decode().rstrip())
"""


def test_a_real_softhsm_is_not_overwritten(prefix: Path) -> None:
    real = prefix / "lib/softhsm/libsofthsm2.so"
    real.parent.mkdir(parents=True)
    real.write_text("the real one")
    util = prefix / "bin/softhsm2-util"
    util.parent.mkdir()
    util.symlink_to("/nowhere")
    before = tree(prefix)
    refused = install(prefix, *OPTIONS)
    assert refused.returncode == 1 and str(real) in refused.stderr and str(util) in refused.stderr
    assert tree(prefix) == before
    assert install(prefix, *OPTIONS, "--force").returncode == 0
    assert real.stat().st_size > 1_000_000 and os.readlink(util) == "hsm-util"
    assert install(prefix, "--uninstall").returncode == 0
    assert tree(prefix) == before and real.read_text() == "the real one"


def test_a_package_names_the_prefix_alone(tmp_path: Path) -> None:
    package = tmp_path / "package"
    assert install(Path("/usr"), "--destdir", str(package), *OPTIONS).returncode == 0
    modules = package / "usr/share/p11-kit/modules"
    assert "module: /usr/lib/libhsm_pkcs11.so\n" in (modules / "hsm-emulator.module").read_text()
    assert not any(str(package) in path.read_text() for path in modules.iterdir())
    assert install(Path("/usr"), "--destdir", str(package), "--uninstall").returncode == 0


def test_help_and_wrong_arguments() -> None:
    assert "Examples:" in run_script("install", "--help").stdout
    assert run_script("install", "--prefix").returncode == 2
    assert run_script("install", "--nonsense").returncode == 2
