"""OpenAI's protocol over our sampler, asked by the openai client."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
import uvicorn

from experiments import serve
from r1jax.serving.app import Api
from r1jax.serving.models import load
from r1jax.serving.replies import Request
from r1jax.serving.worker import Worker
from support.tiny import dense_logp

ASKED = dict(model="nano-small", prompt="2 + 3 =", max_tokens=24, temperature=1.0, seed=5)
TALK = dict(model="nano-small", messages=[{"role": "user", "content": "Use 4, 4, 10 with + - * to make 44."}])


@pytest.fixture(scope="module")
def model():
    return load("", "nano-small", "", "1x1")


@pytest.fixture(scope="module")
def api(model):
    api = Api(model, "nano-small", "sekret", 1024, 8)
    api.made = []
    make = api._requests
    api._requests = lambda *given: api.made.extend(made := make(*given)) or made
    return api


@pytest.fixture(scope="module")
def url(api):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(api.app(), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="sekret", max_retries=0, timeout=400)


def raw(url, body=None, key="sekret"):
    """(status, JSON) of a request without the client."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Authorization": f"Bearer {key}"})) as said:
            return said.status, json.load(said)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_model_has_a_name_and_a_key(client, url):
    assert [x.id for x in client.models.list()] == ["nano-small"] == [client.models.retrieve("nano-small").id]
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"
    for key in ("wrong", "sékret", ""):
        status, said = raw(f"{url}/models", key=key)
        assert status == 401 and said["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).completions.create(**ASKED)


def test_a_stream_says_what_a_whole_reply_says(client):
    whole = client.completions.create(**ASKED)
    said, *more = list(client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(x.choices[0].text for x in (said, *more[:-1])) == whole.choices[0].text != ""
    assert more[-1].usage == whole.usage and whole.usage.prompt_tokens > 3
    assert more[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    talk = TALK | dict(seed=3, max_tokens=200)
    whole = client.chat.completions.create(**talk).choices[0]
    pieces = [x.choices[0] for x in client.chat.completions.create(**talk, stream=True)]
    assert pieces[0].delta.role == "assistant" and len(pieces) > 3
    assert "".join(x.delta.content or "" for x in pieces) == whole.message.content != ""
    assert pieces[-1].finish_reason == whole.finish_reason == "stop"


def test_a_stop_string_and_several_replies(client):
    text = client.completions.create(**ASKED).choices[0].text
    stop = text[4:7]
    cut = client.completions.create(**ASKED, stop=[stop]).choices[0]
    assert cut.text == text[: text.index(stop)] and cut.finish_reason == "stop"
    prompts = ["1 + 1 =", "2 + 2 ="]
    choices = client.completions.create(**ASKED | dict(prompt=prompts), n=2).choices
    assert [x.index for x in choices] == [0, 1, 2, 3]
    alone = [client.completions.create(**ASKED | dict(prompt=prompts[1], seed=seed)).choices[0] for seed in (5, 6)]
    assert [x.text for x in choices[2:]] == [x.text for x in alone] and alone[0].text != alone[1].text


def test_log_probabilities_of_a_given_text(client, model):
    tokens = model.policy.tokenizer.encode("2 + 3 = 5, and 3 + 4 = 7")
    want = dense_logp(model.policy.cfg, model.params, np.asarray([tokens]))[0]
    for more in (dict(max_tokens=0), dict(max_tokens=1, temperature=0)):  # the second as lm-evaluation-harness asks
        said = client.completions.create(model="nano-small", prompt=[tokens], echo=True, logprobs=2, **more).choices[0]
        told = said.logprobs
        assert (
            len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(tokens) + more["max_tokens"]
        )
        assert told.token_logprobs[0] is None and told.text_offset[:2] == [0, len(told.tokens[0])]
        np.testing.assert_allclose(
            told.token_logprobs[1 : len(tokens)], [want[i, tokens[i + 1]] for i in range(len(tokens) - 1)], atol=5e-5
        )
        for i, top in enumerate(told.top_logprobs[1 : len(tokens)]):
            np.testing.assert_allclose(sorted(top.values()), np.sort(want[i])[-2:], atol=5e-5)
    assert told.token_logprobs[-1] == pytest.approx(want[-1].max(), abs=5e-5)  # the greedy token
    chat = client.chat.completions.create(**TALK, max_tokens=5, logprobs=True, top_logprobs=3, temperature=0)
    held = chat.choices[0].logprobs.content
    assert len(held) == 5 and all(x.logprob == x.top_logprobs[0].logprob and len(x.top_logprobs) == 3 for x in held)


def test_two_at_once_get_what_each_gets_alone(client):
    asked = [ASKED | dict(prompt=f"{i} + 3 =", seed=i) for i in range(4)]
    alone = [client.completions.create(**x).choices[0].text for x in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: client.completions.create(**x).choices[0].text, asked))
    assert together == alone


def test_a_client_that_leaves_ends_its_reply(client, api, monkeypatch):
    grow = Request.grow

    def grow_slowly(request, *given):
        time.sleep(0.05 * (request.max_tokens == 800))  # a hundred chunks, whatever the machine
        grow(request, *given)

    monkeypatch.setattr(Request, "grow", grow_slowly)
    talk = TALK | dict(temperature=4, max_tokens=800, seed=1)
    stream = client.chat.completions.create(**talk, stream=True)
    next(x for x in stream if x.choices[0].delta.content)
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(**talk)
    client.completions.create(**ASKED | dict(max_tokens=1))  # waits for both
    left = [x for x in api.made if x.settings.temperature == 4]
    assert len(left) == 2 and all(x.finish == "given up" and len(x.tokens) < 800 for x in left)


@pytest.mark.parametrize(
    "chat, changed, status, param",
    [
        (False, dict(temperature=-1), 400, "temperature"),
        (False, dict(max_tokens=10_000), 400, "prompt"),
        (False, dict(prompt=[1, 10**6]), 400, "prompt"),
        (False, dict(logit_bias={"1": 5}), 400, "logit_bias"),
        (False, dict(stop=["a"] * 5), 400, "stop"),
        (False, dict(best_of=3), 400, "best_of"),
        (False, dict(extra_body={"mirostat": 1}), 400, "mirostat"),
        (False, dict(model="other"), 404, "model"),
        (True, dict(messages=[]), 400, "messages"),
        (True, dict(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools"),
        (True, dict(top_logprobs=2), 400, "top_logprobs"),
        (True, dict(stream=True, logprobs=True), 400, "stream"),
    ],
)
def test_a_bad_request_gets_openais_error(client, chat, changed, status, param):
    ask = client.chat.completions.create if chat else client.completions.create
    with pytest.raises(openai.APIStatusError) as error:
        ask(**(TALK if chat else ASKED) | changed)
    assert (error.value.status_code, error.value.param) == (status, param)
    assert error.value.body["message"] and error.value.type == "invalid_request_error"


def test_what_is_no_request_gets_openais_error(url):
    for (status, said), wanted in (
        (raw(f"{url}/completions", b"{"), 400),
        (raw(f"{url}/completions", b"[]"), 400),
        (raw(f"{url}/embeddings"), 404),
        (raw(f"{url}/completions"), 405),
    ):
        assert status == wanted and set(said["error"]) == {"message", "type", "param", "code"}


def test_an_error_of_the_work_reaches_its_client_and_the_next_is_served(model):
    worker, done, errors = Worker(model, 2), threading.Event(), []
    worker.call(lambda: 1 / 0, errors.append)
    worker.call(lambda: None, lambda error: errors.append(error) or done.set())
    assert done.wait(60) and isinstance(errors[0], ZeroDivisionError) and errors[1] is None


def test_others_are_let_in_only_with_a_key(monkeypatch):
    monkeypatch.delenv("R1JAX_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"--host=0\.0\.0\.0 lets other machines connect: give --api-key=KEY"):
        serve.serve(serve.Command(host="0.0.0.0"))
    with pytest.raises(ValueError, match="--wave-rows=0 must be at least 1"):
        serve.serve(serve.Command(wave_rows=0))
