"""Defines the web application, with OpenAI's routes /v1/models, /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as Http
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from r1jax.serving.models import Model
from r1jax.serving.protocol import ApiError, Asked, read
from r1jax.serving.replies import Request
from r1jax.serving.scoring import Scored, score
from r1jax.serving.worker import Worker

LOOK = 0.25  # seconds between two looks whether the client is still there


class Api:
    """Handles the requests to the routes of the web application.

    Args:
        name: the name that the model is served under.
        key: the API key that clients must send; "" if they need none.
        most: token limit of a chat reply if the request sets no limit.
        rows: largest number of requests that are sampled together.
    """

    def __init__(self, model: Model, name: str, key: str, most: int, rows: int):
        self._model, self._name, self._key, self._most = model, name, key, most
        self._worker, self._made = Worker(model, rows), int(time.time())

    def app(self) -> Starlette:
        """Returns the web application."""
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.one_model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        handlers = {ApiError: show_error, HTTPException: show_error, Exception: show_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def models(self, http: Http) -> Response:
        self._check_key(http)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def one_model(self, http: Http) -> Response:
        self._check_key(http)
        if (asked := http.path_params["name"]) != self._name:
            raise ApiError(f"there is no model {asked!r} here, only {self._name!r}", 404, "model", "model_not_found")
        return JSONResponse(self._described())

    async def completions(self, http: Http) -> Response:
        return await self._reply(http, chat=False)

    async def chat(self, http: Http) -> Response:
        return await self._reply(http, chat=True)

    def _described(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._made, "owned_by": "r1jax"}

    def _check_key(self, http: Http) -> None:
        """Raises ApiError if an API key is needed and the client did not send it."""
        sent = http.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._key and not hmac.compare_digest(sent.encode(), self._key.encode()):
            raise ApiError("wrong or missing API key: send 'Authorization: Bearer KEY'", 401, None, "invalid_api_key")

    async def _reply(self, http: Http, *, chat: bool) -> Response:
        self._check_key(http)
        try:
            body = await http.json()
        except ValueError as error:
            raise ApiError(f"the body of the request is not valid JSON: {error}") from error
        asked = read(body, self._model, chat=chat, most=self._most, name=self._name)
        gone = threading.Event()
        if asked.stream:
            return StreamingResponse(self._events(asked, gone), media_type="text/event-stream")
        task = asyncio.create_task(self._whole(asked, gone))
        while not (await asyncio.wait({task}, timeout=LOOK))[0]:
            if await http.is_disconnected():
                gone.set()  # the sampler looks at it after every chunk
        return JSONResponse(await task)

    def _requests(self, asked: Asked, gone: threading.Event, hear: Callable[[int, str], None]) -> list[Request]:
        """Returns one request per wanted reply, prompt after prompt. Each calls `hear(reply number, new text)`."""
        each = [(prompt, k) for prompt in asked.prompts for k in range(asked.n)]
        return [
            Request(
                prompt,
                asked.settings,
                asked.max_tokens,
                asked.seed + k,
                asked.stop,
                hear=lambda text, i=i: hear(i, text),
                given_up=gone.is_set,
            )
            for i, (prompt, k) in enumerate(each)
        ]

    async def _do(self, put: Callable[[Callable[[Exception | None], None]], None]) -> None:
        """Waits for one piece of work. `put(ended)` queues the work, and the worker calls `ended` after it."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        errors: list[Exception] = []

        def ended(error: Exception | None) -> None:
            errors.extend([error] if error else [])
            loop.call_soon_threadsafe(done.set)

        put(ended)
        await done.wait()
        if errors:
            raise errors[0]

    async def _whole(self, asked: Asked, gone: threading.Event) -> dict[str, Any]:
        """Returns the body of a reply that does not stream."""
        requests = self._requests(asked, gone, lambda i, text: None)
        if asked.max_tokens:
            waiting = (self._do(lambda ended, r=r: self._worker.ask(r, ended)) for r in requests)
            await asyncio.gather(*waiting)
        else:
            for request in requests:
                request.finish = "length"
        scored: list[Scored | None] = [None] * len(requests)
        if asked.logprobs is not None:
            texts = [[*r.prompt, *r.tokens] for r in requests]

            def work() -> None:
                scored[:] = score(self._model, texts, asked.logprobs)

            await self._do(lambda ended: self._worker.call(work, ended))
        choices = [self._choice(asked, i, r, s) for i, (r, s) in enumerate(zip(requests, scored, strict=True))]
        return self._head(asked, stream=False) | {"choices": choices, "usage": usage(asked, requests)}

    def _head(self, asked: Asked, *, stream: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if stream else "chat.completion") if asked.chat else "text_completion"
        name = f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self._name}

    def _choice(self, asked: Asked, index: int, request: Request, scored: Scored | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": request.finish, "logprobs": None}
        start = 0 if asked.echo else len(request.prompt)
        if scored is not None:
            show = chat_logprobs if asked.chat else logprobs
            choice["logprobs"] = show(self._model.policy.tokenizer, [*request.prompt, *request.tokens], scored, start)
        if asked.chat:
            return choice | {"message": {"role": "assistant", "content": request.text, "refusal": None}}
        before = self._model.policy.tokenizer.decode(request.prompt) if asked.echo else ""
        return choice | {"text": before + request.text}

    async def _events(self, asked: Asked, gone: threading.Event) -> AsyncIterator[str]:
        """Yields the events of a streamed reply. Sets `gone` at the end, also if the client disconnects before it."""
        loop, news = asyncio.get_running_loop(), asyncio.Queue()

        def hear(index: int, text: str) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (index, text, None))

        requests, head = self._requests(asked, gone, hear), self._head(asked, stream=True)

        def event(**fields: Any) -> str:
            return f"data: {json.dumps(head | fields, ensure_ascii=False)}\n\n"

        def piece(index: int, finish: str | None, text: str, **more: str) -> str:
            said = {"delta": {**more, **({"content": text} if text or more else {})}} if asked.chat else {"text": text}
            return event(choices=[{"index": index, **said, "finish_reason": finish, "logprobs": None}])

        def ended(index: int, error: Exception | None) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (index, "", error or requests[index].finish))

        try:
            for i, request in enumerate(requests):
                self._worker.ask(request, lambda error, i=i: ended(i, error))
                if asked.chat:
                    yield piece(i, None, "", role="assistant")
            going = len(requests)
            while going:
                index, text, finish = await news.get()
                if isinstance(finish, Exception):
                    yield f"data: {json.dumps(ApiError(str(finish), 500).as_dict())}\n\n"
                    return
                going -= finish is not None
                yield piece(index, finish, text)
            if asked.usage:
                yield event(choices=[], usage=usage(asked, requests))
            yield "data: [DONE]\n\n"
        finally:
            gone.set()


