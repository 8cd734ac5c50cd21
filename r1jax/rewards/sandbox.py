"""A place where a model's program may run. It returns values, never verdicts; expected values and secrets never enter it.

Tiers, the best that works here is taken (`probe`), and below the minimum nothing runs:

    A  bubblewrap: own user, pid, network, mount, ipc and uts namespaces, a read-only /usr, small tmpfs, seccomp
    B  the same by unshare(2), where bubblewrap is absent
    C  containers that forbid namespaces, as root: another user for every run, seccomp that denies every change to a
       file system, Landlock over what may be read (where the kernel has it), all processes of that user killed at the end
    D  nothing but limits: taken only where the caller asks for `minimum="D"`

Started sandboxes wait in reserve for the thread that runs programs, so the start of one overlaps with the run before it.
"""

from __future__ import annotations

import functools
import itertools
import marshal
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from r1jax.rewards._watch import Outcome, usage, watch

TIERS = "ABCD"
START_S = 30.0  # until a started sandbox must have said it is ready; a loaded machine is slow
RESERVE = 2
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
SHOWN = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
SOURCES = ("_filter.py", "_inside.py", "_jail.py")


class Tier(NamedTuple):
    """How programs are isolated on this machine.

    Attributes:
        letter: A to D.
        how: in words.
        better: why each better tier does not work here, one line each.
    """

    letter: str
    how: str
    better: tuple[str, ...] = ()


