"""Checks proofs in Lean 4, if R1JAX_LEAN_PROJECT names a built Lake project.

The statement (the goal of the task) and the candidate (the model's proof) are compiled in separate sandboxes. The check
is r1jax's own program. It reads both .olean files as data, runs none of their code, checks every declaration of the
candidate again with the kernel, and compares types and axioms itself. The tests of this project do not run this
checker, because they have no Lean.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Tier
from r1jax.rewards.sandbox._watch import Limits, Outcome

VARIABLE = "R1JAX_LEAN_PROJECT"
STANDARD = frozenset({"propext", "Classical.choice", "Quot.sound"})
HEADER = re.compile(r"\s*(?:theorem|lemma)\s+([\w.'«»]+)(.*)", re.DOTALL)
IMPORTS = re.compile(r"\A(?:\s*import\s+\S+[^\n]*\n?)+")
CHECK = """import Lean
import Lean.Replay
open Lean

def main (arguments : List String) : IO UInt32 := do
  initSearchPath (← findSysroot)
  let (statement, _) ← readModuleData "Stmt.olean"
  let (candidate, _) ← readModuleData "Cand.olean"
  let base ← importModules candidate.imports {}
  let mut declared : Std.HashMap Name ConstantInfo := {}
  for name in candidate.constNames, constant in candidate.constants do
    declared := declared.insert name constant
  let environment ← base.replay declared
  let wanted := (statement.constNames.zip statement.constants).find? (·.1 == `R1Stmt.goal)
  let name := (arguments.headD "main").toName
  match wanted, environment.find? name with
  | some (_, goal), some proof =>
    let levels := goal.levelParams.map Level.param
    if goal.levelParams.length != proof.levelParams.length then
      IO.println "statement"
      return 0
    match Kernel.isDefEq environment {} goal.type (proof.instantiateTypeLevelParams levels) with
    | .ok true =>
      let (_, found) := ((CollectAxioms.collect name).run environment).run {}
      IO.println s!"axioms {" ".intercalate (found.axioms.toList.map toString)}"
    | _ => IO.println "statement"
  | _, _ => IO.println "statement"
  return 0
"""


def absent() -> str | None:
    """Returns what Lean 4 lacks on this machine, and what to install or set; None if proofs can be checked."""
    project = os.environ.get(VARIABLE)
    if not project:
        return (
            f"backend lean4: {VARIABLE} is not set; set it to the folder of a built Lake project, or set "
            "R1JAX_LEAN_SERVER to a server or REPL, or leave out the rows for lean4"
        )
    if not Path(project, "lean-toolchain").is_file():
        return f"backend lean4: {VARIABLE}={project} holds no file lean-toolchain; name a built Lake project"
    if shutil.which("lake") is None:
        return "backend lean4: no lake on PATH; install Lean (elan), or leave out the rows for lean4"
    return None


def prove(preamble: str, goal: str, proof: str, allowed: frozenset[str], limits: Limits, tier: Tier) -> tuple[str, str]:
    """Checks whether `proof` proves `goal` and uses allowed axioms only.

    Args:
        preamble: text before both statement and proof, such as imports.
        goal: `theorem name (x : T) : P` without its proof, or only a type. If it is only a type, the theorem is named
            `main` and must have this type.
        proof: `:= ...`, `by ...` or a whole file.
        allowed: names of the axioms that the proof may use. If empty, the proof may use the three axioms of `STANDARD`.
        limits: resource limits of each compilation and of the check.
        tier: isolation tier of the sandboxes.
    Returns:
        (verdict, reason): the verdict is "correct", "wrong", "budget" (compiling the proof, or the check, reached a
            limit) or "gold_unusable" (the goal does not compile within the limits).
    Raises:
        Unavailable: the sandbox did not start.
    """
    statement, candidate, theorem = sources(preamble, goal, proof)
    name, compiled = _compile({"Stmt.lean": statement.encode("utf-8", "replace")}, "Stmt", limits, tier)
    if name:
        return "gold_unusable", f"statement: {compiled}"
    stmt = compiled
    name, compiled = _compile({"Cand.lean": candidate.encode("utf-8", "replace")}, "Cand", limits, tier)
    if name:
        return name, f"candidate: {compiled}"
    files = {"Stmt.olean": stmt, "Cand.olean": compiled, "Check.lean": CHECK.encode()}
    outcome = _run(["--run", "Check.lean", theorem], files, [], limits, tier)
    said = outcome.stdout.decode("utf-8", "replace").strip()
    if outcome.status != "exited":
        return "budget", f"check: {outcome.status}"
    if outcome.code or not said.startswith("axioms"):
        return "wrong", "check: the statement differs" if said == "statement" else f"check: exit status {outcome.code}"
    found = set(said.split()[1:])
    if not found <= (allowed or STANDARD):
        return "wrong", f"axioms not allowed: {', '.join(sorted(found - (allowed or STANDARD)))}"
    return "correct", f"axioms: {', '.join(sorted(found)) or 'none'}"


def sources(preamble: str, goal: str, proof: str) -> tuple[str, str, str]:
    """Returns (source file of the statement, source file of the candidate, name of the theorem to check).

    The arguments are the same as for `prove`.
    """
    header = HEADER.fullmatch(goal)
    theorem, rest = (header[1], header[2]) if header else ("main", f" : {goal}")
    statement = f"{preamble}\n\naxiom R1Stmt.goal{rest}\n"
    body = IMPORTS.sub("", proof)
    if body.lstrip().startswith((":=", "by ", "by\n")):
        body = f"theorem {theorem}{rest} " + ("" if body.lstrip().startswith(":=") else ":= ") + body
    return statement, f"{preamble}\n\n{body}\n", theorem


@functools.lru_cache(maxsize=4)
def _project(project: str) -> tuple[str, str]:
    """Returns (folder of the Lean toolchain, LEAN_PATH) of the Lake project in the folder `project`.

    Asks Lake, which runs without a sandbox, because the project is the user's own.
    """
    # the worker's own memory limit is too low for Lake
    command = ["sh", "-c", "ulimit -S -v unlimited; exec lake env printenv"]
    said = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, timeout=120)
    values = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)
    return values["LEAN_SYSROOT"], values["LEAN_PATH"]


def _run(arguments: list[str], files: dict[str, bytes], fetch: list[str], limits: Limits, tier: Tier) -> Outcome:
    prefix, path = _project(os.environ[VARIABLE])
    job = {
        "kind": "command",
        "argv": [f"{prefix}/bin/lean", *arguments],
        "env": {"LEAN_PATH": path, "LEAN_SYSROOT": prefix},
        "files": files,
        "fetch": fetch,
    }
    show = (prefix, *(folder for folder in path.split(":") if os.path.isabs(folder)))
    return sandbox.run(job, limits, tier=tier, show=show)


def _compile(files: dict[str, bytes], module: str, limits: Limits, tier: Tier):
    """Compiles a Lean module in a sandbox.

    Args:
        files: name -> content of the files in the sandbox.
        module: the name of the module; `files` has its source `module`.lean.
    Returns:
        ("", content of the .olean file) on success;
        ("wrong", Lean's error) or ("budget", the limit that was exceeded) on failure.
    """
    outcome = _run(["-o", f"{module}.olean", f"{module}.lean"], files, [f"{module}.olean"], limits, tier)
    if outcome.status != "exited":
        return "budget", outcome.status
    if outcome.code or outcome.files[0] is None:
        said = " ".join(outcome.stdout.decode("utf-8", "replace").split())
        return "wrong", "".join(c if c.isprintable() else " " for c in said)[:300]
    return "", outcome.files[0]
