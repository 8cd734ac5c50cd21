"""Rewards of proofs: proofs pass, cheats do not, and a missing checker says what to install."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax.rewards import proof, sandbox
from r1jax.rewards.proofs import _metamath, lean4, metamath
from r1jax.rewards.proofs.coq import verdict_of

ROOT = str(Path(__file__).parents[2])
CASES = Path(__file__).parents[1] / "cases" / "proofs"
COQ = [json.loads(line) for line in (CASES / "coq" / "cases.jsonl").read_text().splitlines()]
DEMO = (CASES / "metamath" / "demo0.mm").read_text()
# demo0 ends with its one theorem; what stands before is the formal system.
SYSTEM, _, THEOREM = DEMO.partition("th1 $p")
GOAL = "|- t = t"
STEPS = THEOREM.partition("$)")[2].partition("$.")[0].split()
TASK = {"backend": "metamath", "preamble": SYSTEM, "goal": GOAL}

needs_coq = pytest.mark.skipif(
    proof.absent("coq") is not None or sandbox.probe().letter > proof.MINIMUM,
    reason=f"{proof.absent('coq') or 'no sandbox for compilers'}; {sandbox.probe()}",
)


@needs_coq
@pytest.mark.parametrize("row", COQ, ids=[row["id"] for row in COQ])
def test_coq_accepts_proofs_and_no_cheat(row):
    verdict = proof.verify(row["proof"], row | {"backend": "coq", "limits": {"time_s": 3, "wall_s": 60}})
    assert verdict.reward == float(row["expected"]), verdict


FALSE = {"backend": "coq", "preamble": "From Coq Require Import Lia.", "goal": "forall n : nat, n + 1 = n"}
MAIN = "Theorem main : forall n : nat, n + 1 = n.\n"
CHEATS = {
    "names of ours": "Module R1. Module Stmt. Definition goal := True. End Stmt. End R1. Definition main := I.",
    "a notation for main": "Notation main := ltac:(admit).",
    "a notation that prints": 'Notation main := ltac:(idtac "Closed under the global context"; exact I).',
    "universes": "Unset Universe Checking. Axiom x : False. " + MAIN + "Proof. destruct x. Qed.",
    "guard": "Unset Guard Checking. Fixpoint f (n : nat) : False := f n. " + MAIN + "Proof. destruct (f 0). Qed.",
    "a section": "Section S. Variable h : False. " + MAIN + "Proof. destruct h. Qed. End S.",
    "a module type": "Module Type M. Parameter h : False. End M. Declare Module X : M. "
    + MAIN
    + "Proof. destruct X.h. Qed.",
    "another plus": 'Notation "a + b" := a. ' + MAIN + "Proof. reflexivity. Qed.",
    "a silent global option": "Global Set Silent. Axiom x : False. " + MAIN + "Proof. destruct x. Qed.",
    "files": 'Require Extraction. Extraction "Stmt.vo" plus. Redirect "Check" Print nat. ' + MAIN + "Admitted.",
    "an implicit premise": "Theorem main {h : False} : forall n : nat, n + 1 = n. Proof. destruct h. Qed.",
    "obligations": (
        "Require Import Program. Program Definition main : forall n : nat, n + 1 = n := _. Admit Obligations."
    ),
    "an allowed name": "Module Classical_Prop. Axiom classic : False. End Classical_Prop. "
    + MAIN
    + "Proof. destruct Classical_Prop.classic. Qed.",
}


@needs_coq
@pytest.mark.parametrize("text", CHEATS.values(), ids=CHEATS)
def test_coq_cheats_of_other_kinds_fail_too(text):
    verdict = proof.verify(text, FALSE | {"allowed_axioms": ["Coq.Logic.Classical_Prop.classic"]})
    assert verdict.reward == 0, verdict


@needs_coq
def test_coq_axioms_count_only_where_they_are_allowed():
    task = {"backend": "coq", "preamble": "From Coq Require Import Classical.", "goal": "forall P : Prop, P \\/ ~ P"}
    text = (
        "<think>it is an axiom</think>\n```coq\nTheorem main : forall P : Prop, P \\/ ~ P.\n"
        "Proof. exact classic. Qed.\n```"
    )
    assert proof.verify(text, task).reward == 0
    assert proof.verify(text, task | {"allowed_axioms": ["Coq.Logic.Classical_Prop.classic"]}).reward == 1
    assert proof.verify(text, task | {"allowed_axioms": ["Coq.Logic.ClassicalEpsilon.epsilon"]}).reward == 0


@needs_coq
def test_a_statement_that_does_not_compile_is_no_fault_of_the_proof():
    verdict = proof.verify("Definition main := I.", {"backend": "coq", "goal": "no_such_thing 1"})
    assert (verdict.reward, verdict.verdict) == (None, "gold_unusable")


def test_anything_coq_says_beside_a_known_axiom_refuses():
    allowed = frozenset({"Classical_Prop.classic"})
    axiom = "Axioms:\nClassical_Prop.classic : forall P : Prop, P \\/ ~ P\n"
    assert verdict_of("Closed under the global context\n", frozenset())[0] == "correct"
    assert verdict_of(axiom, allowed)[0] == "correct"
    assert verdict_of(axiom, frozenset())[0] == "wrong"
    assert verdict_of("Closed under the global context\n" + axiom, frozenset())[0] == "wrong"
    assert verdict_of(axiom + "Cand.x : False\n", allowed)[0] == "wrong"
    assert verdict_of(axiom + "Cand.f is assumed to be guarded.\n", allowed)[0] == "wrong"
    assert verdict_of("", allowed)[0] == "wrong"


def test_metamath_verifies_a_whole_database():
    assert metamath.check(DEMO) == 1


@pytest.mark.skipif(not os.path.exists("/usr/share/metamath/databases/ql.mm"), reason="no metamath-databases here")
def test_metamath_verifies_quantum_logic_and_finds_a_changed_step():
    # In a process of its own: the suite checks the types of every call, which makes this a hundred times slower.
    source = r"""