class Limits(NamedTuple):
    """What one test may use.

    Attributes:
        time_s: CPU time, seconds. wall_s: elapsed time, seconds.
        memory_mb: resident memory of all its processes together, MiB.
        output_bytes: of standard output, and as much of standard error.
        processes: processes and threads. file_mb: of each file and of all files together, MiB.
    """

    time_s: float = 5.0
    wall_s: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    processes: int = 64
    file_mb: int = 16

    @classmethod
    def of(cls, given: Mapping) -> Limits:
        """Limits from a row of a data set; `wall_s` is twice `time_s` where only that is given.

        Raises:
            ValueError: an unknown key, or a value that is not a positive number.
        """
        for key, value in given.items():
            if key not in cls._fields:
                raise ValueError(f"limits has {key!r}; known are {', '.join(cls._fields)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
                raise ValueError(f"limits[{key!r}] is {value!r}; it must be a positive number")
        wanted = dict(given)
        if "time_s" in wanted:
            wanted.setdefault("wall_s", 2 * wanted["time_s"])
        return cls(**{key: value if key in ("time_s", "wall_s") else max(1, int(value)) for key, value in wanted.items()})


class Unavailable(Exception):
    """No sandbox of the wanted tier works here; the message says why and what to install."""


def probe() -> Tier:
    """The best tier that works on this machine, tested by a program that tries the walls; once for each PATH."""
    return _probe(os.environ.get("PATH", os.defpath))


def require(minimum: str) -> Tier:
    """The tier of this machine, D only where that is the minimum.

    Raises:
        ValueError: `minimum` is no tier.
        Unavailable: this machine cannot isolate that well.
    """
    if len(minimum) != 1 or minimum not in TIERS:
        raise ValueError(f"minimum={minimum!r} must be one of {', '.join(TIERS)} (D: no isolation)")
    tier = probe()
    if tier.letter > minimum:
        why = "; ".join(tier.better)
        raise Unavailable(
            f"this machine isolates programs at tier {tier.letter} ({tier.how}), the minimum is {minimum}: {why}. "
            "Install bubblewrap, or allow user namespaces, or in a container run as root"
        )
    return tier


def run(job: Mapping, limits: Limits, *, tier: Tier, stdin: bytes = b"", by_line: bool = False) -> Outcome:
    """What a job did: a program, calls of a function, or a command (see `_inside.work`).

    Args:
        job: kind "program" {source}, "calls" {source, entry, inputs, may_die: calls that may end their process}, or "command" {argv, files, fetch}.
        by_line: the wall limit holds from each line of output to the next, not for the whole.
    Raises:
        Unavailable: the sandbox did not start.
    """
    box = _take(tier, limits.file_mb)
    try:
        box.wait_ready()
        old_kernel = tuple(map(int, platform.release().split(".")[:2])) < (5, 14)
        passed = {
            # calls are limited one by one inside, other jobs as a sum by `watch`, which shall be first
            "time_ms": int(limits.time_s * 1000), "cpu_slack_s": int(not by_line), "file_mb": limits.file_mb, "output_bytes": limits.output_bytes,
            # room for reserved but unused memory, such as big thread stacks; `watch` counts what is used
            "address_mb": max(2048, 4 * limits.memory_mb),
            # before Linux 5.14 the count took in every process of the user who started the sandbox
            "processes": 0 if old_kernel and os.getuid() else limits.processes + 1,
        }  # fmt: skip
        box.send(marshal.dumps({**job, "limits": passed, "path": _packages()}))
        return watch(box.process, box.channel, stdin, limits, by_line, len(job.get("fetch", ())), box.end)
    finally:
        box.end()


class _Box:
    """A started sandbox that waits for its job."""

    def __init__(self, tier: str, file_mb: int):
        self.channel, theirs = socket.socketpair()
        self.tier = tier
        uid = _new_uid()
        config = {
            "tier": tier, "channel": theirs.fileno(), "file_mb": file_mb, "uid": uid,
            "binds": _binds(tier), "symlinks": _symlinks(), "readable": (*_binds(tier), *_symlinks(), "/dev", "/proc/self"),
        }  # fmt: skip
        start = marshal.dumps((_code(), config))
        loader = (
            f"import os,marshal\nd=b''\nwhile len(d)<{len(start)}:d+=os.read({theirs.fileno()},{len(start)}-len(d))\n"
            "c,g=marshal.loads(d)\nv=dict(globals(),config=g)\ndel d,g\nfor x in c:exec(x,v)\ndel x,c\nv['start']()"
        )
        python = [_python(tier), "-I", "-B", "-X", "utf8", "-c", loader]
        command, options = python, {}
        if tier == "A":
            command = [*_bubblewrap(file_mb), "--", *python]
            if os.getuid() == 0:
                options = {"user": uid, "group": uid, "extra_groups": []}
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=ENVIRONMENT,
                cwd="/", pass_fds=[theirs.fileno()], start_new_session=True, **options,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as problem:
            self.channel.close()
            raise Unavailable(f"tier {tier} does not start: {problem}") from None
        finally:
            theirs.close()
        self.channel.settimeout(START_S)
        try:
            self.channel.sendall(start)
        except OSError:
            pass  # it ended at once; wait_ready says why

    def wait_ready(self) -> None:
        try:
            if self.channel.recv(1) == b"+":
                return
        except TimeoutError:
            raise Unavailable(f"tier {self.tier} does not start: silent for {START_S:.0f} s") from None
        except OSError:
            pass  # it ended before it had read all
        _kill(self.process.pid)
        said = self.process.stderr.read(4096).decode("ascii", "replace").strip().splitlines()[-1:]
        reason = " ".join(said) or f"exit status {self.process.wait()}"
        raise Unavailable(f"tier {self.tier} does not start: {reason}")

    def send(self, data: bytes) -> None:
        try:
            self.channel.sendall(data)
            self.channel.shutdown(socket.SHUT_WR)
        except OSError as problem:
            raise Unavailable(f"tier {self.tier} took no job: {problem}") from None

    def end(self) -> None:
        """Kills process 1 of the sandbox, and with it everything in it; its starter then reaps it and ends."""
        process = self.process
        if process.poll() is None:
            if self.tier == "C":
                process.terminate()  # its root process ends every process of the user
            elif self.tier == "D":
                _kill_group(process.pid)
            else:
                for child in usage(process.pid)[3]:
                    _kill(child)
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        elif self.tier == "D":
            _kill_group(process.pid)
        for pipe in (process.stdin, process.stdout, process.stderr, self.channel):
            pipe.close()


class _Reserve(threading.local):
    """Started sandboxes of one thread. They end with it: the kernel ends a child with the thread that started it."""

    def __init__(self):
        self.boxes: dict[tuple, deque[_Box]] = {}
        self.thread = type("Thread", (), {})()  # collected when the thread ends
        weakref.finalize(self.thread, _end_all, self.boxes, os.getpid())


def _end_all(boxes: dict[tuple, deque[_Box]], pid: int) -> None:
    if pid == os.getpid():  # a fork has a copy of them, not their fate
        for waiting in boxes.values():
            for box in waiting:
                box.end()


_reserve = _Reserve()
_numbers = itertools.count()


def _take(tier: Tier, file_mb: int) -> _Box:
    waiting = _reserve.boxes.setdefault((tier.letter, file_mb, os.getpid()), deque())
    while len(waiting) <= RESERVE:
        waiting.append(_Box(tier.letter, file_mb))
    while (box := waiting.popleft()).process.poll() is not None and waiting:
        box.end()
    return box


@functools.cache
def _code() -> tuple:
    """The code that is sent into the sandbox, compiled once: its interpreter is ours."""
    here = Path(__file__).parent
    start = """
def start():
    def confine():
        if config["tier"] != "D":
            held = deny(config["tier"] == "C")
            if config["tier"] == "C":
                readable_only(config["readable"])
                if not held:
                    raise OSError("no seccomp filter here")
    inside = lambda: serve(config["channel"], confine)
    if config["tier"] == "B":
        namespaces(config, inside)
    elif config["tier"] == "C":
        other_user(config, inside)
    else:
        inside()
"""
    return tuple(compile((here / name).read_text(), name, "exec") for name in SOURCES) + (compile(start, "start", "exec"),)


@functools.cache
def _python(tier: str) -> str:
    """The interpreter without its virtual environment, or the system's of the same version where nobody else may reach ours."""
    ours = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    if tier in "AC" and os.getuid() == 0 and not _open_to_all(ours):
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return next((path for folder in ("/usr/local/bin/", "/usr/bin/") if os.path.exists(path := folder + name)), ours)
    return ours


def _open_to_all(path: str) -> bool:
    """Whether other users can get to a path, through all its parents."""
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).parents) and bool(os.stat(path).st_mode & 0o005)


