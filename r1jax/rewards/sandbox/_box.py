"""Starts sandboxes and keeps a reserve of them. Defines each tier's command, and the paths that a sandbox can read."""

from __future__ import annotations

import contextlib
import functools
import itertools
import marshal
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections import deque
from pathlib import Path

from r1jax.rewards.sandbox._filter import COLUMN, filter_program
from r1jax.rewards.sandbox._watch import usage

START_S = 30.0  # for a started sandbox to report ready; generous, for a loaded machine
RESERVE = 2
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
SHOWN = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
START = """
def start():
    def confine():
        if config["tier"] in "BC" and not deny(config["tier"] == "C") and config["tier"] == "C":
            raise OSError("no seccomp filter here")
        if config["tier"] == "C":
            readable_only(config["readable"])
    private = () if config["tier"] == "A" else (keep_private,)
    inside = lambda: serve(config["channel"], confine, *private)
    if config["tier"] == "B":
        namespaces(config, inside)
    elif config["tier"] == "C":
        other_user(config, inside)
    else:
        inside()
"""


class Unavailable(Exception):
    """This machine cannot start a sandbox of the tier that the caller requires. The message says why."""


class Box:
    """A sandbox that has been started and waits for one job.

    Args:
        tier: the letter of the tier, A to D; see `sandbox`.
        file_mb: size limit of the sandbox's writable file systems, in MiB.
        show: further paths that the job may read.
    Attributes:
        process: the process that starts and contains the sandbox.
        channel: a socket, over which the sandbox receives its code and its job and returns files.
    Raises:
        Unavailable: the sandbox does not start.
    """

    def __init__(self, tier: str, file_mb: int, show: tuple[str, ...]):
        self.channel, theirs = socket.socketpair()
        self.tier = tier
        uid = _new_uid()
        shown = binds(tier, show)
        config = {
            "tier": tier,
            "channel": theirs.fileno(),
            "file_mb": file_mb,
            "uid": uid,
            "binds": shown,
            "symlinks": symlinks(),
            "readable": (*shown, *symlinks(), "/dev", "/proc/self"),
        }
        start = marshal.dumps((_code(tier), config))
        loader = (
            f"import os,marshal\nd=b''\nwhile len(d)<{len(start)}:d+=os.read({theirs.fileno()},{len(start)}-len(d))\n"
            "c,g=marshal.loads(d)\nv=dict(globals(),config=g)\ndel d,g\nfor x in c:exec(x,v)\ndel x,c\nv['start']()"
        )
        # without the module `site`, which takes 4 of 11 ms; `_inside` supplies what programs use of it
        python = [interpreter(tier), "-I", "-S", "-B", "-X", "utf8", "-c", loader]
        command, options, fds = python, {}, [theirs.fileno()]
        if tier == "A":
            command = _bubblewrap(file_mb, shown)
            if COLUMN is not None:
                fds.append(_pipe_with(filter_program(False)))
                command += ["--seccomp", str(fds[-1])]
            command += ["--", *python]
            if os.getuid() == 0:
                options = {"user": uid, "group": uid, "extra_groups": []}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=fds,
                start_new_session=True,
                **options,
            )
        except (OSError, subprocess.SubprocessError) as problem:
            self.channel.close()
            raise Unavailable(f"the sandbox of tier {tier} does not start: {problem}") from None
        finally:
            theirs.close()
            for fd in fds[1:]:
                os.close(fd)
        self.channel.settimeout(START_S)
        with contextlib.suppress(OSError):  # it ended at once; `wait_ready` says why
            self.channel.sendall(start)

    def wait_ready(self) -> None:
        """Waits until the sandbox reports ready. Raises Unavailable if the sandbox ends or reports nothing instead."""
        try:
            if self.channel.recv(1) == b"+":
                return
        except TimeoutError:
            raise Unavailable(
                f"the sandbox of tier {self.tier} does not start: it did not report ready within {START_S:.0f} s"
            ) from None
        except OSError:
            pass  # it ended before it had read everything
        _kill(self.process.pid)
        said = self.process.stderr.read(4096).decode("ascii", "replace").strip().splitlines()[-1:]
        reason = " ".join(said) or f"exit status {self.process.wait()}"
        raise Unavailable(f"the sandbox of tier {self.tier} does not start: {reason}")

    def send(self, data: bytes) -> None:
        """Sends the job, serialised as `data`. Raises Unavailable if the sandbox does not accept the job."""
        try:
            self.channel.sendall(data)
            self.channel.shutdown(socket.SHUT_WR)
        except OSError as problem:
            raise Unavailable(f"the sandbox of tier {self.tier} did not accept the job: {problem}") from None

    def end(self) -> None:
        """Kills all processes of the sandbox, waits for `process` to end, and closes its pipes."""
        process = self.process
        if process.poll() is None:
            if self.tier == "C":
                process.terminate()  # its root process then ends every process of the user
            elif self.tier == "D":
                _kill_group(process.pid)
            else:
                for child in usage(process.pid)[2]:
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
    """The started sandboxes of one thread. When the thread ends, the kernel ends the sandboxes that it started.

    Attributes:
        boxes: (tier, file_mb, show, process id) -> sandboxes that wait for a job.
    """

    def __init__(self):
        self.boxes: dict[tuple, deque[Box]] = {}
        self.thread = type("Thread", (), {})()  # collected when the thread ends
        weakref.finalize(self.thread, _end_all, self.boxes, os.getpid())


