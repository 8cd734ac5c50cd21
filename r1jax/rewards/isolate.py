"""Runs verifiers in a pool of worker processes. Every job has a deadline, and no job can end the training process.

A job is (kind of question, text to grade, example). The example is a mapping that tells the verifier how to grade the
text, such as {"gold": "1/2"}.

Workers are started with `subprocess`, because the parent holds a JAX runtime, which does not survive a fork. Workers
receive and send lines of JSON over pipes, so no pickle is loaded, and no text is ever executed. Workers see no
accelerator, and have limits on memory and CPU time. If a job passes its deadline, its worker is killed, and the job
gets a verdict without a reward. If a worker dies by itself, another worker repeats the job.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from r1jax.rewards._batch import Batch
from r1jax.rewards.kinds import KINDS
from r1jax.rewards.verdict import Verdict

START_S = 60.0  # for a worker to start and import a verifier; generous, for a loaded machine
TRIES = 4  # attempts at one job whose worker died
MEMORY_MB = 1500  # address space of a worker
RSS_MB = 500  # a worker above this is replaced after its chunk
MOST_JOBS = 20_000  # a worker is replaced after so many
WALL_S = {name: kind.limits.wall_s for name, kind in KINDS.items() if kind.limits}
WALL = 5  # wall-clock limit of a job, as a multiple of its CPU time

_BOOT = (
    "import sys; sys.path[:0] = sys.argv[4:]; from r1jax.rewards._worker import main; "
    "main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3].split())"
)


class Pool:
    """Judges jobs `(kind, text, example)` in processes that can be killed.

    A pool can be used from any thread. A pool is also a context manager.

    In a job, `kind` is a kind of question in `kinds.KINDS`, such as "math", and `text` is the text to grade. The kind's
    verifier is called as `verify(text, example)`: `example` is a mapping such as {"gold": "1/2"}.

    Args:
        workers: number of processes that work at the same time. The processes start with the first job.
        item_s: CPU seconds for one job, unless its kind sets its own `Limits`. A job that needs more CPU time, or five
            times as much wall time, gets the verdict `timeout`; the other jobs go on.
    """

    def __init__(self, workers: int = 2, *, item_s: float = 2.0):
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        self._item_s = item_s
        self._chunks: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._spare: _Worker | None = None
        self._working: set[_Worker] = set()
        self._kinds: set[str] = set()  # of all jobs so far; a spare imports their verifiers while it waits
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, daemon=True, name="r1jax-rewards") for _ in range(workers)
        ]
        self._running = False
        atexit.register(_close, weakref.ref(self))

    def submit(self, jobs: Sequence[tuple[str, str, Mapping]]) -> Future[list[Verdict]]:
        """Starts the jobs. Returns a future of their verdicts, in the order of the jobs; equal jobs are judged once."""
        return self._enqueue(jobs, None)

    def run(self, jobs: Sequence[tuple[str, str, Mapping]], deadline: float | None = None) -> list[Verdict]:
        """Judges the jobs and returns their verdicts, in the order of the jobs. Never raises on the content of a job.

        Args:
            deadline: seconds for all jobs together; None for no such limit. Jobs not judged by then get the verdict
                `timeout` with stage "batch".
        """
        return self._enqueue(jobs, None if deadline is None else time.monotonic() + deadline).result()

    def close(self) -> None:
        """Ends the workers. Jobs that are not yet judged get the verdict `error` with stage "closed"."""
        with self._lock:
            closed, self._closed = self._closed, True
            working = list(self._working)
        if closed:
            return
        for _ in self._threads:
            self._chunks.put(None)
        for worker in working:  # wakes threads that wait for a verdict
            worker.process.kill()
        for thread in self._threads if self._running else ():
            if thread is not threading.current_thread():
                thread.join(5)
        while True:
            try:
                chunk = self._chunks.get_nowait()
            except queue.Empty:
                break
            if chunk:
                for index in chunk[1]:
                    chunk[0].settle(index, Verdict(None, "error", "closed"))
        if self._spare:
            self._spare.kill()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _enqueue(self, jobs: Sequence[tuple[str, str, Mapping]], expires: float | None) -> Future[list[Verdict]]:
        batch = Batch(jobs, expires)
        with self._lock:
            # replaced, not changed in place: threads read it
            self._kinds = self._kinds | (KINDS.keys() & set(batch.kinds))
            if self._closed:
                raise ValueError("this Pool is closed; make a new one")
            if batch.payloads and not self._running:
                self._running = True
                for thread in self._threads:
                    thread.start()
            for chunk in batch.chunks(len(self._threads)):
                self._chunks.put((batch, chunk))
        return batch.future

    def _serve(self) -> None:
        """Runs in one thread per worker: takes lists of jobs from the queue until every job in them has a verdict."""
        worker = None
        while (item := self._chunks.get()) is not None:
            batch, waiting = item
            tries = 0
            while waiting:
                if self._closed or batch.expired():
                    verdict = Verdict(None, "error", "closed") if self._closed else Verdict(None, "timeout", "batch")
                    for index in waiting:
                        batch.settle(index, verdict)
                    break
                try:
                    worker = worker or self._take_worker()
                except (OSError, ValueError) as error:  # no memory or no process left for a new worker
                    for index in waiting:
                        batch.settle(index, Verdict(None, "error", f"no worker: {error}"))
                    break
                left = worker.work(batch, waiting)
                if not worker.fault and worker.jobs < MOST_JOBS and worker.rss_mb < RSS_MB:
                    break
                self._retire(worker)
                if left and worker.fault != "timeout":
                    tries = tries + worker.blame if left == waiting else 1
                    if tries >= TRIES:  # the job is at fault, or no worker ever starts
                        failed = left[:1] if worker.started else left
                        for index in failed:
                            batch.settle(index, Verdict(None, "error", worker.fault))
                        left, tries = left[len(failed) :], 0
                else:
                    tries = 0
                worker, waiting = None, left
        if worker:
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        with self._lock:
            self._working.discard(worker)
        worker.kill()

    def _take_worker(self) -> _Worker:
        """Returns a worker process, and starts another one as a spare, so that the next call need not wait.

        Only the serving threads call this: Linux ends a child together with the thread that started it.
        """
        with self._lock:
            worker, self._spare = self._spare, None
        if worker is None or worker.process.poll() is not None:
            worker = _Worker(self._item_s, self._kinds)
        with self._lock:
            self._working.add(worker)
            if self._spare is None and not self._closed:
                self._spare = _Worker(self._item_s, self._kinds)
        return worker


@functools.cache
def shared() -> Pool:
    """Returns a pool of at most 4 workers, which all callers without a pool of their own share in this process."""
    return Pool(max(1, min(4, os.cpu_count() or 1)))


class _Worker:
    """One worker process. It gets the jobs of a batch in lists.

    Attributes:
        fault: why the worker stopped before the end of a list; "" if it did not. A worker with a fault gets no other
            list.
        jobs, rss_mb: how many jobs it has judged, and its resident memory in MiB.
    """

    def __init__(self, item_s: float, kinds: set[str]):
        roots = [str(Path(__file__).parents[2]), *(path for path in sys.path if os.path.isabs(path))]
        environ = {
            name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "R1JAX_LEAN_PROJECT") if name in os.environ
        }
        environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _BOOT, str(MEMORY_MB), str(item_s), " ".join(kinds), *roots],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environ,
            start_new_session=True,
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        self.item_s, self.jobs, self.rss_mb = item_s, 0, 0
        self.kinds: set[str] = set()  # whose verifiers it has imported
        self.started, self.blame = False, 1.0  # on the current chunk; how much its death counts against the job
        self.fault = ""

    def work(self, batch: Batch, waiting: list[int]) -> list[int]:
        """Judges jobs of a batch and records their verdicts there.

        Args:
            waiting: the jobs, as indices of `batch.payloads`.
        Returns:
            the jobs without a verdict; [] if all went well. A job that the worker was judging comes first. If any jobs
            are left, `fault` says why.
        """
        to_write = memoryview(("[" + ",".join(batch.payloads[i] for i in waiting) + "]\n").encode())
        source, sink = self.process.stdout.fileno(), self.process.stdin.fileno()
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(sink, select.POLLOUT)
        kinds = {batch.kinds[index] for index in waiting}
        begun, limit = time.monotonic(), WALL * self.item_s if kinds <= self.kinds else START_S
        done, buffer = 0, b""
        self.started = False
        while True:
            end = begun + limit if batch.expires is None else min(begun + limit, batch.expires)
            ready = poll.poll(max(0.0, end - time.monotonic()) * 1e3 + 1)
            if not ready or batch.expired():
                self.fault = "timeout"
                if batch.expired():
                    return waiting[done:]
                if not self.started:
                    self.fault = f"no worker was ready within {limit:.0f} s"
                    return waiting
                return self._give_up(batch, waiting[done:], begun)
            for fd, _ in ready:
                if fd == sink:
                    try:
                        to_write = to_write[os.write(sink, to_write[:65536]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        to_write = to_write[:0]
                    if not to_write:
                        poll.unregister(sink)
                    continue
                data = os.read(source, 1 << 16)
                if not data:
                    status = self.process.wait()
                    if status == -signal.SIGKILL and not self.started:
                        self.blame = 0.05  # killed from outside before it did anything
                    if status != -signal.SIGPROF or not self.started:
                        self.fault = f"the worker died, status {status}"
                        return waiting[done:]
                    self.fault = "timeout"
                    return self._give_up(batch, waiting[done:], begun)
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if isinstance(message, list):
                        batch.settle(waiting[done], Verdict(*message))
                        done += 1
                    elif isinstance(message, int):
                        self.jobs += len(waiting)
                        self.kinds |= kinds
                        self.rss_mb = message
                        return []
                    self.started = True
                if lines:
                    begun = time.monotonic()
                    kind = batch.kinds[waiting[done]] if done < len(waiting) else ""
                    limit = WALL_S.get(kind, WALL * self.item_s)

    @staticmethod
    def _give_up(batch: Batch, left: list[int], begun: float) -> list[int]:
        """Records `timeout` for the first of the jobs `left`, which was being judged. Returns the other jobs.

        There may be none: a worker may also stop after its last verdict.

        Args:
            left: the jobs without a verdict, as indices of `batch.payloads`.
            begun: the value of `time.monotonic()` when the first of them began.
        """
        for index in left[:1]:
            batch.settle(index, Verdict(None, "timeout", "item", ms=(time.monotonic() - begun) * 1e3))
        return left[1:]

    def kill(self) -> None:
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _close(pool: weakref.ref) -> None:
    if alive := pool():
        alive.close()
