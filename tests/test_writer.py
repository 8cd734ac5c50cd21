"""A model behind an OpenAI-compatible endpoint: a real HTTP server, friendly and hostile."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1jax.sft_data import llm
from r1jax.sft_data.llm import Endpoint, Writer, by_endpoint, without_thought


class Server:
    """Answers requests with what `reply(number of requests so far, body)` gives: (status, body)."""

    def __init__(self, reply):
        self.seen: list[tuple[str, dict, dict]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append((self.path, dict(self.headers), body))
                    status, said = reply(len(outer.seen), body)
                if status is None:  # hangs up
                    self.close_connection = True
                    return
                raw = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def completion(text, finish="stop") -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def echo(_, body):
    return 200, completion(f" {body['messages'][0]['content'].upper()} ")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(llm.time, "sleep", lambda seconds: None)


def test_answers_come_in_the_order_of_the_prompts_with_model_and_key(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Server(echo) as server:
        found = by_endpoint(Endpoint(server.url + "/", "m", max_tokens=9)).answers(
            ["b", "a", "b"], tmp_path / "x.jsonl"
        )
    assert found == ["B", "A", "B"]
    assert len(server.seen) == 2, "equal prompts are asked once"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "m" and body["max_tokens"] == 9 and body["temperature"] == 0
    assert body["messages"][0]["role"] == "user"


def test_address_and_model_may_come_from_the_environment(tmp_path, monkeypatch):
    with Server(echo) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_MODEL", "theirs")
        model = by_endpoint(Endpoint())
        assert model.name == "theirs" and model.answers(["a"], tmp_path / "x.jsonl") == ["A"]
    assert "Authorization" not in server.seen[0][1]


def test_what_was_answered_before_a_crash_is_not_asked_again(tmp_path):
    path = tmp_path / "x.jsonl"
    with Server(echo) as server:
        model = by_endpoint(Endpoint(server.url, "m"))
        model.answers(["a"], path)
        path.write_bytes(path.read_bytes() + b'{"key": "torn')
        assert model.answers(["a", "c"], path) == ["A", "C"]
    assert [body["messages"][0]["content"] for _, _, body in server.seen] == ["a", "c"]


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(tmp_path, status):
    with Server(lambda n, body: (status, "busy") if n < 3 else echo(n, body)) as server:
        assert by_endpoint(Endpoint(server.url, "m")).answers(["a"], tmp_path / "x.jsonl") == ["A"]
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    "status, said, expected",
    [
        (401, "bad key", "refuses the request: HTTP 401: bad key.*OPENAI_API_KEY"),
        (404, "no such model", "refuses the request: HTTP 404: no such model.*--endpoint.model=m"),
        (200, "<html>", "not a chat completion"),
        (200, {"choices": []}, "not a chat completion"),
        (200, [], "not a chat completion"),
        (500, "down", "does not answer after 5 attempts: HTTP 500: down.*keeps the answers"),
    ],
)
def test_a_server_that_refuses_is_named_with_the_way_out(tmp_path, status, said, expected):
    with (
        Server(lambda n, body: (status, said)) as server,
        pytest.raises(ValueError, match=f"--endpoint.url={server.url} .*{expected}"),
    ):
        by_endpoint(Endpoint(server.url, "m")).answers(["a"], tmp_path / "x.jsonl")
    assert len(server.seen) == (llm.ATTEMPTS if status == 500 else 1)


def test_a_prompt_that_a_server_will_not_read_is_left_without_an_answer_and_not_asked_again(tmp_path, caplog):
    def reply(n, body):
        return (400, "too long") if "long" in body["messages"][0]["content"] else echo(n, body)

    with Server(reply) as server:
        model = by_endpoint(Endpoint(server.url, "m"))
        assert model.answers(["long a", "b", "long c"], tmp_path / "x.jsonl") == ["", "B", ""]
        assert len(server.seen) == 3 and "too long" in caplog.text
        assert model.answers(["long a", "long d"], tmp_path / "x.jsonl") == ["", ""]
        assert len(server.seen) == 4
    with Server(reply) as server, pytest.raises(ValueError, match="refuses the request: HTTP 400: too long"):
        by_endpoint(Endpoint(server.url, "m")).answers(["long a", "long b"], tmp_path / "all.jsonl")


def test_an_answer_that_comes_after_another_prompt_failed_is_kept(tmp_path):
    def reply(n, body):
        if body["messages"][0]["content"] == "a":
            return 401, "no"
        threading.Event().wait(0.5)
        return echo(n, body)

    with Server(reply) as server, pytest.raises(ValueError, match="refuses the request: HTTP 401"):
        by_endpoint(Endpoint(server.url, "m")).answers(["a", "b"], tmp_path / "x.jsonl")
    with Server(echo) as server:
        assert by_endpoint(Endpoint(server.url, "m")).answers(["a", "b"], tmp_path / "x.jsonl") == ["A", "B"]
        assert [body["messages"][0]["content"] for _, _, body in server.seen] == ["a"]


def test_nobody_there_is_an_error_after_some_attempts(tmp_path):
    with Server(echo) as server:
        url = server.url
    with pytest.raises(ValueError, match="does not answer after 5 attempts"):
        by_endpoint(Endpoint(url, "m", timeout_s=5)).answers(["a"], tmp_path / "x.jsonl")


def test_an_answer_that_was_cut_or_is_empty_counts_as_none(tmp_path):
    replies = {"cut": completion("half of", "length"), "null": completion(None), "whole": completion("all")}
    with Server(lambda n, body: (200, replies[body["messages"][0]["content"]])) as server:
        found = by_endpoint(Endpoint(server.url, "m")).answers(["cut", "null", "whole"], tmp_path / "x.jsonl")
    assert found == ["", "", "all"]


@pytest.mark.parametrize(
    "endpoint, said",
    [
        (Endpoint("", "m"), "--endpoint.url= is not an http address.*OPENAI_BASE_URL"),
        (Endpoint("localhost:8000", "m"), "is not an http address"),
        (Endpoint("file:///etc/passwd", "m"), "is not an http address"),
        (Endpoint("http://localhost:1/v1", ""), "--endpoint.model is missing"),
    ],
)
def test_an_endpoint_without_address_or_model_is_refused_at_once(endpoint, said):
    with pytest.raises(ValueError, match=said):
        by_endpoint(endpoint)


def test_what_a_model_thinks_first_is_no_part_of_its_answer(tmp_path):
    said = ["<think> hm </think> a", "b", "<think> on and on", "no tag opened </think> c"]
    found = without_thought(Writer("m", lambda prompts, path: said)).answers(["p"] * 4, tmp_path / "x.jsonl")
    assert found == ["a", "b", "<think> on and on", "c"]