@functools.cache
def _packages() -> list[str]:
    """Installed packages a program may import, after the standard library; no .pth file is read."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


@functools.cache
def _binds(tier: str) -> tuple[str, ...]:
    """Paths shown read-only, none inside another."""
    wanted = {path for path in (*SHOWN, os.path.realpath(sys.base_prefix), *_packages()) if os.path.exists(path)}
    wanted |= {path for path in ("/bin", "/sbin", "/lib", "/lib64") if os.path.isdir(path) and not os.path.islink(path)}
    if tier in "AC" and os.getuid() == 0:  # there, the user who mounts or reads is another
        wanted = {path for path in wanted if _open_to_all(path)}
    inside = {path for path in wanted for other in wanted if path != other and path.startswith(other.rstrip("/") + "/")}
    return tuple(sorted(wanted - inside))


@functools.cache
def _symlinks() -> dict[str, str]:
    return {path: os.readlink(path) for path in ("/bin", "/sbin", "/lib", "/lib64", "/lib32") if os.path.islink(path)}


def _bubblewrap(file_mb: int) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--as-pid-1",
        "--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL",
    ]  # fmt: skip
    for path in _binds("A"):
        command += ["--ro-bind", path, path]
    for name, goal in _symlinks().items():
        command += ["--symlink", goal, name]
    size = str(file_mb << 20)
    command += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/tmp", "--size", size, "--tmpfs", "/dev/shm"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def _new_uid() -> int:
    """A user id of its own for each sandbox of this machine: no program meets another, and limits count apart."""
    number = os.getpid() * 64 + next(_numbers) % 64
    if os.getuid():
        return os.getuid()
    try:
        wide = any(int(line.split()[2]) == 2**32 - 1 for line in open("/proc/self/uid_map"))
    except OSError:
        wide = False
    return 1_900_000_000 + number % 200_000_000 if wide else 61_184 + number % 4096  # ranges nobody's accounts use


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
import os, sys
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
    import ctypes, socket
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
    """Why a tier does not work here; None if it does."""
    if letter == "A" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed (no bwrap on PATH)"
    if letter == "C" and os.getuid():
        return "only root can run programs as another user"
    if platform.system() != "Linux":
        return f"needs Linux, this is {platform.system()}"
    tops = {path.split("/")[1] for path in (*_binds(letter), *_symlinks())} | {"tmp", "dev", "proc"}
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


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except OSError:
        pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except OSError:
        pass

