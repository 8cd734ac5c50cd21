"""The pool of verifier processes: order, deadlines, killed workers, threads, event loops, no orphans."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r1jax.rewards import code, isolate, sandbox
from r1jax.rewards.isolate import Pool

ROOT = str(Path(__file__).parents[2])


def sums(count, start=0):
    """Countdown jobs; the odd ones miss their target by one."""
    return [
        (
            "countdown",
            f"<think>add</think> <answer>{i}+2</answer>",
            {"numbers": [i, 2], "target": i + 2 + i % 2},
        )
        for i in range(start, start + count)
    ]


def is_right(verdicts, start=0):
    return [v.reward for v in verdicts] == [1.0 - i % 2 for i in range(start, start + len(verdicts))]


def children(parent=None):
    """Process ids whose parent is this process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def first_worker(before):
    """The oldest child that was not there before: the worker that serves; its spare is younger."""
    started = {
        pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        for pid in set(children()) - before
    }
    return min(started, key=started.get)


@pytest.fixture
def pool():
    with Pool(2, item_s=30.0) as pool:
        yield pool


def test_verdicts_come_in_the_order_of_the_jobs(pool):
    assert is_right(pool.run(sums(500)))
    assert pool.run([]) == []


def test_equal_jobs_are_judged_once_and_every_row_gets_the_verdict(pool):
    verdicts = pool.run(sums(2) * 40)
    assert [v.reward for v in verdicts] == [1.0, 0.0] * 40
    assert len({v.ms for v in verdicts}) <= 2  # a second measurement would differ


def test_an_unknown_kind_and_a_broken_example_are_errors_of_their_rows_alone(pool):
    verdicts = pool.run([("nonsense", "x", {}), *sums(1), ("countdown", "5", {"numbers": object()})])
    assert [v.reward for v in verdicts] == [None, 1.0, None]
    assert verdicts[0].verdict == "error" and "nonsense" in verdicts[0].stage


def test_lone_surrogates_and_null_bytes_travel(pool):
    assert [v.reward for v in pool.run([("countdown", "\ud800\0", {"numbers": [1], "target": 1})])] == [0.0]


def test_killing_workers_at_random_loses_no_verdict(pool):
    done = threading.Event()
    killed = 0

    def kill():
        nonlocal killed
        draw, wait = random.Random(0), 0.1
        while not done.wait(wait):
            wait = pause
            for pid in draw.sample(workers := children(), min(1, len(workers))):
                os.kill(pid, signal.SIGKILL)
                killed += 1

    begun = time.monotonic()
    pool.run(sums(1))
    pause = max(0.1, time.monotonic() - begun)  # on a loaded machine too, a worker lives long enough to judge something
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        futures = [pool.submit(sums(400, start)) for start in range(0, 4000, 400)]
        rounds = [future.result(240) for future in futures]
    finally:
        done.set()
        killer.join()
    assert killed >= 1
    assert all(is_right(verdicts) for verdicts in rounds)


def test_a_worker_that_stops_answering_costs_at_most_the_job_under_way():
    before = set(children())
    with Pool(1, item_s=0.4) as pool:
        pool.run(sums(1))
        worker = first_worker(before)
        future = pool.submit(sums(5000))
        time.sleep(0.05)
        os.kill(worker, signal.SIGSTOP)
        verdicts = future.result(60)
        lost = [i for i, verdict in enumerate(verdicts) if verdict.verdict == "timeout"]
        assert len(lost) <= 1
        kept = [verdict for i, verdict in enumerate(verdicts) if i not in lost]
        assert [v.reward for v in kept] == [1.0 - i % 2 for i in range(5000) if i not in lost]
        assert is_right(pool.run(sums(20)))


@pytest.mark.parametrize("end", ["time.sleep(60)", "os._exit(1)", "os.kill(os.getpid(), signal.SIGPROF)"])
def test_a_worker_that_ends_after_its_last_verdict_costs_nothing(monkeypatch, end):
    judge = "for job in json.loads(sys.stdin.readline()): print(json.dumps([1.0, 'correct', 'test']), flush=True)"
    monkeypatch.setattr(isolate, "_BOOT", f"import json, os, signal, sys, time\n{judge}\n{end}")
    with Pool(1, item_s=0.1) as pool:
        for _ in range(3):  # each by a worker of its own
            assert [v.verdict for v in pool.submit(sums(3)).result(60)] == ["correct"] * 3


