"""Jobs for two real processes on localhost, two CPU devices each.

`start(job)` launches them from a test; this file, run as a script, is one of them. It prints one
line of JSON.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = "result: "  # Gloo, too, writes on stdout
CLUSTER_VARIABLES = ("SLURM_", "OMPI_", "JAX_", "XLA_", "KUBERNETES_")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def spawn(job: str, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen:
    """One process of a job, without what the surrounding environment knows of clusters."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)}
    clean |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    } | dict(env or {})
    command = [sys.executable, __file__, job, *arguments]
    return subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(job: str, *arguments: str) -> list[subprocess.Popen]:
    """Both processes of a job, joined by flags."""
    where = f"127.0.0.1:{free_port()}"
    return [spawn(job, *arguments, env={"FLAGS": json.dumps([where, 2, i])}) for i in range(2)]


def results(processes: list[subprocess.Popen], timeout: float = 300) -> list:
    """What each process returned."""
    answers = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for p in processes:
                p.kill()
            raise
        assert process.returncode == 0, err[-4000:]
        (line,) = (line for line in out.splitlines() if line.startswith(RESULT))
        answers.append(json.loads(line.removeprefix(RESULT)))
    return answers


def wait_for(process: subprocess.Popen, line: str) -> None:
    """Reads until the process prints the line; Gloo prints some of its own."""
    while (read := process.stdout.readline()) != line + "\n":
        assert read, process.stderr.read()[-4000:]


def joined() -> dict:
    import jax

    return {
        "processes": jax.process_count(),
        "process": jax.process_index(),
        "devices": jax.device_count(),
    }


def rows() -> dict:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax import distributed
    from r1jax.model.cache import empty_cache
    from r1jax.sharding import held_rows, held_shards, make_mesh, place, shard_held_rows
    from support.tiny import CONFIG

    mesh = make_mesh("4x1")
    mine = np.arange(4, dtype=np.float32) + 4 * jax.process_index()  # the rows 0..3 or 4..7
    everyone = shard_held_rows(mine, mesh)
    tensor_mesh = make_mesh("1x4")
    params = place({"embed": {"embedding": np.arange(32.0).reshape(8, 4)}}, make_mesh("2x2"))
    try:
        make_mesh("2x1")
        refused = ""
    except ValueError as err:
        refused = str(err)
    return {
        "main": distributed.is_main(),
        "total": float(jax.jit(jnp.sum)(everyone)),
        "mine": held_rows(everyone).tolist(),
        "shards": [held_shards(mesh), held_shards(tensor_mesh)],
        "cache": empty_cache(CONFIG, 8, 3, mesh, jnp.float32)[0].shape,
        "params": float(jax.jit(jnp.sum)(params["embed"]["embedding"])),
        "refused": refused,
    }


def workdir(path: str) -> dict:
    """Process 0 writes as soon as it may; process 1 comes late to look."""
    import jax

    from r1jax.runs.manifests import Manifest, check_resume, write

    if jax.process_index() == 1:
        time.sleep(1)
    before = check_resume(path, {"steps": 1}, False, set())
    if jax.process_index() == 0:
        write(path, Manifest("test", {"steps": 1}, seed=0, versions={}))
    return {"fresh": before is None}


def stop() -> dict:
    """Rounds until somebody is told to stop; process 1 says when it is listening."""
    import jax
    from jax.experimental import multihost_utils

    from r1jax import distributed

    with distributed.stop_requests() as stopping:
        for round_ in range(10_000):
            multihost_utils.sync_global_devices("round")
            if round_ == 3 and jax.process_index() == 1:
                print("listening", flush=True)
            if stopping():
                return {"round": round_}
            time.sleep(0.01)
    return {"round": None}


def stop_alone() -> dict:
    from r1jax import distributed

    with distributed.stop_requests() as stopping:
        print("listening", flush=True)
        for round_ in range(10_000):
            if stopping():
                return {"round": round_}
            time.sleep(0.01)
    return {"round": None}


def touched_first() -> dict:
    """A notebook that used JAX before."""
    import jax

    jax.devices()
    from r1jax import distributed

    distributed.start()
    distributed.start()
    return joined()


