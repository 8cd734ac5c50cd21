import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "r1jax/__init__.py").read_text(), re.MULTILINE)[1]

HF = ["tokenizers>=0.20", "safetensors>=0.4", "huggingface_hub>=0.30", "jinja2>=3.1", "pyarrow>=15"]
NOTEBOOKS = ["matplotlib>=3.8", "ipykernel>=6", "nbclient>=0.10"]
TEST = [
    "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.7", "hypothesis>=6.100", "beartype>=0.20",
    "safetensors>=0.4", "pyarrow>=15", "tensorboardX>=2.6", "sympy>=1.13", *NOTEBOOKS,
]  # fmt: skip

setup(
    name="r1jax",
    version=VERSION,
    description="The DeepSeek-R1 recipe in JAX: R1-Zero and R1, from one command, on a laptop or a pod",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["r1jax", "r1jax.*", "experiments", "experiments.*"]),
    package_data={
        "r1jax.report": ["*.html", "*.css", "*.js"],
        "r1jax.nano": ["weights/*/*"],
    },
    install_requires=[
        "jax>=0.10,<0.13",
        # flax 0.12.8 is the last for Python 3.11; from jax 0.11 on it cannot import flax.nnx, 0.12.9 can.
        'flax>=0.12.8; python_version<"3.12"',
        'flax>=0.12.9; python_version>="3.12"',
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.4",
        "tensorstore>=0.1.84",
        "grain>=0.2.16",
        "sentencepiece>=0.2.2",
        "mpmath>=1.3",
        "numpy",
        "tyro>=1.0",
        "jaxtyping>=0.3",
        "rich>=13",
    ],
    extras_require={
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "hf": HF,
        "tensorboard": ["tensorboardX>=2.6"],
        "wandb": ["wandb>=0.17"],
        "notebooks": NOTEBOOKS,
        "test": TEST,
        # torch 2.13.0 has a CPU wheel for Python 3.11 only; elsewhere the parity tests are left out.
        "parity": [*HF, 'torch==2.13.0; python_version<"3.12"', 'transformers>=5; python_version<"3.12"'],
        "dev": [*TEST, *HF, "ruff>=0.8", "mypy>=1.13"],
    },
)
