"""Reads requests of OpenAI's protocol and checks every field. A field that is not supported is an error.

Source: the API reference of OpenAI, /v1/completions and /v1/chat/completions.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping
from typing import Any

from r1jax.serving.conversation import encode_messages
from r1jax.serving.models import Model
from r1jax.serving.replies import Settings

MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 4, 20
# Fields without an effect on the reply, and fields that are accepted only with the value that changes nothing.
IGNORED = {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
}
COMMON = {"n", "stream", "stream_options", "seed", "stop", "temperature", "top_p", "top_k", "min_p", "max_tokens"}
FIELDS = {
    "completions": COMMON | {"prompt", "echo", "logprobs", "best_of"},
    "chat": COMMON | {"messages", "logprobs", "top_logprobs", "max_completion_tokens"},
}


class ApiError(Exception):
    """An error that is sent to the client as JSON in OpenAI's format.

    Attributes:
        status: HTTP status.
        param: the field of the request that is wrong; None if no field is wrong.
        code: OpenAI's code for the error, such as "model_not_found"; None if OpenAI has no code for it.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def as_dict(self) -> dict[str, Any]:
        """Returns the error as the body of a response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that was read and checked.

    Attributes:
        chat: whether this request came to /v1/chat/completions.
        prompts: token ids of each prompt.
        n: number of replies to each prompt.
        settings, max_tokens, stop, seed: as in `replies.Request`. The replies to a prompt get consecutive seeds,
            beginning with `seed`.
        stream: whether the reply streams.
        usage: whether the last event of a stream has the number of tokens.
        echo: whether the text begins with the prompt.
        logprobs: how many of the likeliest tokens are returned beside each token's own log-probability; None for no
            log-probabilities.
    """

    chat: bool
    prompts: list[list[int]]
    n: int
    settings: Settings
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    stream: bool
    usage: bool
    echo: bool
    logprobs: int | None


def read(body: Any, model: Model, *, chat: bool, most: int, name: str) -> Asked:
    """Checks the body of a request, and returns it as an `Asked`, with its prompts as token ids.

    Args:
        body: the body, parsed as JSON.
        model: its tokenizer and template make the token ids.
        chat: whether the request came to /v1/chat/completions.
        most: token limit of a chat reply if the request sets no limit.
        name: the name that the model is served under.

    Raises:
        ApiError: a field is unknown, not supported or out of range, or the prompt is too long.
    """
    if not isinstance(body, Mapping):
        raise ApiError("the body must be a JSON object")
    given = {key: value for key, value in body.items() if value is not None}
    if given.get("model", name) != name:
        raise ApiError(f"there is no model {given['model']!r} here, only {name!r}", 404, "model", "model_not_found")
    check_fields(given, FIELDS["chat" if chat else "completions"])
    prompts = [read_messages(given, model)] if chat else read_prompts(given.get("prompt", ""), model)
    longest, context = max(map(len, prompts)), model.policy.cfg.max_positions
    room = context - longest
    least = 1 if chat or not given.get("echo") else 0  # scoring a given text needs no reply
    named = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    tokens = whole(given, named, min(most, max(room, 1)) if chat else 16, least, math.inf)
    if tokens > room:
        raise ApiError(
            f"the prompt has {longest} tokens and {named} is {tokens}, but together they may have at most {context}: "
            f"shorten the prompt or lower {named}",
            param="messages" if chat else "prompt",
            code="context_length_exceeded",
        )
    logprobs = read_logprobs(given, chat=chat)
    stream, echo = flag(given, "stream"), flag(given, "echo")
    if stream and (echo or logprobs is not None):
        raise ApiError("a request with echo or logprobs cannot stream: leave stream out", param="stream")
    return Asked(
        chat=chat,
        prompts=prompts,
        n=read_n(given),
        settings=Settings(
            number(given, "temperature", 1.0, 0, 100),
            number(given, "top_p", 1.0, 1e-6, 1),
            whole(given, "top_k", 0, 0, math.inf),
            number(given, "min_p", 0.0, 0, 1),
        ),
        max_tokens=tokens,
        stop=read_stop(given.get("stop", [])),
        seed=whole(given, "seed", secrets.randbits(31), -(2**63), 2**63) % 2**32,
        stream=stream,
        usage=bool((given.get("stream_options") or {}).get("include_usage")),
        echo=echo,
        logprobs=logprobs,
    )


