"""The process at the other end of `isolate.Pool`: reads chunks of jobs, writes one verdict a line.

It imports a verifier when the first job of its kind arrives, never jax, and runs nothing that the text says.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time

from r1jax.rewards.verdict import Verdict

KINDS = {
    "math": "r1jax.rewards.math",
    "countdown": "r1jax.rewards.countdown",
    "choice": "r1jax.rewards.choice",
    "format": "r1jax.rewards.format",
    "language": "r1jax.rewards.language",
    "code": "r1jax.rewards.code",
    "proof": "r1jax.rewards.proof",
}
OWN_LIMITS_S = {"code": 60.0, "proof": 60.0}  # the programs they start are limited by their sandboxes
LONGEST_LIFE_S = 3600  # CPU seconds; whoever runs into it is replaced and its job done again
PR_SET_PDEATHSIG = 1


def main(memory_mb: int, item_s: float, kinds: list[str]) -> None:
    """Serves chunks from standard input until it closes.

    Args:
        memory_mb: address space, MiB.
        item_s: CPU time of one job, seconds; SIGPROF ends the process there.
        kinds: verifiers to import before the first job.
    """
    _confine(memory_mb)
    out = sys.stdout.fileno()
    judges = {kind: _load(kind) for kind in kinds}
    for line in sys.stdin.buffer:
        jobs = json.loads(line)
        for kind, _, _ in jobs:
            if kind not in judges:
                judges[kind] = _load(kind)
        _write(out, "started")  # what was imported above does not count against the first job's deadline
        for kind, text, example in jobs:
            # CPU time, so that a loaded machine changes no verdict; the kernel ends us even inside a call into C
            signal.setitimer(signal.ITIMER_PROF, OWN_LIMITS_S.get(kind, item_s))
            _write(out, _judge(judges[kind], text, example))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(out, _rss_mb())


def _judge(verify, text: str, example: dict) -> tuple:
    start = time.perf_counter()
    try:
        verdict = verify(text, example)
    except Exception as error:  # a defect of ours: the row gets no reward, and training counts it
        verdict = Verdict(None, "error", f"{type(error).__name__}: {error}"[:300])
    return verdict._replace(ms=round((time.perf_counter() - start) * 1e3, 3))


def _load(kind: str):
    """The function `(text, example) -> Verdict` of this kind, with all it needs imported."""
    try:
        module = importlib.import_module(KINDS[kind])
        getattr(module, "warm", lambda: None)()
        return getattr(module, "judge", module.verify)
    except (ImportError, KeyError) as error:
        verdict = Verdict(None, "error", f"no verifier {kind!r}: {error}"[:300])
        return lambda text, example: verdict


def _rss_mb() -> int:
    """Resident memory now. Not `ru_maxrss`: a child begins with the peak of the parent it was started from."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() >> 20
    except OSError:
        return 0


def _confine(memory_mb: int) -> None:
    if sys.platform == "linux":  # no orphan, even where the parent is killed during an endless call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = {
        resource.RLIMIT_CORE: (0, True),
        resource.RLIMIT_CPU: (LONGEST_LIFE_S, True),
        # soft: what runs here is ours, and a sandbox started from here sets itself the limit of its task
        resource.RLIMIT_AS: (memory_mb << 20, False),
    }
    for name, (value, for_children) in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(name, (value, value if for_children else hard))
    sys.setrecursionlimit(3000)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # lengths are bounded before any int is built


def _write(out: int, message: object) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(out, data) :]
    except BrokenPipeError:  # nobody is left to read it
        os._exit(0)
