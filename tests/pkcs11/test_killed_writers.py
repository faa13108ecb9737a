"""Processes are killed while they write to a token of the embedded library: what was acknowledged is there, what was not
is there as a whole or not at all. KILLS=1000 is the long form."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, embedded, run

KILLS = int(os.environ.get("KILLS", "60"))
SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
WRITERS = 4
ABSENT = "absent"

Stress = Callable[[str], Path]


class Killed:
    """Runs programs for a random time, and kills them."""

    def __init__(self, program: Path, environment: dict[str, str], seconds: tuple[float, float]) -> None:
        self.program, self.environment, self.seconds = program, environment, seconds
        self.dice = random.Random(SEED)

    def run(self, *arguments: list[str]) -> list[list[str]]:
        """What each of them wrote; all run at the same time."""
        with self._started(arguments) as processes:
            moments = sorted((self.dice.uniform(*self.seconds), process) for process in processes)
            begun = time.monotonic()
            for moment, process in moments:
                time.sleep(max(0.0, begun + moment - time.monotonic()))
                assert process.poll() is None, f"seed {SEED}: a writer has failed: {process.communicate()[0]}"
                process.kill()
            return [process.communicate()[0].splitlines() for process in processes]

    @contextmanager
    def _started(self, arguments: tuple[list[str], ...]) -> Iterator[list[subprocess.Popen[str]]]:
        processes: list[subprocess.Popen[str]] = []
        try:
            for own in arguments:
                command = [self.program, own[0], LIBRARY, *own[1:]]
                processes.append(
                    subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                )
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


@dataclass
class Place:
    """What is in a place of a writer's: what was acknowledged last, or what was tried since."""

    acknowledged: str = ABSENT
    tried: list[str] = field(default_factory=list)


def follow(lines: list[str]) -> tuple[dict[str, Place], int]:
    """A writer's places, and how many changes were acknowledged."""
    places: dict[str, Place] = {}
    acknowledged = 0
    for line in lines:
        if line == "ok":
            place.acknowledged, place.tried = place.tried[0], []
            acknowledged += 1
            continue
        _, name, state = line.split(" ", 2)
        place = places.setdefault(name, Place())
        place.tried = [state]
    return places, acknowledged


def test_objects(stress: Stress, tmp_path: Path) -> None:
    print(f"seed {SEED}")  # KILL_SEED repeats it
    environment = embedded(tmp_path)
    program = stress("objects")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed(program, environment, (0.02, 0.3))
    acknowledged = unacknowledged = 0
    for cycle in range(0, KILLS, WRITERS):
        names = [f"writer-{cycle + number}" for number in range(WRITERS)]
        written = killed.run(*(["write", name, str(cycle + number)] for number, name in enumerate(names)))
        found: dict[tuple[str, str], str] = {}
        for line in run(program, "read", LIBRARY, environment=environment).splitlines():
            name, place, state = line.split(" ", 2)
            assert (name, place) not in found, f"seed {SEED}: twice {line}"
            found[name, place] = state
        for name, lines in zip(names, written, strict=True):
            places, count = follow(lines)
            acknowledged += count
            for number, place in places.items():
                state = found.pop((name, number), ABSENT)
                allowed = [place.acknowledged, *place.tried]
                assert state in allowed, f"seed {SEED}: {name} {number} is {state}, not one of {allowed}"
                unacknowledged += bool(place.tried)
        assert not found, f"seed {SEED}: nobody wrote {found}"
    print(f"{acknowledged} changes acknowledged, {unacknowledged} killed in the midst")
    assert acknowledged > KILLS, "too little was written between the kills"
    assert unacknowledged > KILLS / 10, "the kills hit nobody"


@pytest.mark.parametrize(
    "action", [["set-pin", "user"], ["set-pin", "so"], ["init-pin", "user"]], ids=["C_SetPIN", "C_SetPIN-SO", "C_InitPIN"]
)
def test_pins(stress: Stress, tmp_path: Path, action: list[str]) -> None:
    """The PIN is the old or the new one."""
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed(program, environment, (0.03, 0.4))
    pin = changes = 0
    for _ in range(max(KILLS // 20, 3)):
        [lines] = killed.run([*action, str(pin)])
        changes += lines.count("ok")
        numbers = [int(line) for line in lines if line != "ok"]
        if lines and lines[-1] != "ok":
            acknowledged, tried = numbers[-1] - 1, [numbers[-1]]
        else:
            acknowledged, tried = numbers[-1] if numbers else pin, []
        codes = {}
        for number in [acknowledged, *tried]:
            codes[number] = run(program, "try", LIBRARY, action[1], str(number), environment=environment).strip()
        right = [number for number, code in codes.items() if code == "CKR_OK"]
        assert len(right) == 1 and set(codes.values()) <= {"CKR_OK", "CKR_PIN_INCORRECT"}, f"seed {SEED}: {codes}, {lines}"
        pin = right[0]
    print(f"{changes} changes")
    assert changes, "the processes were killed before they did anything"


def test_tokens_that_are_initialized_again(stress: Stress, tmp_path: Path) -> None:
    """The old token with what was on it, or the new one, empty and without the user's PIN."""
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed(program, environment, (0.03, 0.5))
    number = changes = 0
    for _ in range(max(KILLS // 20, 3)):
        [lines] = killed.run(["init-token", "user", str(number)])
        changes += lines.count("ok")
        tokens, label, objects, has_pin = map(int, run(program, "look", LIBRARY, environment=environment).split())
        assert tokens == 1
        begun = [int(line) for line in lines if line.isdecimal()] or [number]
        if not lines or lines[-1].isdecimal():
            # In the midst of C_InitToken: the one before is whole, unless the process before was killed on its way.
            assert label in (begun[-1] - 1, begun[-1]), f"seed {SEED}: {label}, {lines}"
            if label == begun[-1] - 1 and len(begun) > 1:
                assert (objects, has_pin) == (20, 1), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
            elif lines and label == begun[-1]:
                assert (objects, has_pin) == (0, 0), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
        else:
            assert label == begun[-1], f"seed {SEED}: {label}, {lines}"
            if lines[-1] == "filled":
                assert (objects, has_pin) == (20, 1), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
        assert run(program, "try", LIBRARY, "so", "0", environment=environment).strip() == "CKR_OK"
        number = label
    print(f"{changes} changes")
    assert changes, "the processes were killed before they did anything"


def test_new_tokens(stress: Stress, tmp_path: Path) -> None:
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed(program, environment, (0.03, 0.2))
    tokens = 1
    for _ in range(min(max(KILLS // 20, 3), 50)):
        [lines] = killed.run(["new-tokens"])
        made = lines.count("ok")
        now = int(run(program, "look", LIBRARY, environment=environment).split()[0])
        begun = len(lines) - made
        assert tokens + made <= now <= tokens + begun, f"seed {SEED}: {tokens} tokens became {now}: {lines}"
        tokens = now
    print(f"{tokens} tokens")
    assert tokens > 1, "the processes were killed before they did anything"
