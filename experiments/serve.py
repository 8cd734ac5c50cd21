"""Serves a checkpoint on localhost by OpenAI's protocol, for evaluation tools and judges. Not for production: use vLLM.

Run:     python -m experiments.serve runs/r1_zero-…           (then http://127.0.0.1:8000/v1)
         python -m experiments.serve Qwen3-0.6B --port=8001 --api-key=KEY
         lm_eval --model=local-completions --tasks=TASK --model_args=model=NAME,base_url=URL/completions,tokenizer=DIR
Serves:  /v1/models, /v1/completions (also with echo and logprobs), /v1/chat/completions. The last two can stream.
         Requests with the same sampling settings form a batch. Other requests wait until this batch is sampled to its
         end. If a client disconnects, its reply is stopped
Cost:    memory for two copies of the model; each new size of prompt, reply or batch needs one compilation
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from r1jax import cli
from r1jax.distributed import launch
from r1jax.serving.models import load
from r1jax.storage import is_installed

LOCAL = ("127.0.0.1", "localhost", "::1")
KEY = "R1JAX_API_KEY"


@dataclasses.dataclass(frozen=True)
class Command:
    """Serves a checkpoint by OpenAI's protocol."""

    weights: Annotated[str, tyro.conf.Positional] = ""
    """A run's directory, one of its checkpoints, a Hugging Face directory, a PEFT adapter, or OWNER/NAME of the Hugging
    Face Hub. Default: the base model of --model."""
    model: str = "nano"
    """Base model to serve if no weights are given. The models nano and nano-small ship with the package."""
    template: str = ""
    """How chat messages become a prompt: chat (the tokenizer's own chat template), r1, r1_zero, or a text file that
    contains {question}. Default: chat if the tokenizer has one, else the template of the run, else r1_zero."""
    name: str = ""
    """Name that clients call the model by. Default: the last part of the weights' path; without weights, the name
    given by --model."""
    host: str = "127.0.0.1"
    """Address to listen on. Any address but localhost needs a key: see --api-key."""
    port: int = 8000
    """Port to listen on."""
    api_key: str = ""
    """Key that clients must send. Default: the environment variable R1JAX_API_KEY. If both are empty, clients
    need no key."""
    max_tokens: int = 1024
    """Largest number of tokens of a chat reply if the client sets no limit of its own."""
    wave_rows: int = 32
    """Largest number of replies that are sampled at once."""
    mesh: str = "1x1"
    """Device mesh: AxB (fsdp=A, tensor=B), or axes by name, such as data:2,fsdp:2."""


def serve(command: Command) -> None:
    """Loads the model, then serves it until Ctrl-C.

    Raises:
        ValueError: a flag or the checkpoint cannot be used, or a package is missing.
    """
    key = command.api_key or os.environ.get(KEY, "")
    if command.host not in LOCAL and not key:
        raise ValueError(
            f"--host={command.host} lets other machines connect: give --api-key=KEY or set {KEY}, or use 127.0.0.1"
        )
    for field in ("max_tokens", "wave_rows"):
        if (value := getattr(command, field)) < 1:
            raise ValueError(f"--{field.replace('_', '-')}={value} must be at least 1")
    if missing := [module for module in ("starlette", "uvicorn") if not is_installed(module)]:
        raise ValueError(f"serving needs {' and '.join(missing)}: pip install 'r1jax[serve]'")
    import uvicorn

    from r1jax.serving.app import Api

    launch.share_cpu(command.mesh)
    launch.keep_compilations()
    model = load(command.weights, command.model, command.template, command.mesh)
    name = command.name or Path(command.weights or command.model).name
    app = Api(model, name, key, command.max_tokens, command.wave_rows).app()
    print(f"{model.described}")
    print(
        f"model {name!r} at http://{command.host}:{command.port}/v1, {'with' if key else 'without'} a key; Ctrl-C ends"
    )
    uvicorn.run(app, host=command.host, port=command.port, log_level="warning")


def main() -> None:
    cli.main(Command, serve, __doc__)


if __name__ == "__main__":
    main()