def check_fields(given: Mapping[str, Any], known: set[str]) -> None:
    """Raises ApiError if a field is unknown, or has a value that asks for a feature that is not supported."""
    for field, value in given.items():
        if field in NEUTRAL:
            if value not in NEUTRAL[field]:
                raise ApiError(f"{field} is not supported: leave it out", param=field, code="unsupported_parameter")
        elif field not in known | IGNORED:
            raise ApiError(f"{field} is not known here: leave it out", param=field, code="unknown_parameter")


def read_messages(given: Mapping[str, Any], model: Model) -> list[int]:
    """Returns the prompt of a chat as token ids.

    The content of a message may be a text, or OpenAI's list of parts {"type": "text", "text": ..}.
    """
    messages = given.get("messages")
    if not isinstance(messages, list):
        raise ApiError("messages must be a list", param="messages")
    plain = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list) and all(isinstance(x, Mapping) and x.get("type") == "text" for x in content):
            message = {**message, "content": "".join(str(part.get("text", "")) for part in content)}
        if isinstance(message, Mapping) and message.get("role") == "developer":  # OpenAI's newer name
            message = {**message, "role": "system"}
        plain.append(message)
    try:
        return encode_messages(model.policy, plain, chat=model.chat)
    except ValueError as error:
        raise ApiError(str(error), param="messages") from error


def read_prompts(prompt: Any, model: Model) -> list[list[int]]:
    """Returns prompts as token ids. `prompt` is a text, a list of texts, a list of token ids, or a list of lists of
    token ids.
    """
    vocabulary = model.policy.cfg.vocab_size

    def is_ids(x: Any) -> bool:
        return isinstance(x, list) and bool(x) and all(type(i) is int and 0 <= i < vocabulary for i in x)

    every = [prompt] if isinstance(prompt, str) or is_ids(prompt) else prompt
    if not isinstance(every, list) or not every or not all(isinstance(x, str) or is_ids(x) for x in every):
        raise ApiError(
            f"prompt must be a text, a list of texts, a list of token ids below {vocabulary}, or a list of "
            "lists of such ids",
            param="prompt",
        )
    prompts = [model.policy.tokenizer.encode(x) if isinstance(x, str) else x for x in every]
    if not all(prompts):
        raise ApiError("prompt must have at least one token: give a text that is not empty", param="prompt")
    return prompts


def read_logprobs(given: Mapping[str, Any], *, chat: bool) -> int | None:
    """Returns how many likeliest tokens the client wants for each position; None if it wants no log-probabilities."""
    if not chat:
        return whole(given, "logprobs", 0, 0, MOST_LOGPROBS) if "logprobs" in given else None
    if not flag(given, "logprobs"):
        if "top_logprobs" in given:
            raise ApiError("top_logprobs needs logprobs to be true", param="top_logprobs")
        return None
    return whole(given, "top_logprobs", 0, 0, MOST_LOGPROBS)


def read_n(given: Mapping[str, Any]) -> int:
    """Returns how many replies the client wants to each prompt."""
    n = whole(given, "n", 1, 1, MOST_CHOICES)
    if whole(given, "best_of", n, 1, MOST_CHOICES) != n:
        raise ApiError("best_of is not supported: leave it out", param="best_of", code="unsupported_parameter")
    return n


def read_stop(stop: Any) -> tuple[str, ...]:
    """Returns the stop strings: the field `stop` may be one text or a list of texts."""
    every = [stop] if isinstance(stop, str) else stop
    if not isinstance(every, list) or not all(isinstance(x, str) and x for x in every) or len(every) > MOST_STOPS:
        raise ApiError(f"stop must be a text, or a list of at most {MOST_STOPS} texts", param="stop")
    return tuple(every)


def number(given: Mapping[str, Any], field: str, default: float, least: float, most: float) -> float:
    """Returns the value of a field, or its default. Raises ApiError if it is not a number from `least` to `most`."""
    value = given.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        to = f"to {most}" if most < math.inf else "upwards"
        raise ApiError(f"{field} must be a number from {least} {to}, not {value!r}", param=field)
    return value


def whole(given: Mapping[str, Any], field: str, default: int, least: float, most: float) -> int:
    """Returns the value of a field, or its default. Raises ApiError if it is not an integer from `least` to `most`."""
    value = number(given, field, default, least, most)
    if value != int(value):
        raise ApiError(f"{field} must be a whole number, not {value!r}", param=field)
    return int(value)


def flag(given: Mapping[str, Any], field: str) -> bool:
    """Returns the value of a field; False if it is left out. Raises ApiError if it is neither true nor false."""
    value = given.get(field, False)
    if not isinstance(value, bool):
        raise ApiError(f"{field} must be true or false, not {value!r}", param=field)
    return value
