"""A model that answers prompts, through one interface: a checkpoint of ours, or an OpenAI-compatible endpoint."""

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

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from r1jax import log
from r1jax.launch import is_main
from r1jax.prompts import fill
from r1jax.rewards.format import THINK_END
from r1jax.run import Policy
from r1jax.waves import Sampling, Wave, in_waves

ATTEMPTS = 5
UNREADABLE = (400, 413, 422)  # what servers say of a prompt that they will not read
TOGETHER = 8  # requests that an endpoint works on at a time
logger = logging.getLogger(__name__)


class Unreadable(ValueError):
    """A server will not read one prompt, such as one that is too long for its model."""


class Writer(NamedTuple):
    """Who answers: `answers(prompts, path)` gives what the model wrote after each whole prompt.

    An answer that did not end by itself is empty, and so is that to a prompt which a server will not read. A killed run
    goes on from `path` (.jsonl).
    """

    name: str
    answers: Callable[[Sequence[str], Path], list[str]]


def thoughtless(writer: Writer) -> Writer:
    """The same model; of what it writes, what follows its chain of thought."""

    def answers(prompts: Sequence[str], path: Path) -> list[str]:
        return [text.rpartition(THINK_END)[2].strip() for text in writer.answers(prompts, path)]

    return Writer(writer.name, answers)


def by_checkpoint(
    name: str, policy: Policy, params: dict, mesh: Mesh, source: str, template: str, sampling: Sampling, *, seed: int
) -> Writer:
    """Completions of a policy; `template` holds the {question}, which is the whole prompt."""

    def lines(wave: Wave) -> list[dict]:
        return [
            {"text": text.strip() if stopped else ""} for text, stopped in zip(wave.texts, wave.stopped, strict=True)
        ]

    def answers(prompts: Sequence[str], path: Path) -> list[str]:
        if not prompts:
            return []
        examples = [{"id": f"{path.stem}-{i}", "problem": prompt} for i, prompt in enumerate(prompts)]
        written = in_waves(
            policy, params, examples, mesh, sampling, path, lines, seed=seed, settings={"source": source},
            prompts=[fill(template, prompt) for prompt in prompts],
        )  # fmt: skip
        return [line["text"] for line in written]

    return Writer(name, answers)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. Its key is read from OPENAI_API_KEY."""

    url: str = ""
    """Such as http://localhost:8000/v1. Default: OPENAI_BASE_URL."""
    model: str = ""
    """Default: OPENAI_MODEL."""
    timeout_s: float = 120.0
    """Of one request."""
    max_tokens: int = 8192
    """Longest answer."""

    def filled(self) -> Endpoint:
        """With what it leaves to the environment.

        Raises:
            ValueError: neither says where the server is, or which model.
        """
        url, model = self.url or os.environ.get("OPENAI_BASE_URL", ""), self.model or os.environ.get("OPENAI_MODEL", "")
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"--endpoint.url={url} is no address: give one such as http://localhost:8000/v1, or set OPENAI_BASE_URL"
            )
        if not model:
            raise ValueError("--endpoint.model is missing: name a model of the server, or set OPENAI_MODEL")
        return dataclasses.replace(self, url=url.rstrip("/"), model=model)


def by_endpoint(endpoint: Endpoint) -> Writer:
    """Chat completions at temperature 0, one request a prompt, asked by process 0 alone.

    Raises:
        ValueError: see `Endpoint.filled`; when called, a server that refuses, or does not answer after some attempts.
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
            with log.JsonLines(path) as file, concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:

                def told(prompt: str) -> None:
                    """Each answer is in the file as soon as it is there, whatever happens to others."""
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
                    raise refused[0][1]  # not one prompt but all of them: the command is wrong
                for prompt, error in refused:
                    logger.warning("a prompt of %d characters has no answer: %s", len(prompt), error)
                    file.write({"key": key(prompt), "text": ""})
                file.sync()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{path.name} written")
        there = known(path)
        return [there[key(prompt)] for prompt in prompts]

    return Writer(endpoint.model, answers)


def known(path: Path) -> dict[str, str]:
    """The answers in a file, by key."""
    return {line["key"]: line["text"] for line in log.stream(path)} if path.exists() else {}


def ask(endpoint: Endpoint, prompt: str) -> str:
    """One answer.

    Raises:
        Unreadable: the server refuses this prompt.
        ValueError: the server refuses, gives no chat completion, or is not there after `ATTEMPTS`.
    """
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": endpoint.max_tokens,
    }
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {secret}"
    request = urllib.request.Request(f"{endpoint.url}/chat/completions", json.dumps(body).encode(), headers)
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
            passing = code in (408, 429) or code >= 500
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            problem, passing = str(getattr(error, "reason", error)), True
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problem, passing = f"what came back is no chat completion ({error})", False
        if not passing:
            raise (Unreadable if code in UNREADABLE else ValueError)(
                f"--endpoint.url={endpoint.url} refuses: {problem}. "
                f"Look at the address, --endpoint.model={endpoint.model} and OPENAI_API_KEY"
            )
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait)
            wait = min(4 * wait, 30.0)
    raise ValueError(
        f"--endpoint.url={endpoint.url} does not answer after {ATTEMPTS} attempts: {problem}. "
        "Start the server and run the same command again: it goes on"
    )
