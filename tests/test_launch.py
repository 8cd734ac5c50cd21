"""Joining a run, and leaving it when told to: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys

import pytest

from r1jax import distributed
from support.two_processes import CLUSTER_VARIABLES, free_port, results, spawn, start, wait_for


def test_two_processes_hold_one_mesh_and_each_its_own_rows():
    first, second = results(start("rows"))
    assert (first["main"], second["main"]) == (True, False)
    assert first["mine"] == [0, 1, 2, 3] and second["mine"] == [4, 5, 6, 7]
    assert first["total"] == second["total"] == 28  # 0 + ... + 7
    assert first["params"] == second["params"] == 496  # 0 + ... + 31
    # Rows over 4 shards: 2 each. Over tensor alone there is one shard, and both hold it.
    assert first["shards"] == [[0, 1], [0]] and second["shards"] == [[2, 3], [0]]
    assert first["cache"] == second["cache"] == [8, 2, 8, 3]
    assert first["refused"].startswith(
        "--mesh=2x1 needs 2 devices; the 2 processes hold 4 (cpu), "
        "and each of them must take part. On these 4 use --mesh=4x1"
    )


def test_values_pass_through_the_coordinators_store_which_forgets_them():
    for found in (pair := results(start("stored"))):
        assert found["right"] and found["numbers"] == [[0, 7], [1, 7]] and found["rows"] == [1.5, 0.5]
        assert found["left"] <= 1  # of two calls at most
    assert [bool(found["alone"]) for found in pair] == [False, True]


def test_a_slurm_step_is_joined_without_flags():
    port = free_port()
    slurm = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    pair = [spawn("joined", env={**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]
    assert results(pair) == [{"processes": 2, "process": i, "devices": 4} for i in range(2)]


def test_without_a_cluster_the_process_runs_alone():
    assert results([spawn("joined"), spawn("touched_first")]) == [{"processes": 1, "process": 0, "devices": 2}] * 2


def test_processes_1_runs_alone_even_inside_a_cluster():
    slurm = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "nowhere.invalid",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
    }
    assert results([spawn("joined", env={**slurm, "FLAGS": json.dumps([None, 1, None])})])[0]["processes"] == 1


HELD = """
import jax
import jax.numpy as jnp
from pathlib import Path
from r1jax import distributed
distributed.start()
rows = jax.NamedSharding(jax.make_mesh((16,), ("data",)), jax.P("data"))
megabytes = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
before = megabytes()
for size in (300_000, 600_000, 900_000, 1_500_000, 2_400_000):
    jax.jit(lambda x: jnp.sort(jnp.sort(jnp.tanh(x))))(jax.device_put(jnp.ones((16, size)), rows)).block_until_ready()
print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) >= 16, reason="glibc's; fewer cores than devices")
def test_many_devices_on_few_cores_give_their_memory_back():
    """The last array has 154 MB; without `return_memory` 1,100 MB stay, with it 100."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)}
    env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=16"}
    done = subprocess.run([sys.executable, "-c", HELD], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 500


def test_half_the_flags_are_refused_by_name():
    with pytest.raises(ValueError, match="add --coordinator and --process-id"):
        distributed.start(processes=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_processes_stops_both_in_the_same_round(number):
    pair = start("stop")
    wait_for(pair[1], "listening")
    pair[1].send_signal(number)
    first, second = results(pair)
    assert first == second and first["round"] >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_single_process_leaves_after_its_round(number):
    process = spawn("stop_alone")
    wait_for(process, "listening")
    process.send_signal(number)
    assert results([process])[0]["round"] is not None


def test_a_second_ctrl_c_stops_at_once_and_the_handlers_come_back(capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), distributed.stop_requests() as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping() and stopping()
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert "stopping with a checkpoint" in capfd.readouterr().err