def usage(asked: Asked, requests: list[Request]) -> dict[str, int]:
    """Returns OpenAI's `usage` object: the number of tokens of all prompts, of all replies, and the sum of both."""
    read_, written = sum(map(len, asked.prompts)), sum(len(request.tokens) for request in requests)
    return {"prompt_tokens": read_, "completion_tokens": written, "total_tokens": read_ + written}


def name_token(tokenizer: Any, token: int) -> str:
    """Returns the text of one token. For a control token or a part of a character, returns "token_id:N" with its id."""
    text = tokenizer.decode([token])
    return text if text and "\ufffd" not in text else f"token_id:{token}"


def logprobs(tokenizer: Any, tokens: list[int], scored: Scored, start: int) -> dict[str, Any]:
    """Returns the object `logprobs` of /v1/completions for the tokens from index `start` on.

    The first token of the text (index 0) has None as its log-probability, because nothing precedes it.

    Args:
        tokens: the tokens of the prompt and the reply.
        scored: their log-probabilities, from `score`.
        start: 0 to include the prompt, otherwise the index of the reply's first token in `tokens`.
    """
    names = [name_token(tokenizer, token) for token in tokens]
    likeliest = [
        {name_token(tokenizer, int(i)): float(x) for i, x in zip(ids, values, strict=True)}
        for ids, values in zip(scored.top_ids, scored.top_logp, strict=True)
    ]
    offsets = [0]
    for name in names[start:-1]:
        offsets.append(offsets[-1] + len(name))
    return {
        "tokens": names[start:],
        "token_logprobs": [None, *map(float, scored.logp)][start:],
        "top_logprobs": [None, *likeliest][start:],
        "text_offset": offsets[: len(names) - start],
    }


def chat_logprobs(tokenizer: Any, tokens: list[int], scored: Scored, start: int) -> dict[str, Any]:
    """Returns the object `logprobs` of /v1/chat/completions.

    Args:
        tokens: the tokens of the prompt and the reply.
        start: index of the reply's first token in `tokens`.
    """

    def entry(token: int, value: float) -> dict[str, Any]:
        text = name_token(tokenizer, token)
        return {"token": text, "logprob": float(value), "bytes": list(text.encode())}

    content = []
    for at in range(start, len(tokens)):
        top = zip(scored.top_ids[at - 1], scored.top_logp[at - 1], strict=True)
        likeliest = {"top_logprobs": [entry(int(i), x) for i, x in top]}
        content.append(entry(tokens[at], scored.logp[at - 1]) | likeliest)
    return {"content": content, "refusal": None}


async def show_error(http: Http, error: Exception) -> Response:
    """Returns the response for any error, in the form of OpenAI's JSON."""
    if isinstance(error, HTTPException):
        error = ApiError(f"{http.method} {http.url.path}: {error.detail}", error.status_code)
    if not isinstance(error, ApiError):
        error = ApiError(f"{type(error).__name__}: {error}", 500)
    return JSONResponse(error.as_dict(), error.status)
