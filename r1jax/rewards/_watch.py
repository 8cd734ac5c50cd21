"""Waits for a sandboxed process: feeds it, reads it, adds up what its processes use, and stops at the first limit."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from r1jax.rewards.sandbox import Limits

SCAN_S = 0.05
MAX_GRACE = 2  # times wall_s that a run may get back for time a loaded machine kept it waiting
FILES_BYTES = 128 << 20


class Outcome(NamedTuple):
    """What came out of a sandbox.

    Attributes:
        status: exited, or the limit that was met: time (CPU), wall, memory, output, processes.
        code: the exit status, 128 + signal where it was killed; -1 where a limit ended it.
        stdout, stderr: up to output_bytes each, and a byte more where that is the limit that was met.
        files: contents of the files asked for, None where there is none; empty where a limit ended it.
        ms: elapsed time from the job to the end.
    """

    status: str
    code: int
    stdout: bytes
    stderr: bytes
    files: list[bytes | None]
    ms: float


def watch(
    process: subprocess.Popen,
    channel: socket.socket,
    stdin: bytes,
    limits: Limits,
    by_line: bool,
    fetched: int,
    end: Callable[[], None],
) -> Outcome:
    """Returns at the end of the main process, whoever still holds its pipes, or at the first limit."""
    begun = since = time.monotonic()
    out, err, files = bytearray(), bytearray(), bytearray()
    sinks = {process.stdout.fileno(): out, process.stderr.fileno(): err}
    caps = {process.stdout.fileno(): limits.output_bytes, process.stderr.fileno(): limits.output_bytes}
    if by_line:  # one line for each call, each under the limit
        caps[process.stdout.fileno()] = FILES_BYTES
    if fetched:
        sinks[channel.fileno()], caps[channel.fileno()] = files, FILES_BYTES
    poll = select.poll()
    for fd in sinks:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    feed, to_write = process.stdin.fileno(), memoryview(stdin)
    os.set_blocking(feed, False)
    if to_write:
        poll.register(feed, select.POLLOUT)
    else:
        process.stdin.close()
    ended = _exit_fd(process)
    if ended is not None:
        poll.register(ended, select.POLLIN)
    scan_at = begun + SCAN_S
    status, grace = "exited", 0.0
    try:
        while True:
            now = time.monotonic()
            if now - since > limits.wall_s + grace:
                grace = min(starved(process.pid), MAX_GRACE * limits.wall_s)
                if now - since > limits.wall_s + grace:
                    status = "wall"
                    break
            if now >= scan_at:
                status = _over(process.pid, limits, by_line) or status
                if status != "exited":
                    break
                done = time.monotonic()
                scan_at = done + max(SCAN_S, 20 * (done - now))  # at most a twentieth of a core
            wait = min(scan_at, since + limits.wall_s + grace) - now
            ready = poll.poll(max(1.0, 1e3 * (wait if ended is not None else min(wait, 0.005))))
            over = False
            for fd, _ in ready:
                if fd == feed:
                    to_write = _write(feed, to_write)
                    if not to_write:
                        poll.unregister(feed)
                        process.stdin.close()
                elif fd in sinks:
                    size = len(out)
                    if not _read(fd, sinks[fd], caps[fd]):
                        poll.unregister(fd)
                    over |= len(sinks[fd]) > caps[fd]
                    if by_line and out.find(b"\n", size) >= 0:
                        since = time.monotonic()
            if over:
                status = "output"
                break
            if process.poll() is not None:
                for fd, sink in sinks.items():  # what it said before it ended
                    while len(sink) <= caps[fd] and _read(fd, sink, caps[fd]):
                        pass
                status = "output" if any(len(sink) > caps[fd] for fd, sink in sinks.items()) else "exited"
                break
    finally:
        if ended is not None:
            os.close(ended)
        end()
    ms = (time.monotonic() - begun) * 1e3
    if status == "exited" and process.returncode == 128 + signal.SIGXCPU:  # before we looked
        status = "time"
    code = process.returncode if status == "exited" else -1
    code = 128 - code if status == "exited" and code < 0 else code
    found = _split(bytes(files), fetched) if status == "exited" else []
    return Outcome(status, code, bytes(out), bytes(err), found, ms)


def usage(root: int) -> tuple[float, int, dict[int, float]]:
    """CPU seconds and threads of all descendants of a process, orphans included, and resident MiB of each.

    Whoever loses its parent in a pid namespace, or under a subreaper, becomes a child of the top process again.
    """
    rows: dict[int, tuple[int, int, float]] = {}
    children: dict[int, list[int]] = {}
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            rows[int(name)] = sum(map(int, fields[11:15])), int(fields[17]), int(fields[21]) * page
            children.setdefault(int(fields[1]), []).append(int(name))
    found, open_ = [], [root]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    cpu = sum(rows[pid][0] for pid in found) / os.sysconf("SC_CLK_TCK")
    return cpu, sum(rows[pid][1] for pid in found), {pid: rows[pid][2] for pid in found}


def starved(root: int) -> float:
    """Seconds the descendant that waited longest was ready to run and got no core. A program that sleeps has none."""
    longest = 0
    for pid in usage(root)[2]:
        try:
            with open(f"/proc/{pid}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
        except (OSError, IndexError):
            continue
    return longest / 1e9


def _over(root: int, limits: Limits, by_line: bool) -> str | None:
    cpu, threads, resident = usage(root)
    if cpu > limits.time_s and not by_line:
        return "time"
    if threads > limits.processes + 8:
        return "processes"
    if sum(resident.values()) > limits.memory_mb and _proportional(resident) > limits.memory_mb:
        return "memory"
    return None


def _proportional(resident: dict[int, float]) -> float:
    """MiB with a shared page counted once, not in every process; as resident where the kernel does not say."""
    total = 0.0
    for pid, otherwise in resident.items():
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next((int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:")), 0.0)
        except ProcessLookupError:
            continue
        except OSError:
            total += otherwise
    return total


def _exit_fd(process: subprocess.Popen) -> int | None:
    try:
        return os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        return None


def _read(fd: int, sink: bytearray, cap: int) -> bool:
    """False at the end of the stream, or where nothing waits."""
    try:
        data = os.read(fd, min(1 << 16, cap + 1 - len(sink)) or 1)
    except BlockingIOError:
        return False
    except OSError:
        data = b""
    sink += data
    return bool(data)


def _write(fd: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(fd, data[:65536]) :]
    except BlockingIOError:
        return data
    except OSError:  # nobody reads it
        return data[:0]


def _split(data: bytes, count: int) -> list[bytes | None]:
    """The files a command left, as `_inside.fetch` sends them."""
    files: list[bytes | None] = []
    at = 0
    for _ in range(count):
        head = data[at : at + 8]
        size = int.from_bytes(head, "big") if len(head) == 8 else 2**64 - 1
        at += 8
        if size == 2**64 - 1 or at + size > len(data):
            files.append(None)
            continue
        files.append(data[at : at + size])
        at += size
    return files
