"""The command in several processes, against one process with as many devices: what is equal, and what is never lost."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from r1jax import jsonl
from r1jax.tokenizers.load import load_tokenizer
from support.compare import assert_close
from support.two_processes import free_port
from support.walk import Walk, count, ended, lines, outcome, wait_until

FLAGS = {"steps": 2, "log_samples": 8, "batch_rows": 4}
AHEAD = {"ahead": 1, "tis_cap": 2.0, "steps": 4, "save_every": 1}


def assert_equal(one: Path, many: Path, bound: float) -> None:
    """The same texts, keys, rewards and lengths; parameters that differ by rounding at most; each row logged once."""
    first, second = lines(one, "samples"), lines(many, "samples")
    assert [line["key"] for line in first] == [line["key"] for line in second]
    for a, b in zip(first, second, strict=True):
        assert a | {"advantage": 0} == b | {"advantage": 0}
        assert a["advantage"] == pytest.approx(b["advantage"], abs=1e-5)
    assert_close(one, many, bound)


def compare(
    walk: Walk, home: Path, mesh: str, processes: int, devices: int, bound: float = 1e-5, **changed: object
) -> None:
    flags = FLAGS | {"mesh": mesh} | changed
    status, _, err = ended(walk.spawn(home / "one", devices=processes * devices, **flags))
    assert status == 0, err[-3000:]
    assert_equal(home / "one", walk.together(home / "many", processes, devices, **flags), bound)


@pytest.mark.slow
def test_a_tensor_axis_may_span_processes_and_process_0_writes_the_files(walk, tmp_path):
    flags = FLAGS | {"mesh": "1x4"}
    status, _, err = ended(walk.spawn(tmp_path / "one", devices=4, **flags))
    assert status == 0, err[-3000:]
    workdir, where = tmp_path / "many", f"127.0.0.1:{free_port()}"
    pair = [walk.spawn(workdir, devices=2, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)]
    try:
        wait_until(lambda: count(workdir, "metrics") > 0, pair[0])
        open_files = [{os.path.basename(os.readlink(link)) for link in links(process.pid)} for process in pair]
        results = [ended(process) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for status, _, err in results:
        assert status == 0, err[-3000:]
    logs = {"metrics.jsonl", "eval.jsonl", "samples.jsonl"}
    assert logs <= open_files[0] and not logs & open_files[1]
    assert_equal(tmp_path / "one", workdir, bound=1e-5)


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.parametrize(
    "mesh, processes, devices, changed",
    [
        ("2x2", 2, 2, {}),
        ("4x1", 2, 2, {}),
        ("data:2,tensor:2", 2, 2, {}),
        ("2x4", 4, 2, {}),
        ("1x8", 4, 2, {}),
        ("2x8", 4, 4, {}),
        ("3x1", 3, 1, {"questions_per_round": 5, "batch_rows": 3}),
        ("2x3", 3, 2, {"questions_per_round": 4}),  # process 1 holds parts of both row shards
        ("5x1", 5, 1, {"questions_per_round": 3, "batch_rows": 5}),
        ("4x1", 4, 1, {"questions_per_round": 7}),  # groups that lie on two processes
        ("2x2", 2, 2, {"minibatches": 2, "kl_coef": 0.0, "lora_rank": 2}),
        ("2x2", 2, 2, {"carry_over": 1}),
        ("2x2", 2, 2, {"wave_rows": 4, "questions_per_round": 4}),  # half as many waves as in one process
        ("2x1", 2, 2, {"rollout_mesh": "2x1", **AHEAD}),
        ("2x1", 2, 2, {"rollout_mesh": "1x2", "lora_rank": 2, **AHEAD}),  # the tensor axis of rollouts spans processes
    ],
)
def test_several_processes_give_the_run_of_one(walk, tmp_path, mesh, processes, devices, changed):
    compare(walk, tmp_path, mesh, processes, devices, **changed)


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.parametrize("replay", [False, True])
def test_expert_and_tensor_axes_may_span_processes(walk, tmp_path, replay):
    """A tiny DeepSeek-V3 on fsdp:2,expert:2,tensor:2 in four processes, with and without routes to replay."""
    families = pytest.importorskip("support.families")
    base = tmp_path / "deepseek"
    made = families.config("deepseek v3")
    made.update({"vocab_size": load_tokenizer(walk.base).vocab_size, "max_position_embeddings": 512})
    families.randomise(families.transformers.DeepseekV3ForCausalLM(made).float()).save_pretrained(base)
    shutil.copy(walk.base / "tokenizer.model", base)
    reward = tmp_path / "mine.py"
    reward.write_text("def vary(texts, examples):\n    return [len(text) % 5 / 4 for text in texts]\n")
    changed = {"weights": base, "reward": f"{reward}:vary", "replay_routes": replay}
    # Two steps of Adam move an element by 6e-5 at most; one whose gradient is rounding may differ by a part of it.
    compare(walk, tmp_path, "fsdp:2,expert:2,tensor:2", 4, 2, bound=2e-5, **changed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.weekly), 1])
def test_a_process_that_dies_ends_the_other_which_says_so(walk, tmp_path, victim):
    workdir, where = tmp_path / "run", f"127.0.0.1:{free_port()}"
    flags = FLAGS | {"mesh": "4x1", "steps": 1000, "save_every": 1}
    pair = [walk.spawn(workdir, devices=2, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)]
    try:
        wait_until(lambda: count(workdir, "metrics") > 0, pair[0])
        killed = time.monotonic()
        pair[victim].kill()
        status, _, err = ended(pair[1 - victim], 120)
    finally:
        for process in pair:
            process.kill()
    assert status == 75 and f"error: process {victim}" in err and "was lost" in err, err[-3000:]
    assert time.monotonic() - killed < 80
    walk.here(workdir, steps=count(workdir, "metrics") + 1, resume=True, log_samples=8, batch_rows=4)


@pytest.mark.weekly
@pytest.mark.slow
def test_a_process_that_hangs_says_where(walk, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text(
        "import time, jax\n\n\ndef wait(texts, examples):\n"
        "    time.sleep(600 * (jax.process_index() == 1))\n    return [0.0] * len(texts)\n"
    )
    flags = FLAGS | {"mesh": "2x1", "watchdog": 0.25, "reward": f"{reward}:wait", "eval_every": 100}
    where = f"127.0.0.1:{free_port()}"
    pair = [
        walk.spawn(tmp_path / "run", devices=1, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)
    ]
    results = [ended(process, 200) for process in pair]
    assert results[1][0] == 70 and "no progress for 0.25 minutes (--watchdog), in the phase:" in results[1][2]
    assert "mine.py" in results[1][2]  # the stack shows the line that waits
    assert results[0][0] == 75 and "process 1 of 2" in results[0][2], results[0][2][-3000:]


@pytest.mark.slow
@pytest.mark.weekly
def test_a_signal_to_one_process_saves_on_all_and_says_start_me_again(walk, tmp_path):
    workdir, where = tmp_path / "run", f"127.0.0.1:{free_port()}"
    flags = FLAGS | {"mesh": "4x1", "steps": 1000, "save_every": 1000, "eval_every": 1000}
    pair = [walk.spawn(workdir, devices=2, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)]
    try:
        wait_until(lambda: count(workdir, "metrics") > 0, pair[0])
        pair[1].send_signal(signal.SIGTERM)
        results = [ended(process, 120) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for status, _, err in results:
        assert status == 75 and "Traceback" not in err, err[-3000:]
    steps = count(workdir, "metrics")
    walk.together(workdir, 2, 2, **flags | {"steps": steps + 1, "resume": True})
    walk.together(tmp_path / "whole", 2, 2, **flags | {"steps": steps + 1})
    assert outcome(workdir, "metrics", "samples") == outcome(tmp_path / "whole", "metrics", "samples")


def test_a_question_that_comes_again_gets_other_noise(walk, tmp_path):
    prompts = tmp_path / "few.jsonl"
    rows = [{"id": f"q{i}", "problem": f"What is {i}+{i}?", "gold": str(2 * i), "kind": "math"} for i in range(3)]
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    flags = dict(prompts=prompts, eval_prompts=prompts, questions_per_round=8, log_samples=32, steps=3, temperature=3.0)
    run = walk.here(tmp_path / "run", **flags)
    samples = jsonl.read(run / "samples.jsonl")
    for step in (1, 2, 3):
        of = [line for line in samples if line["step"] == step]
        assert len(of) == 32 and len({(line["problem"], line["completion"]) for line in of}) >= 30
    assert len({str(line["key"]) for line in samples}) == 96


def links(pid: int) -> list[str]:
    """The open files of a process, as links; one closed meanwhile is left out."""
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")]
