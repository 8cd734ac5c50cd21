"""Lean 4 by a server: what is sent, what is refused, and what each response means.

No machine of these tests has Lean. The responses are written by hand in the form that the READMEs of the REPL and of
Kimina's server document. `R1JAX_LEAN_SERVER` runs the cases of tests/cases/proofs/lean on a real server.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from r1jax.rewards import proof
from r1jax.rewards.proofs import lean_server
from r1jax.rewards.sandbox._watch import Limits

GOAL = "theorem main (n : Nat) : n + 0 = n"
CASES = Path(__file__).parents[1] / "cases" / "proofs" / "lean" / "cases.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text().splitlines()]
SOURCE, THEOREM, LINES = lean_server.write_source("import Mathlib", GOAL, ":= by simp")
LIMITS = Limits.of(proof.LIMITS["lean4"])


def message(severity, line, data):
    return {"severity": severity, "pos": {"line": line, "column": 0}, "endPos": None, "data": data}


def axioms(said, line=LINES[2]):
    return message("info", line, f"'main' {said}")


NONE = axioms("does not depend on any axioms")
TRANSCRIPTS = {
    "no axioms": ({"messages": [NONE], "env": 0}, "correct"),
    "the standard axioms": (
        {"messages": [axioms("depends on axioms: [propext,\n Classical.choice,\n Quot.sound]")], "env": 0},
        "correct",
    ),
    "a warning of the linter": (
        {"messages": [message("warning", 5, "unused variable `h`"), NONE], "env": 0},
        "correct",
    ),
    "sorry": (
        {
            "sorries": [{"pos": {"line": 5, "column": 44}, "goal": "⊢ n + 0 = n", "proofState": 0}],
            "messages": [
                message("warning", 5, "declaration uses 'sorry'"),
                axioms("depends on axioms: [sorryAx]"),
            ],
            "env": 0,
        },
        "wrong",
    ),
    "the goal itself": ({"messages": [axioms("depends on axioms: [R1Stmt.goal]")], "env": 0}, "wrong"),
    "another statement": (
        {"messages": [message("error", LINES[1], "type mismatch\n  @main\nhas type\n  True : Prop"), NONE], "env": 0},
        "wrong",
    ),
    "an error in the proof": ({"messages": [message("error", 5, "unsolved goals\nn : Nat"), NONE], "env": 0}, "wrong"),
    "an error in the goal": (
        {"messages": [message("error", LINES[0], "unknown identifier 'Natt'")], "env": 0},
        "gold_unusable",
    ),
    "the proof prints an answer": ({"messages": [axioms("does not depend on any axioms", 5)], "env": 0}, "wrong"),
    "two answers": ({"messages": [NONE, NONE], "env": 0}, "wrong"),
    "no answer": ({"env": 0}, "wrong"),
    "axioms of another theorem": (
        {"messages": [message("info", LINES[2], "'other' does not depend on any axioms")], "env": 0},
        "wrong",
    ),
    "a time limit": (
        {
            "messages": [message("error", 5, "(deterministic) timeout at `whnf`, maximum number of heartbeats")],
            "env": 0,
        },
        "budget",
    ),
    "a request that it cannot read": ({"message": "Could not parse JSON"}, "error"),
}


def test_the_file_that_is_sent_states_the_goal_before_the_proof():
    assert SOURCE.splitlines() == [
        "import Mathlib",
        "",
        "axiom R1Stmt.goal (n : Nat) : n + 0 = n",
        "",
        "theorem main (n : Nat) : n + 0 = n := by simp",
        "",
        "example : type_of% @R1Stmt.goal := @main",
        "#print axioms main",
    ]
    assert SOURCE.splitlines()[LINES[0] - 1].startswith("axiom") and LINES[1:] == (7, 8)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_response_has_one_verdict(name):
    response, verdict = TRANSCRIPTS[name]
    found, reason = lean_server.prove("import Mathlib", GOAL, ":= by simp", frozenset(), LIMITS, lambda *_: response)
    assert found == verdict, reason


def test_axioms_may_be_allowed_by_name():
    response = TRANSCRIPTS["sorry"][0]
    ask = lambda *_: response  # noqa: E731
    allowed = frozenset({"sorryAx"})
    assert lean_server.prove("import Mathlib", GOAL, ":= by simp", allowed, LIMITS, ask)[0] == "correct"


DANGEROUS = [row for row in ROWS if row["attack"] in ("forgery", "meta", "native", "kernel", "escape")]


@pytest.mark.parametrize("row", DANGEROUS, ids=[row["id"] for row in DANGEROUS])
def test_what_could_imitate_the_answer_is_refused_before_it_is_sent(row):
    def ask(*_):
        raise AssertionError("sent")

    assert lean_server.prove("", row["statement"], row["proof"], frozenset(), LIMITS, ask)[0] == "wrong"


@pytest.mark.parametrize("row", [row for row in ROWS if row["expected"]], ids=lambda row: row["id"])
def test_honest_proofs_are_sent(row):
    assert lean_server.REFUSED.search(row["proof"]) is None


@pytest.fixture
def server():
    """A server with Kimina's /verify. It answers each proof by the same transcript."""
    replies, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(replies.pop(0)).encode())

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", replies, asked
    http.shutdown()


def test_a_kimina_server_is_asked_and_its_answer_decides(server, monkeypatch):
    url, replies, asked = server
    monkeypatch.delenv("R1JAX_LEAN_PROJECT", raising=False)
    monkeypatch.setenv("R1JAX_LEAN_SERVER", url)
    task = {"backend": "lean4", "preamble": "import Mathlib", "goal": GOAL}
    replies += [
        {"results": [{"custom_id": "r1jax", "error": None, "response": TRANSCRIPTS["no axioms"][0] | {"time": 0.1}}]},
        {"results": [{"custom_id": "r1jax", "error": "Lean process timed out", "response": None}]},
        {"detail": "nothing"},
    ]
    verdicts = [proof.verify("```lean4\n:= by simp\n```", task) for _ in range(3)]
    assert [verdict.reward for verdict in verdicts] == [1.0, None, None]
    assert "timed out" in verdicts[1].stage
    path, body = asked[0]
    assert path == "/verify" and body["codes"] == [{"custom_id": "r1jax", "proof": SOURCE}]


def test_a_repl_is_started_and_reads_one_command(tmp_path, monkeypatch):
    reply = json.dumps(TRANSCRIPTS["no axioms"][0])
    script = tmp_path / "repl.py"
    script.write_text(
        f"import json, sys\nassert 'R1Stmt.goal' in json.loads(sys.stdin.read())['cmd']\nprint({reply!r})\n"
    )
    monkeypatch.delenv("R1JAX_LEAN_PROJECT", raising=False)
    monkeypatch.setenv("R1JAX_LEAN_SERVER", f"python3 {script}")
    task = {"backend": "lean4", "preamble": "import Mathlib", "goal": GOAL}
    assert proof.verify(":= by simp", task).reward == 1.0
    monkeypatch.setenv("R1JAX_LEAN_SERVER", "no-such-command")
    verdict = proof.verify(":= by simp", task)
    assert verdict.reward is None and "neither a URL nor a command" in verdict.stage


@pytest.mark.skipif(not os.environ.get("R1JAX_LEAN_SERVER"), reason="R1JAX_LEAN_SERVER names no Lean 4 server")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_cases_on_a_real_server(row):
    verdict = proof.verify(row["proof"], {"backend": "lean4", "goal": row["statement"]})
    assert (verdict.reward == 1.0) == row["expected"], verdict