def test_past_the_deadline_of_a_batch_what_is_open_is_a_timeout(pool):
    verdicts = pool.run(sums(300), deadline=0.0)
    assert {v.verdict for v in verdicts} <= {"timeout", "correct", "wrong"}
    assert any(v.verdict == "timeout" for v in verdicts)
    assert is_right(pool.run(sums(4)))


def test_it_works_from_many_threads_and_from_an_event_loop(pool):
    with ThreadPoolExecutor(8) as threads:
        starts = list(range(0, 800, 100))
        results = threads.map(lambda start: pool.run(sums(100, start)), starts)
        assert all(is_right(verdicts) for verdicts in results)

    async def main():
        return await asyncio.gather(*(asyncio.wrap_future(pool.submit(sums(10))) for _ in range(5)))

    assert all(is_right(verdicts) for verdicts in asyncio.run(main()))


def test_workers_are_replaced_after_their_share_of_jobs(monkeypatch):
    monkeypatch.setattr(isolate, "MOST_JOBS", 10)
    with Pool(1) as pool:
        before = set(children())
        pool.run(sums(1))
        first = set(children()) - before
        for start in range(1, 100, 10):
            assert is_right(pool.run(sums(10, start)), start)
        assert not first & set(children())


def test_close_ends_the_workers_and_a_closed_pool_says_so():
    before = set(children())
    pool = Pool(2)
    assert is_right(pool.run(sums(8)))
    pool.close()
    pool.close()
    assert set(children()) <= before
    with pytest.raises(ValueError, match="closed"):
        pool.submit(sums(1))


def test_no_worker_outlives_a_parent_that_is_killed():
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from r1jax.rewards.isolate import Pool\n"
        "pool = Pool(2); pool.run([('countdown', '1', {'numbers': [1], 'target': 1})] * 9)\n"
        "print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, ROOT], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"up\n"
    workers = children(parent.pid)
    assert workers
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and any(alive(pid) for pid in workers):
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def address_space(proc):
    (line,) = (line for line in (proc / "limits").read_text().splitlines() if "Max address space" in line)
    return line


def test_a_worker_sees_no_accelerator_has_limits_and_imports_no_jax():
    before = set(children())
    with Pool(1) as pool:
        pool.run(sums(1))
        workers = [Path(f"/proc/{pid}") for pid in set(children()) - before]  # the one that served, and its spare
        until = time.monotonic() + 60
        while not all(f" {1500 << 20} " in address_space(worker) for worker in workers):  # the soft limit
            assert time.monotonic() < until, [address_space(worker) for worker in workers]
            time.sleep(0.05)  # a spare that has just begun
        for worker in workers:
            environ = (worker / "environ").read_text().split("\0")
            assert "CUDA_VISIBLE_DEVICES=" in environ
            assert not any(variable.startswith("PYTHON") for variable in environ)
    assert workers
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "import r1jax.rewards, r1jax.rewards.isolate, r1jax.rewards._worker\n"
        "print(json.dumps(sorted(m for m in sys.modules if m in ('jax', 'sympy', 'numpy'))))"
    )
    shown = subprocess.run([sys.executable, "-c", program, ROOT], capture_output=True, check=True)
    assert json.loads(shown.stdout) == []


@pytest.mark.skipif(sandbox.probe().letter > code.MINIMUM, reason=f"no sandbox here: {sandbox.probe()}")
def test_the_memory_limit_of_a_worker_does_not_bind_the_sandboxes_it_starts():
    # 2 GiB: more than a worker may map, less than four times the memory of this task, which is the limit inside
    room = "import mmap; print(len(mmap.mmap(-1, 2 << 30)) >> 30)"
    task = {"tests": [["", "2"]], "limits": {"memory_mb": 1024, "wall_s": 60}}
    with Pool(1) as pool:
        assert [v.reward for v in pool.run([("code", f"```python\n{room}\n```", task)])] == [1.0]