def save(directory: str) -> dict:
    import jax
    import numpy as np

    from r1jax.runs import checkpoint
    from r1jax.runs.saver import Saver
    from r1jax.sharding import abstract, make_mesh, place

    tree = {"embed": {"embedding": np.arange(64.0, dtype=np.float32).reshape(8, 8)}}
    state = {"params": place(tree, make_mesh("2x2"))}
    with Saver(directory, keep=1) as saver:
        saver.save(1, state)
        saver.save(2, state, {"round": 1})
        saver.wait()
        newest = checkpoint.latest(directory)
    back = checkpoint.restore(directory, abstract(state, make_mesh("4x1")))
    shards = back["params"]["embed"]["embedding"].addressable_shards
    same = [bool((shard.data == tree["embed"]["embedding"][shard.index]).all()) for shard in shards]
    return {
        "newest": newest,
        "same": all(same) and len(same) == 2,
        "sha256": checkpoint.sha256(directory),
        "meta": checkpoint.read_meta(directory),
        "main": jax.process_index() == 0,
    }


def sampled(directory: str) -> dict:
    """Three problems for two processes, so that the last has one to draw in vain."""
    from pathlib import Path

    import jax
    import numpy as np

    from r1jax.model import transformer
    from r1jax.model.config import ModelConfig
    from r1jax.policy import Policy
    from r1jax.recipes import SamplingOptions
    from r1jax.sft_data.batch_sampling import Output, sample_in_waves
    from r1jax.sharding import make_mesh, place
    from r1jax.tokenizers.bytes import Bytes

    mesh, pieces = make_mesh("4x1"), Bytes()
    cfg = ModelConfig(
        vocab_size=pieces.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_width=8, mlp_width=16, qk_norm=True
    )
    params = place(jax.tree.map(np.asarray, transformer.init(cfg, jax.random.key(0))), mesh)
    examples = [{"id": str(i), "problem": f"{i}+{i}?", "kind": "math", "gold": str(2 * i)} for i in range(3)]

    def lines(wave):
        return [{"id": e["id"], "sample": k, "text": t} for e, k, t in zip(*wave[:3], strict=True)]

    output = Output(Path(directory) / "a.jsonl", lines, settings={})
    sampling = SamplingOptions(samples=2, max_tokens=4, wave_rows=2)
    policy = Policy(cfg, pieces, "{question}")
    whole, again = (sample_in_waves(policy, params, examples, mesh, sampling, output, seed=1) for _ in range(2))
    return {"lines": whole, "same": whole == again}


def stored() -> dict:
    """Messages of all lengths over a store; a process that ends waits for nobody."""
    import threading
    from concurrent.futures import CancelledError

    import jax
    import numpy as np
    from jax._src import distributed as jax_distributed

    from r1jax import distributed
    from r1jax.distributed.exchange import exchange_over
    from r1jax.distributed.store import PIECE, SHORT, Store

    me, ended = jax.process_index(), threading.Event()
    lengths = [(0, 3), (SHORT, SHORT + 1), (2 * PIECE + 5, 0), (PIECE, PIECE)]
    with exchange_over(Store("test", ended)):
        found = [[len(part) for part in distributed.gather_bytes(bytes([me]) * both[me])] for both in lengths]
        values = distributed.gather_bytes(bytes([me]) * lengths[2][me])[0]
        numbers = distributed.gather_numbers([me, 7]).tolist()
        rows = distributed.gather_rows({"x": np.asarray([me + 0.5])}, np.asarray([1 - me]), 2)["x"].tolist()
        distributed.wait_for_all("all have read")
    left = [key for key, _ in jax_distributed.global_state.client.key_value_dir_get_bytes("r1jax/exchange/test")]
    distributed.wait_for_all("all have looked")
    alone = ""
    if me:
        ended.set()
        with exchange_over(Store("alone", ended)):
            try:
                distributed.wait_for_all("nobody comes")
            except CancelledError as error:
                alone = str(error)
    return {
        "right": found == [list(both) for both in lengths] and values == bytes(lengths[2][0]),
        "numbers": numbers,
        "rows": rows,
        "left": max(int(key.split("/")[3]) for key in left) - min(int(key.split("/")[3]) for key in left),
        "alone": alone,
    }


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    if job not in ("touched_first",):
        from r1jax import distributed

        distributed.start(*json.loads(os.environ.get("FLAGS", "[null, null, null]")))
        distributed.start()  # a second call changes nothing
    print(RESULT + json.dumps(globals()[job](*arguments)), flush=True)
