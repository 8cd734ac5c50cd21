"""Makes a `Writer`, a model that answers prompts, from an r1jax checkpoint or from an OpenAI-compatible endpoint."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from r1jax import jsonl
from r1jax.distributed import is_main, wait_for_all
from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.recipes import SamplingOptions
from r1jax.rewards.endpoints import chat_request, may_pass
from r1jax.rewards.format import THINK_END
from r1jax.sampling.complete import Wave
from r1jax.sft_data.batch_sampling import Output, sample_in_waves

ATTEMPTS = 5
UNREADABLE = (400, 413, 422)  # HTTP status by which servers reject one prompt
TOGETHER = 8  # concurrent requests to an endpoint
logger = logging.getLogger(__name__)


class Unreadable(ValueError):
    """Raised when a server rejects one prompt, such as a prompt that is too long for the server's model."""


class Writer(NamedTuple):
    """A model that answers prompts.

    Attributes:
        name: the model's name, which is stored in each record that the model rewrote or judged.
        answers: `answers(prompts, path)` returns one answer per prompt. An answer is empty if the model was cut
            off while it wrote, or if the server rejected the prompt. A killed run resumes from `path` (.jsonl).
    """

    name: str
    answers: Callable[[Sequence[str], Path], list[str]]


def without_thought(writer: Writer) -> Writer:
    """Returns a writer like `writer`, whose answers hold only the text after the chain of thought."""

    def answers(prompts: Sequence[str], path: Path) -> list[str]:
        return [text.rpartition(THINK_END)[2].strip() for text in writer.answers(prompts, path)]

    return Writer(writer.name, answers)


def by_checkpoint(
    name: str,
    policy: Policy,
    params: dict,
    mesh: Mesh,
    source: str,
    template: str,
    sampling: SamplingOptions,
    *,
    seed: int,
) -> Writer:
    """Returns a writer that answers prompts by sampling a policy.

    Args:
        name: the writer's name.
        source: sha256 of the checkpoint.
        template: a text with {question}, which is replaced by the prompt.
        seed: seed of the sampling noise.
    """

    def lines(wave: Wave) -> list[dict]:
        return [
            {"text": text.strip() if stopped else ""} for text, stopped in zip(wave.texts, wave.stopped, strict=True)
        ]

    def answers(prompts: Sequence[str], path: Path) -> list[str]:
        if not prompts:
            return []
        examples = [{"id": f"{path.stem}-{i}", "problem": prompt} for i, prompt in enumerate(prompts)]
        written = sample_in_waves(
            policy,
            params,
            examples,
            mesh,
            sampling,
            Output(path, lines, {"source": source}),
            seed=seed,
            prompts=[fill(template, prompt) for prompt in prompts],
        )
        return [line["text"] for line in written]

    return Writer(name, answers)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. The API key is read from OPENAI_API_KEY."""

    url: str = ""
    """The server's address, such as http://localhost:8000/v1. Default: OPENAI_BASE_URL."""
    model: str = ""
    """The model's name on the server. Default: OPENAI_MODEL."""
    timeout_s: float = 120.0
    """Seconds that one request may take."""
    max_tokens: int = 8192
    """Maximum number of tokens of an answer."""

    def filled(self) -> Endpoint:
        """Returns the endpoint with `url` and `model` filled in from the environment where they are empty.

        The environment variable is OPENAI_BASE_URL for `url`, and OPENAI_MODEL for `model`.

        Raises:
            ValueError: the model, or an http address, is given neither by a flag nor by the environment.
        """
        url, model = self.url or os.environ.get("OPENAI_BASE_URL", ""), self.model or os.environ.get("OPENAI_MODEL", "")
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"--endpoint.url={url} is not an http address: use one such as http://localhost:8000/v1, or set "
                "OPENAI_BASE_URL"
            )
        if not model:
            raise ValueError(f"--endpoint.model is missing: name a model of the server {url}, or set OPENAI_MODEL")
        return dataclasses.replace(self, url=url.rstrip("/"), model=model)


def by_endpoint(endpoint: Endpoint) -> Writer:
    """Returns a writer that requests chat completions at temperature 0, one request per prompt.

    Only process 0 sends requests; all processes return the answers.

    Raises:
        ValueError: the address or the model of the server is missing. Later, `answers` of the writer raises ValueError
            if the server refuses the requests, or if a request fails `ATTEMPTS` times.
    """
    endpoint = endpoint.filled()

    def key(prompt: str) -> str:
        return hashlib.sha256(json.dumps([endpoint.model, endpoint.max_tokens, prompt]).encode()).hexdigest()

    def answers(prompts: Sequence[str], path: Path) -> list[str]:
        if is_main():
            there = known(path)
            missing = list(dict.fromkeys(prompt for prompt in prompts if key(prompt) not in there))
            refused: list[tuple[str, Unreadable]] = []
            writing = threading.Lock()
            with jsonl.JsonLines(path) as file, concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:

                def told(prompt: str) -> None:
                    """Requests one answer and writes it to `path` at once, so that a later failure does not lose it."""
                    try:
                        text = ask(endpoint, prompt)
                    except Unreadable as error:
                        refused.append((prompt, error))
                    else:
                        with writing:
                            file.write({"key": key(prompt), "text": text})

                try:
                    for future in concurrent.futures.as_completed([pool.submit(told, prompt) for prompt in missing]):
                        future.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                if refused and len(refused) == len(missing) and not there:
                    raise refused[0][1]  # every prompt was rejected: the command is wrong
                for prompt, error in refused:
                    logger.warning("a prompt of %d characters has no answer: %s", len(prompt), error)
                    file.write({"key": key(prompt), "text": ""})
                file.sync()
        wait_for_all(f"{path.name} written")
        there = known(path)
        return [there[key(prompt)] for prompt in prompts]

    return Writer(endpoint.model, answers)


def known(path: Path) -> dict[str, str]:
    """Returns the answers in a file as {key: answer}; {} if there is no file.

    The key is the hash of the model, the token limit and the prompt.
    """
    return {line["key"]: line["text"] for line in jsonl.stream(path)} if path.exists() else {}


def ask(endpoint: Endpoint, prompt: str) -> str:
    """Requests one answer from the server and returns its text; empty if the answer was cut off.

    Raises:
        Unreadable: the server rejects this prompt.
        ValueError: the server refuses the request for another reason (such as a wrong API key), returns no chat
            completion, or fails `ATTEMPTS` times.
    """
    request = chat_request(endpoint.url, endpoint.model, prompt, endpoint.max_tokens)
    wait = 0.25
    for attempt in range(ATTEMPTS):
        code = 0
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as answer:
                choice = json.loads(answer.read())["choices"][0]
                text = choice["message"]["content"] or ""
                return text.strip() if choice.get("finish_reason", "stop") == "stop" else ""
        except urllib.error.HTTPError as error:
            code, problem = error.code, f"HTTP {error.code}: {error.read(300).decode('utf-8', 'replace')}"
            passing = may_pass(code)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            problem, passing = str(getattr(error, "reason", error)), True
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problem, passing = f"the response is not a chat completion ({error})", False
        if not passing:
            raise (Unreadable if code in UNREADABLE else ValueError)(
                f"--endpoint.url={endpoint.url} refuses the request: {problem}. "
                f"Check the address, --endpoint.model={endpoint.model} and OPENAI_API_KEY"
            )
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait)
            wait = min(4 * wait, 30.0)
    raise ValueError(
        f"--endpoint.url={endpoint.url} does not answer after {ATTEMPTS} attempts: {problem}. "
        "Start the server and run the same command again: the run keeps the answers that it has received"
    )
