"""Importing a model of a gigabyte: host memory, and the same weights on another mesh afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from r1jax.model.config import ModelConfig
from r1jax.weights import config_to_hf
from r1jax.weights.names import leaves

ROOT = Path(__file__).resolve().parent.parent
CFG = ModelConfig(
    vocab_size=16_000, width=1024, layers=16, heads=16, kv_heads=16, head_width=64, mlp_width=4096, tie_embeddings=True
)
FILES = 5
SCRIPT = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.numpy.zeros(1).block_until_ready()

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
from pathlib import Path
from r1jax.sharding import make_mesh
from r1jax.weights import from_hf
cfg, params = from_hf(Path(sys.argv[1]), make_mesh("4x2"))
jax.block_until_ready(params)
size = sum(x.nbytes for x in jax.tree.leaves(params))
print("ratio", (peak() - before) / size, size, flush=True)

from r1jax.runs import checkpoint
from r1jax.model.transformer import shapes
from r1jax.runs.saver import Saver
from r1jax.sharding import abstract
from typing import NamedTuple
class State(NamedTuple):
    params: dict
with Saver(Path(sys.argv[2]) / "checkpoints") as saver:
    saver.save(0, State(params), {})
    saver.wait()
other = checkpoint.restore_params(sys.argv[2], abstract(shapes(cfg), make_mesh("2x4")))
kernel = other["layers"][0]["mlp"]["up"]["kernel"]
print("shard", *kernel.addressable_shards[0].data.shape)
pairs = zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True)
print("equal", all(bool((jax.device_get(a) == jax.device_get(b)).all()) for a, b in pairs))
"""


def write(directory: Path) -> int:
    """Random float32 weights in several shards, layer after layer as the hub's files are; their bytes."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 24, np.float32)
    wanted = {name: leaf.theirs(CFG) for leaf in leaves(CFG) for name in leaf.all_keys(CFG)}
    names = sorted(wanted, key=lambda name: int(name.split(".")[2]) if ".layers." in name else -1)
    where, total = {}, 0
    for i, part in enumerate(np.array_split(np.asarray(names), FILES)):
        file = f"model-{i + 1:05}-of-{FILES:05}.safetensors"
        held = {}
        for name in part.tolist():
            size = int(np.prod(wanted[name]))
            start = int(rng.integers(0, len(noise) - size + 1)) if size <= len(noise) else 0
            held[name] = noise[start : start + size].reshape(wanted[name])
            where[name] = file
            total += held[name].nbytes
        save_file(held, directory / file)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where})
    )
    (directory / "config.json").write_text(json.dumps(config_to_hf(CFG, 1, 0, 4096, "float32")))
    return total


@pytest.mark.weekly
@pytest.mark.slow
def test_a_gigabyte_comes_onto_eight_devices_within_one_and_a_half_times_its_size(tmp_path):
    source, run = tmp_path / "hf", tmp_path / "run"
    source.mkdir()
    total = write(source)
    assert total > 10**9
    command = [sys.executable, "-c", SCRIPT, str(source), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    ratio, size = said["ratio"].split()
    assert int(size) == total
    assert float(ratio) < 1.5
    # 16 layers; on 2x4 the width of 1,024 lies over two devices, the 4,096 over four.
    assert said["shard"] == "16 512 1024"
    assert said["equal"] == "True"
