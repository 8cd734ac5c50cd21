"""Rewriting by a model, through one interface: a checkpoint of ours, or an OpenAI-compatible endpoint.

R1's cold start has a stronger model translate and polish what R1-Zero wrote, and annotators check it. An edit may delete and
translate; `adds_nothing` is what makes sure that it does not reason.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from jax.sharding import Mesh

from r1jax.generate import Sampling, Wave, in_waves
from r1jax.run import Policy

Rewriter = Callable[[Sequence[str]], list[str]]  # whole prompts -> what the model wrote after each
COMPUTATION = re.compile(r"\d+\s*[-+*/×·÷]\s*\d+\s*=\s*-?\d+|\d+\s*[<>≤≥]\s*\d+")  # and comparisons
ATTEMPTS = 4


def adds_nothing(raw: str, edited: str) -> bool:
    """Whether every computation x∘y=z and every comparison of an edited text stands in the raw one."""
    there = {re.sub(r"\s", "", found) for found in COMPUTATION.findall(raw)}
    return all(re.sub(r"\s", "", found) in there for found in COMPUTATION.findall(edited))


def by_checkpoint(policy: Policy, params: dict, mesh: Mesh, path: Path, *, max_tokens: int, seed: int, source: str) -> Rewriter:
    """Greedy completions of a policy; `path` (.jsonl) keeps them, so that a killed run goes on."""

    def lines(wave: Wave) -> list[dict]:
        return [{"id": example["id"], "text": text if stopped else ""} for example, text, stopped in zip(wave.examples, wave.texts, wave.stopped, strict=True)]

    def rewrite(prompts: Sequence[str]) -> list[str]:
        if not prompts:
            return []
        examples = [{"id": f"rewrite-{i}", "problem": prompt, "gold": "", "kind": "general"} for i, prompt in enumerate(prompts)]
        sampling = Sampling(samples=1, temperature=0.0, max_tokens=max_tokens)
        written = in_waves(policy, params, examples, mesh, sampling, path, lines, seed=seed, settings={"source": source}, prompts=prompts)
        return [line["text"] for line in written]

    return rewrite


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible server answers. The key comes from the environment variable OPENAI_API_KEY."""

    url: str
    """Such as http://localhost:8000/v1."""
    model: str
    timeout_s: float = 120.0
    max_tokens: int = 8192


def by_endpoint(endpoint: Endpoint) -> Rewriter:
    """Chat completions at temperature 0, one request a prompt.

    Raises (when called):
        ValueError: the server refuses, or does not answer after a few attempts.
    """

    def rewrite(prompts: Sequence[str]) -> list[str]:
        return [ask(endpoint, prompt) for prompt in prompts]

    return rewrite


def ask(endpoint: Endpoint, prompt: str) -> str:
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "max_tokens": endpoint.max_tokens}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as answer:
                return json.loads(answer.read())["choices"][0]["message"]["content"] or ""
        except urllib.error.HTTPError as error:
            problem, passing = f"HTTP {error.code}", error.code in (408, 429) or error.code >= 500
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            problem, passing = str(getattr(error, "reason", error)), True
        except (ValueError, LookupError, TypeError) as error:
            problem, passing = f"no chat completion came back ({error})", False
        if not passing:
            break
        time.sleep(min(30.0, 0.5 * 4**attempt))
    raise ValueError(f"--endpoint.url={endpoint.url} does not answer: {problem}. Start the server, or leave the flag out to rewrite with a checkpoint")
