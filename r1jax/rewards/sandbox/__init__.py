"""Runs a model's programs in sandboxes. A sandbox returns outputs, never verdicts; expected values stay outside.

There are four tiers of isolation, from A (strongest) to D. `probe` finds the best tier that works on this machine.
Nothing runs in a weaker tier than the minimum that the caller accepts:

    A  bubblewrap: own user, pid, network, mount, ipc and uts namespaces, a read-only /usr, small tmpfs, seccomp
    B  the same isolation by unshare(2), if bubblewrap is absent
    C  for root in containers that forbid namespaces: a new user id for every run, seccomp that denies every change to a
       file system, Landlock (if the kernel has it) that limits what may be read; at the end of a run, all processes of
       its user id are killed
    D  only resource limits: used only if the caller asks for `minimum="D"`

Each thread that runs programs keeps some started sandboxes in reserve, so that a program need not wait for the start.
"""

from __future__ import annotations

import functools
import marshal
import math
import os
import platform
import re
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards.sandbox._box import Unavailable, binds, interpreter, open_to_all, packages, symlinks, take
from r1jax.rewards.sandbox._watch import Limits, Outcome, watch

__all__ = ["Limits", "Outcome", "Tier", "Unavailable", "probe", "require", "run"]

TIERS = "ABCD"


class Tier(NamedTuple):
    """A way of isolating programs on this machine.

    Attributes:
        letter: A to D.
        how: the means of isolation, in words.
        better: for each stronger tier, why it does not work on this machine.
    """

    letter: str
    how: str
    better: tuple[str, ...] = ()


def probe() -> Tier:
    """Returns the strongest tier that works on this machine.

    Tests the tiers, from A on, with a program that tries to break out. Caches the result for each value of PATH.
    """
    return _probe(os.environ.get("PATH", os.defpath))


def require(minimum: str) -> Tier:
    """Returns the strongest tier that works on this machine.

    Args:
        minimum: the weakest tier to accept, from "A" (strongest) to "D" (no isolation).
    Raises:
        ValueError: `minimum` is not a tier.
        Unavailable: only tiers weaker than `minimum` work on this machine.
    """
    if len(minimum) != 1 or minimum not in TIERS:
        raise ValueError(f"minimum={minimum!r} must be one of {', '.join(TIERS)}, where D means no isolation")
    tier = probe()
    if tier.letter > minimum:
        why = "; ".join(tier.better)
        raise Unavailable(
            f"this machine isolates programs at tier {tier.letter} ({tier.how}), but the minimum is {minimum}: {why}. "
            "Install bubblewrap, or allow user namespaces, or in a container run as root"
        )
    return tier


def run(
    job: Mapping, limits: Limits, *, tier: Tier, stdin: bytes = b"", by_line: bool = False, show: tuple[str, ...] = ()
) -> Outcome:
    """Runs a job (a program, calls of a function, or a command) in a sandbox and returns the job's `Outcome`.

    Args:
        job: `kind` and the keys of that kind. "program": `source`, run as a script. "calls": `source`, `entry` (name of
            the function), `inputs` (list of argument lists), and `may_die` (the job stops once this many calls have
            crashed or exited). "command": `argv`, `env`, `files` (name -> content), and `fetch` (names of files to
            return).
        tier: the tier of isolation, as `require` or `probe` returns it.
        stdin: the bytes of standard input.
        by_line: for a job of kind "calls", which writes one line for each call. If True, the limits on elapsed time,
            CPU time and output hold for each call. If False, they hold for the whole job.
        show: further paths that the job may read.
    Raises:
        Unavailable: the sandbox did not start.
    """
    root = os.getuid() == 0
    letter = "B" if tier.letter == "A" and root and not all(map(open_to_all, show)) else tier.letter
    box = take(letter, limits.file_mb, show)
    try:
        box.wait_ready()
        old_kernel = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (5, 14)
        passed = {
            "file_mb": limits.file_mb,
            "output_bytes": limits.output_bytes,
            # calls are limited one by one inside; other jobs as a sum by `watch`, which should act first
            "cpu_s": math.ceil(limits.time_s) + (not by_line),
            # room for reserved but unused memory, such as big thread stacks; `watch` counts used memory
            "address_mb": max(2048, 4 * limits.memory_mb),
            # before Linux 5.14 the limit counts every process of the user who started the sandbox
            "processes": 0 if old_kernel and not root else limits.processes + 1,
        }
        box.send(marshal.dumps({**job, "limits": passed, "path": packages()}))
        return watch(box.process, box.channel, stdin, limits, by_line, len(job.get("fetch", ())), box.end)
    finally:
        box.end()


@functools.cache
def _probe(path: str) -> Tier:
    better = []
    for letter, how in (
        ("A", "bubblewrap, seccomp"),
        ("B", "own namespaces, seccomp"),
        ("C", "another user, seccomp, read-only"),
    ):
        problem = _try(letter)
        if problem is None:
            return Tier(letter, how, tuple(better))
        better.append(f"{letter}: {problem}")
    return Tier("D", "no isolation, limits only", tuple(better))


WALLS = """
import os
import sys
def held():
    bad = []
    def must_fail(name, f):
        try:
            f()
        except OSError:
            return
        bad.append(name)
    if os.getuid() == 0 or os.geteuid() == 0:
        bad.append("still root")
    import ctypes
    import socket
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) == 0:
        bad.append("user namespaces")
    must_fail("sockets", socket.socket)
    for place in PLACES:
        must_fail("writes to " + place, lambda: open(place + "/r1jax_probe", "w"))
    if TIER in "AB":
        if os.getppid() > 9:
            bad.append("processes of the host")
        if not set(os.listdir("/")) <= SEEN:
            bad.append("files of the host")
    return bad
"""


def _try(letter: str) -> str | None:
    """Returns why the tier of this letter (A, B or C) does not work on this machine; None if it works."""
    if letter == "A" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed (no bwrap on PATH)"
    if letter == "C" and os.getuid():
        return "only root can run programs as another user"
    if platform.system() != "Linux":
        return f"needs Linux, this is {platform.system()}"
    if letter in "AC" and os.getuid() == 0 and not open_to_all(interpreter(letter)):
        return f"another user runs programs there, and cannot read the interpreter {interpreter(letter)}"
    tops = {path.split("/")[1] for path in (*binds(letter), *symlinks())} | {"tmp", "dev", "proc"}
    places = ["/", "/usr", "/etc", "/dev"] + (["/tmp", "/var/tmp", "/dev/shm"] if letter == "C" else [])
    source = f"TIER, PLACES, SEEN = {letter!r}, {places!r}, {tops!r}\n{WALLS}"
    job = {"kind": "calls", "source": source, "entry": "held", "inputs": [[]], "may_die": 1}
    try:
        outcome = run(job, Limits(wall_s=30.0), tier=Tier(letter, ""))
    except Unavailable as problem:
        return str(problem)
    if outcome.stdout == b"=[]\n":
        return None
    return f"its walls do not hold: {outcome.status}, {outcome.stdout[:200]!r} {outcome.stderr[-200:]!r}"
