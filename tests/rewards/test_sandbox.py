"""The sandbox: what a program cannot see, reach, use up or leave behind, at each tier this machine can run."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from r1jax.rewards import proof, sandbox
from r1jax.rewards.sandbox import Tier, _box
from r1jax.rewards.sandbox._box import Unavailable
from r1jax.rewards.sandbox._watch import Limits

ROOT = str(Path(__file__).parents[2])
LIMITS = Limits(time_s=2, wall_s=20, memory_mb=256, output_bytes=1 << 16, processes=16, file_mb=4)


@pytest.fixture(scope="module", params=["A", "B", "C"])
def tier(request):
    problem = sandbox._try(request.param)
    if problem:
        pytest.skip(f"tier {request.param} does not work here: {problem}")
    return Tier(request.param, "")


def says(tier, source, stdin=b"", limits=LIMITS):
    """What a program prints, or the limit it met."""
    outcome = sandbox.run({"kind": "program", "source": source}, limits, tier=tier, stdin=stdin)
    return outcome.stdout.decode() if outcome.status == "exited" else outcome.status


def test_a_program_gets_its_input_and_its_output_comes_back(tier):
    assert says(tier, "print(sum(map(int, input().split())))", b"20 22\n") == "42\n"


def test_the_exit_status_comes_back_as_a_shell_would_say_it(tier):
    status = {}
    for source in ("import sys; sys.exit(3)", "1/0", "import os; os.kill(os.getpid(), 9)"):
        status[source] = sandbox.run({"kind": "program", "source": source}, LIMITS, tier=tier).code
    assert list(status.values()) == [3, 1, 128 + 9]


def test_a_program_is_no_root_and_cannot_become_it(tier):
    assert says(tier, "import os; print(os.getuid() != 0 != os.getgid())") == "True\n"
    assert says(tier, "import os\ntry: os.setuid(0)\nexcept OSError: print('no')") == "no\n"


def test_secrets_of_the_environment_stay_outside(tier, monkeypatch):
    monkeypatch.setenv("R1JAX_SECRET", "s3cr3t")
    look = "import os; print(dict(os.environ)); print([open(f'/proc/{p}/environ').read() for p in ('self', 1) if r(p)])"
    readable = (
        "import os\ndef r(p):\n    try: return bool(open(f'/proc/{p}/environ'))\n    except OSError: return False\n"
    )
    assert "s3cr3t" not in says(tier, readable + look)


def test_files_of_the_host_can_be_neither_read_nor_made(tier, tmp_path):
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    secret = tmp_path / "expected.txt"
    secret.write_text("hidden")
    secret.chmod(0o644)
    assert "hidden" not in says(tier, f"try: print(open({str(secret)!r}).read())\nexcept OSError: print('no')")
    assert says(tier, f"try: open({str(tmp_path / 'made')!r}, 'w')\nexcept OSError: print('no')") == "no\n"
    assert not (tmp_path / "made").exists()
    assert says(tier, "import os\ntry: os.unlink('/usr/bin/env')\nexcept OSError: print('no')") == "no\n"


def test_a_path_of_the_host_that_lies_in_tmp_can_be_shown_and_not_changed(tier):
    """An environment may lie there, and programs import its packages."""
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        home.chmod(0o755)
        (home / "module.py").write_text("answer = 42")
        (home / "module.py").chmod(0o644)
        source = (
            f"import sys; sys.path.append({str(home)!r}); import module; print(module.answer)\n"
            f"try: open({str(home / 'made')!r}, 'w')\nexcept OSError: print('no')"
        )
        job = {"kind": "program", "source": source}
        assert sandbox.run(job, LIMITS, tier=tier, show=(str(home),)).stdout == b"42\nno\n"
        assert [path.name for path in home.iterdir()] == ["module.py"]
    finally:
        shutil.rmtree(home)


def test_there_is_no_network(tier):
    connect = "import socket\ntry: socket.create_connection(('127.0.0.1', 22), 1)\nexcept PermissionError: print('no')"
    assert says(tier, connect) == "no\n"


def test_no_process_of_the_host_can_be_signalled(tier):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        kill = "import os\nfor pid in (%d, %d):\n    try: os.kill(pid, 9)\n    except OSError: pass\nprint('done')"
        assert says(tier, kill % (victim.pid, os.getpid())) == "done\n"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_two_runs_do_not_meet(tier):
    first = "try: open('/tmp/note', 'w').write('7')\nexcept OSError: pass\nprint(1)"
    assert says(tier, first) == "1\n"
    assert says(tier, "import os; print(os.path.exists('/tmp/note'))") == "False\n"


def test_a_run_ends_with_its_main_process_though_an_orphan_holds_the_pipe(tier):
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
        "print('main', flush=True)\nos._exit(0)"
    )
    begun = time.monotonic()
    assert says(tier, source, limits=LIMITS._replace(wall_s=60)) == "main\n"
    assert time.monotonic() - begun < 30


def test_nothing_a_program_started_outlives_it(tier):
    mark = f"r1jax-survivor-{os.getpid()}-{tier.letter}"
    source = (
        f"import os\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/bin/sleep', ['{mark}', '600'])\nprint('main')"
    )
    assert says(tier, source) == "main\n"

    def alive():
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                found.append(mark.encode() in Path("/proc", pid, "cmdline").read_bytes())
            except OSError:
                continue
        return any(found)

    patience = time.monotonic() + 10
    while alive() and time.monotonic() < patience:
        time.sleep(0.1)
    assert not alive()


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(600)", "wall"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "wall"),
        ("x = bytearray(400 << 20)\nimport time; time.sleep(600)", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    ],
)
def test_each_limit_ends_a_run_and_is_named(tier, source, limit):
    assert says(tier, source, limits=LIMITS._replace(time_s=1, wall_s=1.5 if limit == "wall" else 60)) == limit


def test_memory_is_limited_as_a_sum_over_processes(tier):
    # Each child stays below the limit of 256 MiB; six of them hold 6 x 100 MiB.
    source = (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(100 << 20)\n"
        "        time.sleep(600)\nos.wait()"
    )
    assert says(tier, source, limits=LIMITS._replace(time_s=30, wall_s=60)) == "memory"


def test_a_flood_of_processes_is_held_back(tier):
    source = (
        "import os\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0:\n"
        "            os.read(0, 1)\n            os._exit(0)\n        n += 1\n"
    )
    source += "except OSError: pass\nprint(n < 40, flush=True)\nos._exit(0)"
    assert says(tier, source, stdin=b"", limits=LIMITS._replace(memory_mb=4096)) in ("True\n", "processes")


def test_files_are_limited_in_size(tier):
    source = (
        "try:\n    with open('/tmp/big', 'wb') as f:\n"
        "        for _ in range(64): f.write(bytes(1 << 20))\n    print('written')\n"
        "except OSError: print('no')"
    )
    assert says(tier, "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + source) == "no\n"


def test_a_call_answers_in_exact_types_only(tier):
    source = "class I(int): pass\ndef f(x): return [I(1), (1, 2.5, None), {2: True}, float('nan'), {1}, 'é\\n'][x]"
    job = {"kind": "calls", "source": source, "entry": "f", "inputs": [[n] for n in range(6)], "may_die": 1}
    lines = sandbox.run(job, LIMITS, tier=tier, by_line=True).stdout.split(b"\n")
    # A tuple is what JSON calls a list, and an int key its text; a subclass, a set and NaN have no form.
    assert lines == [
        b"!the value contains an object of type I",
        b"=[1,2.5,null]",
        b'={"2":true}',
        b"!the value contains nan",
        b"!the value contains an object of type set",
        b'="\\u00e9\\n"',
        b"",
    ]


def test_a_command_gets_files_and_gives_files_back(tier):
    job = {
        "kind": "command",
        "argv": ["/bin/sh", "-c", "tr a b < in > out; echo $NAME; ln -s /etc/passwd link"],
        "env": {"NAME": "set"},
        "files": {"in": b"aaa"},
        "fetch": ["out", "link", "none"],
    }
    outcome = sandbox.run(job, LIMITS, tier=tier)
    if tier.letter == "C":  # there nothing may write; proofs need tier B and say so
        assert outcome.code != 0 and outcome.files == [None, None, None]
        assert proof.MINIMUM == "B"
    else:
        assert (outcome.stdout, outcome.files) == (b"set\n", [b"bbb", None, None])


# What shows, without code of ours, that a tier can run: then none of its tests may be skipped.
EVIDENCE = {
    "A": ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/sh", "-c", ":"],
    "B": ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--net", "/bin/sh", "-c", ":"],
}


@pytest.mark.parametrize("letter", EVIDENCE)
def test_a_tier_that_this_machine_can_run_is_found_to_work(letter):
    if not shutil.which(EVIDENCE[letter][0]):
        pytest.skip(f"no {EVIDENCE[letter][0]} here")
    ran = subprocess.run(EVIDENCE[letter], capture_output=True, text=True)
    if ran.returncode:
        pytest.skip(f"this machine forbids it: {ran.stderr.strip()}")
    problem = sandbox._try(letter)
    if problem and "cannot read the interpreter" in problem:  # one installed for root alone
        assert not _box.open_to_all(_box.interpreter(letter))
    else:
        assert problem is None


def test_sandboxes_in_reserve_end_with_their_thread(tier):
    kept = []

    def work():
        says(tier, "print(1)")
        kept.extend(box.process for boxes in _box._reserve.boxes.values() for box in boxes)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert kept
    for process in kept:
        process.wait(30)


def python(source, **environment):
    """The output of a Python process of ours that starts in `source`."""
    run = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_without_bubblewrap_a_lesser_tier_is_taken_and_says_why():
    said = python("from r1jax.rewards import sandbox; print(*sandbox.probe(), sep='\\n')", PATH="/nowhere")
    letter, _, better = said.strip().split("\n")
    assert letter in "BCD"
    assert "bubblewrap is not installed" in better


# As in a container under Docker's default profile: unshare, mount and their like are forbidden for good.
NO_NAMESPACES = """
from r1jax.rewards.sandbox import _filter
_filter.DENIED = tuple(row for row in _filter.DENIED if row[0] in ("unshare", "setns", "mount", "pivot_root"))
if not _filter.deny(False): print("no seccomp"), exit()
from r1jax.rewards import sandbox, code, proof
"""


def test_without_namespaces_root_falls_to_tier_c_and_others_get_a_clear_refusal():
    grade = (
        "task = {'entry': 'f', 'tests': [[[1, 2], 3]]}\n"
        "print(sandbox.probe().letter, code.grade('def f(a, b): return a + b', task)[:3])"
    )
    said = python(NO_NAMESPACES + grade).strip()
    if said == "no seccomp":
        pytest.skip("this kernel has no seccomp filters")
    if os.getuid() == 0 and said.startswith("C"):
        assert said == "C (1.0, 'correct', 'tests')"
    else:
        assert said.startswith("D (None, 'sandbox_unavailable', ")
        assert "this machine isolates programs at tier D" in said
        assert "Install bubblewrap, or allow user namespaces" in said


def test_below_the_minimum_nothing_runs(tmp_path):
    lower = "code.grade('print(1)', {'tests': [['', '1']]}, minimum='A')"
    said = python(NO_NAMESPACES + f"print({lower}[:3])").strip()
    if said == "no seccomp":
        pytest.skip("this kernel has no seccomp filters")
    assert said.startswith("(None, 'sandbox_unavailable'")
    assert "the minimum is A" in said


def test_an_unknown_tier_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="minimum='E' must be one of A, B, C, D"):
        sandbox.require("E")


@pytest.mark.parametrize(
    "limits", [{"time": 1}, {"time_s": 0}, {"memory_mb": "1"}, {"wall_s": True}, {"file_mb": float("nan")}]
)
def test_limits_that_make_no_sense_are_named(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits.of(limits)


def test_a_sandbox_that_does_not_start_says_why(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:  # not pytest's: its parents let only their owner in
        Path(folder).chmod(0o755)
        broken = Path(folder) / "bwrap"
        broken.write_text("#!/bin/sh\necho 'bwrap: cannot do it here' >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", folder)
        with pytest.raises(Unavailable, match="cannot do it here"):
            sandbox.run({"kind": "program", "source": ""}, LIMITS._replace(file_mb=5), tier=Tier("A", ""))
