"""Checks proofs in Lean 4 with a server, if R1JAX_LEAN_SERVER names one: a Kimina-compatible server or a REPL.

R1JAX_LEAN_SERVER is a URL, such as http://localhost:8000, or a command that starts leanprover-community/repl, such as
`lake --dir=PROJECT exe repl`. The module sends one file with four parts: the goal as an axiom, the candidate (the
model's proof), a check that the candidate has the goal's type, and a command that prints the candidate's axioms. r1jax
writes this command, and only the server's message about this command can make a proof count as correct.

The server elaborates the candidate with the server's own rights, and answers with text that the candidate could
imitate. So a candidate is refused before anything is sent if it has commands that write messages, extend the syntax or
change the environment. Run the server where it can do no harm. The other checker, in `lean4.py`, need not refuse
candidates: it compiles the candidate in a sandbox, and reads the result (.olean files) as data.

Source: leanprover-community/repl and project-numina/kimina-lean-server, their READMEs.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable

from r1jax.rewards.proofs.lean4 import HEADER, IMPORTS, STANDARD
from r1jax.rewards.sandbox._watch import Limits

VARIABLE = "R1JAX_LEAN_SERVER"
GOAL = "R1Stmt.goal"
REFUSED = re.compile(
    r"(?<![\w.'«])(?:macro|macro_rules|syntax|elab|elab_rules|notation|infix[lr]?|prefix|postfix|declare_syntax_cat|"
    r"run_cmd|run_elab|run_meta|run_tac|initialize|builtin_initialize|unsafe|axiom|opaque|extern|implemented_by|csimp|"
    r"set_option|logInfo\w*|logError\w*|logWarning\w*|dbg_trace|addDecl\w*|unsafeCast|native_decide|sorry\w*|admit|"
    r"attribute|instance|export|import|eval\w*|open\s+Lean|Lean\.\w+|IO\.\w+|R1Stmt\w*)(?![\w'])|#\w+|@\[|«"
)
_AXIOMS = re.compile(r"'(?P<name>[^']+)' (?:does not depend on any axioms|depends on axioms: \[(?P<axioms>[^\]]*)\])")
Ask = Callable[[str, float], dict]


def absent() -> str | None:
    """Returns why no server can check proofs here, and what to set; None if R1JAX_LEAN_SERVER names a server."""
    server = os.environ.get(VARIABLE)
    if not server:
        return f"backend lean4: {VARIABLE} is not set; give the URL of a server or the command of a REPL"
    if not server.startswith(("http://", "https://")) and shutil.which(shlex.split(server)[0]) is None:
        return f"backend lean4: {VARIABLE}={server!r:.80} is neither a URL nor a command on PATH"
    return None


def prove(
    preamble: str, goal: str, proof: str, allowed: frozenset[str], limits: Limits, ask: Ask | None = None
) -> tuple[str, str]:
    """Checks whether `proof` proves `goal` and uses allowed axioms only.

    Args:
        preamble, goal, proof, allowed: as in `lean4.prove`.
        limits: `wall_s` is the time that the server gets.
        ask: a function that sends a source and returns the server's response. The default asks the server that
            R1JAX_LEAN_SERVER names.

    Returns:
        (verdict, reason): the verdict is "correct", "wrong", "budget" (Lean's deterministic timeout), "gold_unusable"
        (the preamble or the goal does not compile) or "error" (the server failed, or did not answer in time).
    """
    refused = REFUSED.search(IMPORTS.sub("", proof))
    if refused:
        return "wrong", f"candidate: {refused[0]!r:.40} is not allowed where a server checks"
    source, theorem, lines = write_source(preamble, goal, proof)
    try:
        response = (ask or functools.partial(_ask, os.environ[VARIABLE]))(source, limits.wall_s)
    except (OSError, ValueError, subprocess.SubprocessError) as problem:
        return "error", f"server: {type(problem).__name__}: {problem}"
    return judge(response, theorem, lines, allowed or STANDARD)


def write_source(preamble: str, goal: str, proof: str) -> tuple[str, str, tuple[int, int, int]]:
    """Composes the Lean source text to send to the server. The arguments are the same as for `lean4.prove`.

    Returns:
        (source, theorem, lines). `source` is the source text, and `theorem` is the name of the theorem to check.
        `lines` has three line numbers, counted from 1. They belong to the goal, to the line that compares the theorem
        with the goal, and to the command that prints the axioms.
    """
    header = HEADER.fullmatch(goal)
    theorem, rest = (header[1], header[2]) if header else ("main", f" : {goal}")
    body = IMPORTS.sub("", proof)
    if body.lstrip().startswith((":=", "by ", "by\n")):
        body = f"theorem {theorem}{rest} " + ("" if body.lstrip().startswith(":=") else ":= ") + body
    head = f"{preamble.rstrip()}\n\naxiom {GOAL}{rest}\n"
    source = f"{head}\n{body.rstrip()}\n\n"
    check = source.count("\n") + 1
    source += f"example : type_of% @{GOAL} := @{theorem}\n#print axioms {theorem}\n"
    return source, theorem, (preamble.rstrip().count("\n") + 3, check, check + 1)


def judge(response: dict, theorem: str, lines: tuple[int, int, int], allowed: frozenset[str]) -> tuple[str, str]:
    """Returns (verdict, reason) from a response of the REPL: {"messages": [{severity, pos {line}, data}], ...}.

    Args:
        theorem, lines: as `write_source` returns them.
        allowed: names of the axioms that the proof may use.
    """
    messages = response.get("messages") or []
    if not isinstance(messages, list) or "message" in response:  # the REPL's answer to a request it cannot read
        return "error", f"server: {str(response.get('message'))[:200]}"
    goal, check, question = lines
    errors = [message for message in messages if message.get("severity") == "error"]
    if errors:
        at = _line(errors[0])
        said = " ".join(str(errors[0].get("data")).split())[:200]
        if at <= goal + 1:
            return "gold_unusable", f"statement: {said}"
        if "deterministic" in said and "timeout" in said:
            return "budget", f"candidate: {said}"
        return "wrong", "check: the statement differs" if at >= check else f"candidate: {said}"
    answers = [message for message in messages if _line(message) == question and message.get("severity") == "info"]
    if len(answers) != 1:
        return "wrong", "check: no answer to the question for axioms"
    found = _AXIOMS.fullmatch(" ".join(str(answers[0].get("data")).split()))
    if not found or found["name"].rpartition(".")[2] != theorem.rpartition(".")[2]:
        return "wrong", "check: no answer to the question for axioms"
    axioms = {name.strip() for name in (found["axioms"] or "").split(",") if name.strip()}
    if not axioms <= allowed:
        return "wrong", f"axioms not allowed: {', '.join(sorted(axioms - allowed))}"
    return "correct", f"axioms: {', '.join(sorted(axioms)) or 'none'}"


def _line(message: dict) -> int:
    return int((message.get("pos") or {}).get("line") or 0)


def _ask(server: str, source: str, seconds: float) -> dict:
    """Sends a source to the server and returns the REPL's response.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: the server cannot be reached, does not answer in time, or gives
            something else.
    """
    if server.startswith(("http://", "https://")):
        body = {"codes": [{"custom_id": "r1jax", "proof": source}], "timeout": int(seconds)}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(f"{VARIABLE}_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{server.rstrip('/')}/verify", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=seconds + 30) as reply:
            return response_of(json.loads(reply.read()))
    said = subprocess.run(
        shlex.split(server), input=json.dumps({"cmd": source}) + "\n\n", capture_output=True, text=True, timeout=seconds
    )
    return json.loads(said.stdout)


def response_of(reply: dict) -> dict:
    """Extracts the REPL's response from a reply of Kimina's /verify, and returns it.

    Args:
        reply: {"results": [{"error", "response"}]}, with exactly one result.

    Raises:
        ValueError: the server reports an error, or the reply has another form.
    """
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], dict):
        raise ValueError(f"the reply does not have exactly one result: {str(reply)[:100]}")
    if results[0].get("error"):
        raise ValueError(str(results[0]["error"])[:200])
    response = results[0].get("response")
    if not isinstance(response, dict):
        raise ValueError("the result has no response")
    return response
