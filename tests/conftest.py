"""What all tests share: eight CPU devices, checked shapes, and a model small enough to compile in seconds."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# All processes of a session share their compiled programs: the two that run tests and those that tests start. JAX reads
# the environment when it is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="r1jax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest
from jaxtyping import install_import_hook

# Before anything touches a device.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # as in `distributed.share_cpu`
jax.config.update("jax_numpy_rank_promotion", "raise")
# The modules whose signatures carry shapes. Elsewhere the checks would cost minutes and check nothing about arrays.
ROOT = Path(__file__).parents[1]
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "r1jax").rglob("*.py"))
    if "\nfrom jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(SHAPED, "beartype.beartype")

# A compiled program has three maps or more, of the 65,530 that Linux grants a process.
MAPS = Path("/proc/self/maps")
after_clearing = [0]


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Drops compiled programs at the end of a file of tests that left some 500 of them.

    JAX keeps each with its MLIR context. Beside 1,000 of them the next program takes five times as long to lower.
    """
    yield
    if MAPS.exists() and MAPS.read_text().count("\n") > after_clearing[0] + 1500:
        jax.clear_caches()
        after_clearing[0] = MAPS.read_text().count("\n")


@pytest.fixture(scope="session")
def tokenizer():
    from r1jax.tokenizers.bytes import Bytes

    return Bytes()


@pytest.fixture(scope="session")
def cfg(tokenizer):
    """Two layers in Qwen3's shape, over bytes."""
    from r1jax.model.config import ModelConfig

    return ModelConfig(
        vocab_size=tokenizer.vocab_size + 1,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_width=8,
        mlp_width=64,
        rope_theta=1e4,
        qk_norm=True,
    )


@pytest.fixture(scope="session")
def params(cfg):
    """Random, but sure of itself: fresh weights give flat logits, on which no temperature shows."""
    from support.tiny import sharp

    return sharp(cfg, seed=0)


@pytest.fixture(scope="session")
def one():
    """The mesh 1x1."""
    from r1jax.sharding import make_mesh

    return make_mesh("1x1")


@pytest.fixture(scope="session")
def eight():
    """The mesh 4x2 on eight devices."""
    from r1jax.sharding import make_mesh

    return make_mesh("4x2")


@pytest.fixture(scope="session")
def rolled(cfg, params, one):
    """A rollout of four prompts, four completions each, at temperature 0.7."""
    from r1jax.sampling.sampler import sync
    from support.tiny import draw, keys, prompts

    return draw(cfg, sync(params, one), one, prompts(), keys(4))


@pytest.fixture(scope="session")
def walk(tmp_path_factory):
    """The R1-Zero command on a base of two layers."""
    from support.walk import Walk

    return Walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="session")
def zero(walk, tmp_path_factory):
    """A run whose policy is sure of itself: see `support.tuning.sure`."""
    from support.tuning import sure

    return sure(walk.base, tmp_path_factory.mktemp("zero"))
