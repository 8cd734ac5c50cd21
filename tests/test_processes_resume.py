"""A run goes on with another number of processes: one, two, four, one, after its end and in the middle of a round."""

import signal

import pytest

from r1jax.runs import checkpoint, manifests
from support.compare import arrays, assert_close
from support.two_processes import free_port
from support.walk import Walk, count, ended, lines, spawn, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.weekly]
KEPT = dict(log_samples=8, batch_rows=4, eval_every=1, save_every=100)
REWARD = dict(
    kind="helpful",
    epochs=1,
    items=160,
    held_out_items=24,
    batch_items=16,
    batch_rows=8,
    save_every=100,
    warmup_steps=0,
    learning_rate=3e-3,
)


def start_all(module: str, flags: dict, processes: int) -> list:
    """Starts a command in so many processes of one CPU device."""
    cluster = {"coordinator": f"127.0.0.1:{free_port()}", "processes": processes} if processes > 1 else {}

    def arguments(process: int) -> list[str]:
        every = flags | cluster | ({"process_id": process} if cluster else {})
        return [f"--{name.replace('_', '-')}={value}" for name, value in every.items()]

    return [spawn(module, arguments(process), devices=1) for process in range(processes)]


def run(module: str, flags: dict, processes: int, stop_after: int = 0) -> None:
    """Runs a command. `stop_after`: sends SIGTERM to the last process, once the log has so many steps."""
    every = start_all(module, flags, processes)
    try:
        if stop_after:
            wait_until(lambda: count(flags["workdir"], "metrics") >= stop_after, every[0])
            every[-1].send_signal(signal.SIGTERM)
        for status, _, err in [ended(process, 580) for process in every]:
            assert status == (75 if stop_after else 0), err[-3000:]
    finally:
        for process in every:
            process.kill()


@pytest.mark.parametrize("changed", [{}, {"lora_rank": 2, "learning_rate": 1e-3}], ids=["full", "lora"])
def test_reinforcement_learning_goes_on_with_other_numbers_of_processes(walk: Walk, tmp_path, changed):
    workdir = tmp_path / "run"

    def flags(steps: int, mesh: str) -> dict:
        command = walk.command(workdir, **KEPT, **changed, steps=steps, mesh=mesh, resume=True)
        return dict(word.removeprefix("--").split("=", 1) for word in command) | {"workdir": workdir}

    run("experiments.r1_zero", flags(2, "1x1"), 1)
    run("experiments.r1_zero", flags(2000, "2x1"), 2, stop_after=4)  # in the middle of a round
    reached = checkpoint.latest(workdir / "checkpoints")
    assert 4 <= reached < 2000 and manifests.read(workdir).status != "complete"
    run("experiments.r1_zero", flags(reached + 1, "2x2"), 4)
    run("experiments.r1_zero", flags(reached + 2, "1x1"), 1)
    whole = walk.here(tmp_path / "whole", **KEPT, **changed, steps=reached + 2)
    texts = [[line["completion"] for line in lines(run_, "samples")] for run_ in (workdir, whole)]
    assert texts[0] == texts[1]
    assert_close(whole, workdir)


def test_a_reward_model_goes_on_with_other_numbers_of_processes(walk: Walk, tmp_path):
    module, flags = "experiments.train_reward_model", REWARD | {"weights": walk.base}
    workdir = tmp_path / "run"
    for processes, mesh, stop_after in ((1, "1x1", 2), (2, "2x1", 5), (4, "2x2", 0), (1, "1x1", 0)):
        run(module, flags | {"workdir": workdir, "mesh": mesh, "resume": True}, processes, stop_after)
    run(module, flags | {"workdir": tmp_path / "whole", "mesh": "1x1"}, 1)
    mine, whole = (lines(home, "metrics") for home in (workdir, tmp_path / "whole"))
    assert [line["step"] for line in mine] == list(range(1, 11))
    assert [line["loss"] for line in mine] == pytest.approx([line["loss"] for line in whole], abs=1e-5)
    first, second = arrays(tmp_path / "whole"), arrays(workdir)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert abs(array - second[name]).max() < 1e-4, name
    scores = [manifests.read(home).results["final"]["accuracy"] for home in (workdir, tmp_path / "whole")]
    assert scores[0] == scores[1]