import re
from r1jax.rewards.proofs import metamath, _metamath
text = open("/usr/share/metamath/databases/ql.mm", encoding="latin-1").read()
# as many theorems as there are $p outside comments
print(metamath.check(text) - len(re.findall(r"\s\$p\s", re.sub(r"\$\(.*?\$\)", "", text, flags=re.S))))
start = text.index("$=", len(text) // 2)
first = text.index(")", start) + 1  # the letters of one compressed proof
place = next(i for i in range(first, len(text)) if text[i] in "ABCDE")
try:
    metamath.check(text[:place] + chr(ord(text[place]) + 1) + text[place + 1 :])
except _metamath.Wrong:
    print("refused")
"""
    run = subprocess.run(
        [sys.executable, "-c", source], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert run.stdout.split() == ["0", "refused"], run.stderr


def test_a_metamath_proof_is_accepted_in_each_form():
    compressed = compress(STEPS, ["tt"])
    for text in (" ".join(STEPS), f"$= {' '.join(STEPS)} $.", f"th1 $p {GOAL} $= {' '.join(STEPS)} $.", compressed):
        assert proof.verify(text, TASK)[:2] == (1, "correct"), text
    assert proof.verify(" ".join(STEPS), TASK | {"goal": f"th1 $p {GOAL} $."}).reward == 1


def compress(steps, mandatory):
    """A proof in compressed form, without reuse: labels by number, hypotheses first, at most 20 of them."""
    labels = sorted(set(steps) - set(mandatory))
    letters = [chr(ord("A") + [*mandatory, *labels].index(step)) for step in steps]
    return f"( {' '.join(labels)} ) {''.join(letters)}"


def test_a_kept_step_of_a_compressed_proof_stands_for_its_result():
    # t = t twice by `tt Z`: the mandatory hypothesis A is kept and used again as letter 1 + 8 labels + 1.
    text = compress(STEPS, ["tt"])
    labels, _, letters = text.partition(") ")
    kept = chr(ord("A") + len(labels.split()))
    assert proof.verify(f"{labels}) AZ{letters[1:].replace('A', kept)}", TASK).reward == 1


def test_no_metamath_proof_with_one_changed_step_passes():
    rng = random.Random(0)
    for _ in range(80):
        steps, place, other = list(STEPS), rng.randrange(len(STEPS)), rng.choice(STEPS)
        if steps[place] != other:
            steps[place] = other
            assert proof.verify(" ".join(steps), TASK).reward == 0, steps


CHEATS_METAMATH = {
    "an axiom": f"x $a {GOAL} $. th1 $p {GOAL} $= x $.",
    "a constant": f"$c foo $. th1 $p {GOAL} $= ? $.",
    "unfinished": "?",
    "nothing": "$= $.",
    "a premise": f"h $e {GOAL} $. th1 $p {GOAL} $= h $.",
    "a condition": f"$d t r $. th1 $p {GOAL} $= {' '.join(STEPS)} $. th2 $p |- ( t + 0 ) = t $= tt a2 $.",
    "another theorem": "th1 $p |- ( t + 0 ) = t $= tt a2 $.",
    "a file": "$[ /etc/passwd $]",
    "itself": f"th1 $p {GOAL} $= tt th1 $.",
    "a scope that stays open": f"${{ h $e {GOAL} $. th1 $p {GOAL} $= h $.",
    "a hypothesis of another scope": f"th1 $p {GOAL} $= min $.",
    "an open comment": "$( " + " ".join(STEPS),
    "letters of no label": "( ) AAAAAAUUUUUUUUUUUUUUUUUUUUUUUUUUA",
    "kept nothing": "( ) Z",
    "surrogates": "\ud800 $p \udfff",
}


@pytest.mark.parametrize("text", CHEATS_METAMATH.values(), ids=CHEATS_METAMATH)
def test_metamath_cheats_fail(text):
    assert proof.verify(text, TASK)[:2] == (0, "wrong")


def test_variables_that_must_be_distinct_may_not_be_made_equal():
    system = "$c |- wff F $. $v x y z $. wx $f wff x $. wy $f wff y $. wz $f wff z $. ${ $d x y $. ax $a |- F x y $. $}"
    task = {"backend": "metamath", "preamble": system}
    assert (
        proof.verify("wx wy ax", task | {"goal": "|- F x y"}).reward == 0
    )  # the goal does not say that they are apart
    assert proof.verify("wx wy ax", task | {"preamble": system + " $d x y $.", "goal": "|- F x y"}).reward == 1
    assert proof.verify("wx wx ax", task | {"goal": "|- F x x"}).reward == 0


def test_a_metamath_proof_that_doubles_its_size_at_every_step_is_cut_off():
    system = "$c |- wff ( ) $. $v p $. wp $f wff p $. w2 $a wff ( p p ) $. ax $a |- p $."
    verdict = proof.verify("wp" + " w2" * 40, {"backend": "metamath", "preamble": system, "goal": "|- p"})
    assert (verdict.reward, verdict.verdict) == (0, "budget")


def test_metamath_axioms_can_be_narrowed():
    assert proof.verify(" ".join(STEPS), TASK | {"allowed_axioms": ["a1", "a2", "mp"]}).reward == 1
    assert proof.verify(" ".join(STEPS), TASK | {"allowed_axioms": ["a1", "mp"]}).reward == 0


@pytest.mark.parametrize(
    "database",
    [
        "$c a a $.",
        "$v x $. $v x $.",
        "$c a $. l $a a $. l $a a $.",
        "$c a $. p $p a $= ? $.",
        "x $f a b $.",
        "$c a $. ${ l $a a $.",
        "$c a $. $v x $. l $a a x $.",
        "$c a $. $v x $. ${ wx $f a x $. $} l $a a x $.",
        "$( open",
        "$c a",
        "$c a $. $}",
        "$c a $. $v x $. wx $f a x $. p $p a x $= wx wx $.",
    ],
)
def test_a_database_that_breaks_a_rule_is_refused(database):
    with pytest.raises(_metamath.Wrong):
        metamath.check(database)


@pytest.mark.parametrize(
    "example",
    [{"backend": "agda", "goal": "x"}, {"backend": "coq"}, {"backend": "metamath", "goal": "x y"}, {"goal": "x"}],
)
def test_a_task_that_cannot_be_read_gets_no_reward(example):
    assert proof.verify("x", example)[:2] == (None, "gold_unusable")


def test_a_blank_text_and_a_text_cut_off_have_no_answer():
    for text in ("", "<think>t</think> ", "```coq\nTheorem main"):
        assert proof.verify(text, TASK)[:2] == (0, "no_answer")


def test_without_coq_the_verdict_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("coqc") is None
    verdict = proof.verify(COQ[0]["proof"], COQ[0] | {"backend": "coq"})
    assert (verdict.reward, verdict.verdict) == (None, "error")
    assert "apt-get install coq" in verdict.stage


def test_without_lean_the_verdict_names_the_variable_to_set(monkeypatch):
    monkeypatch.delenv("R1JAX_LEAN_PROJECT", raising=False)
    verdict = proof.verify("by simp", {"backend": "lean4", "goal": "1 = 1"})
    assert (verdict.reward, verdict.verdict) == (None, "error")
    assert "R1JAX_LEAN_PROJECT is not set" in verdict.stage


def test_lean_statement_and_candidate_are_made_from_the_goal_not_from_the_proof():
    statement, candidate, theorem = lean4.sources("import Init", "theorem main (n : Nat) : n + 0 = n", ":= by simp")
    assert statement == "import Init\n\naxiom R1Stmt.goal (n : Nat) : n + 0 = n\n"
    assert candidate == "import Init\n\ntheorem main (n : Nat) : n + 0 = n := by simp\n"
    assert theorem == "main"
    statement, candidate, _ = lean4.sources("", "True", "import Evil\ntheorem main : True := trivial")
    assert statement.endswith("axiom R1Stmt.goal : True\n")
    assert "Evil" not in candidate