def _end_all(boxes: dict[tuple, deque[Box]], pid: int) -> None:
    if pid == os.getpid():  # a fork only has a copy and must not end them
        for waiting in boxes.values():
            for box in waiting:
                box.end()


_reserve = _Reserve()
_numbers = itertools.count()


def take(tier: str, file_mb: int, show: tuple[str, ...]) -> Box:
    """Returns a started sandbox from this thread's reserve, and fills up the reserve.

    The reserve holds sandboxes that were started ahead and wait for a job. Starts further sandboxes, so that RESERVE of
    them stay in the reserve.

    Args:
        tier, file_mb, show: as in `Box`.
    """
    waiting = _reserve.boxes.setdefault((tier, file_mb, show, os.getpid()), deque())
    while len(waiting) <= RESERVE:
        waiting.append(Box(tier, file_mb, show))
    while (box := waiting.popleft()).process.poll() is not None and waiting:
        box.end()
    return box


@functools.cache
def _code(tier: str) -> tuple:
    """Returns the code objects that are sent into a sandbox of this tier; its Python has the same version as ours."""
    here = Path(__file__).parent
    names = (
        ("_inside.py",) if tier == "A" else ("_filter.py", "_inside.py", "_jail.py")
    )  # bubblewrap isolates by itself
    sources = {name: (here / name).read_text() for name in names} | {"start": START}
    return tuple(compile(source, name, "exec") for name, source in sources.items())


@functools.cache
def interpreter(tier: str) -> str:
    """Returns the path of the Python interpreter for sandboxes of this tier, outside of any virtual environment.

    Usually this is the interpreter of this process. If this process is root, tiers A and C run programs as another
    user. If that user cannot read this process's interpreter, the system's interpreter of the same version is used.
    """
    ours = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    if tier in "AC" and os.getuid() == 0 and not open_to_all(ours):
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return next(
            (path for folder in ("/usr/local/bin/", "/usr/bin/") if os.path.exists(path := folder + name)), ours
        )
    return ours


def open_to_all(path: str) -> bool:
    """Returns True if other users may enter all parents of a path, and may read or execute the path itself.

    Also returns True if the path does not exist.
    """
    if not os.path.exists(path):
        return True
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).parents) and bool(os.stat(path).st_mode & 0o005)


@functools.cache
def packages() -> list[str]:
    """Returns the folders of installed packages that a program in a sandbox may import.

    The sandbox appends these folders to `sys.path`, and ignores the .pth files in them.
    """
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


@functools.cache
def binds(tier: str, show: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the host's paths that a sandbox of this tier can read, including the paths in `show`.

    No returned path lies inside another one.
    """
    wanted = {path for path in (*SHOWN, os.path.realpath(sys.base_prefix), *packages(), *show) if os.path.exists(path)}
    wanted |= {path for path in ("/bin", "/sbin", "/lib", "/lib64") if os.path.isdir(path) and not os.path.islink(path)}
    if tier in "AC" and os.getuid() == 0:  # another user mounts or reads them
        wanted = {path for path in wanted if open_to_all(path)}
    inside = {path for path in wanted for other in wanted if path != other and path.startswith(other.rstrip("/") + "/")}
    return tuple(sorted(wanted - inside))


@functools.cache
def symlinks() -> dict[str, str]:
    """Returns {link: target} of the symbolic links in /, such as /bin, that a sandbox recreates."""
    return {path: os.readlink(path) for path in ("/bin", "/sbin", "/lib", "/lib64", "/lib32") if os.path.islink(path)}


def _bubblewrap(file_mb: int, shown: tuple[str, ...]) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--as-pid-1",
        "--die-with-parent",
        "--new-session",
        "--hostname",
        "sandbox",
        "--cap-drop",
        "ALL",
    ]
    size = str(file_mb << 20)
    command += ["--size", size, "--tmpfs", "/tmp"]  # before the host's paths, which may lie in it: an environment may
    for path in shown:
        command += ["--ro-bind", path, path]
    for name, goal in symlinks().items():
        command += ["--symlink", goal, name]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def _pipe_with(data: bytes) -> int:
    """Returns the reading end of a new pipe that holds `data`, which must fit into the pipe's buffer."""
    source, sink = os.pipe()
    os.write(sink, data)
    os.close(sink)
    return source


def _new_uid() -> int:
    """Returns the user id under which the programs of one sandbox run.

    For root it is a new id, so that programs of two sandboxes cannot reach each other and limits count separately. For
    other users it is their own id.
    """
    number = os.getpid() * 64 + next(_numbers) % 64
    if os.getuid():
        return os.getuid()
    return 1_900_000_000 + number % 200_000_000 if _all_uids() else 61_184 + number % 4096  # no account has these


@functools.cache
def _all_uids() -> bool:
    """Returns True if this process's user namespace has all user ids, not only, for example, the first 65,536."""
    return str(2**32 - 1) in Path("/proc/self/uid_map").read_text().split()


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, 9)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, 9)
