r"""Reads questions with answers in the formats of published sets for reinforcement learning.

Each function that `forms.QUESTIONS` lists takes a record, whose keys are in lower case, and the record's id. It returns
a row {problem, gold, kind}, or None if the record has another format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from r1jax.rewards.kinds import GENERAL


def verl(keys: Mapping, name: str) -> dict | None:
    """Returns a record in verl's format as a row {problem, gold, kind}; None for another format.

    DAPO, Skywork-OR1, Eurus-2 and SimpleRL-Zoo use this format too.
    """
    model = keys.get("reward_model")
    if not isinstance(model, Mapping) or "ground_truth" not in model or (asked := prompt_text(keys)) is None:
        return None
    return {"problem": asked, **read_gold(model["ground_truth"])}


def tulu(keys: Mapping, name: str) -> dict | None:
    """Returns a record of Tülu's RLVR sets as a row {problem, gold, kind}; None for another format.

    For prompts of Tülu's instruction-following set, the gold holds the constraints, and the kind is "general",
    because no verifier checks the constraints.
    """
    if "ground_truth" not in keys or not isinstance(keys.get("messages"), list):
        return None
    asked, truth = join_messages([m for m in keys["messages"] if m.get("role") != "assistant"]), keys["ground_truth"]
    if keys.get("constraint_type") or str(keys.get("dataset", "")).lower() == "ifeval":
        return {"problem": asked, "gold": parsed(truth), "kind": GENERAL}
    return {"problem": asked, **read_gold(truth)}


def orz(keys: Mapping, name: str) -> dict | None:
    """Returns a record of Open-Reasoner-Zero as a row {problem, gold, kind}; None for another format.

    In the file, such a record is a list of two turns. `keys` has the turns under "0" and "1".
    """
    first, second = keys.get("0"), keys.get("1")
    if not isinstance(first, Mapping) or not isinstance(second, Mapping) or "ground_truth" not in second:
        return None
    truth = second["ground_truth"]
    return {"problem": first["value"], **read_gold(truth["value"] if isinstance(truth, Mapping) else truth)}


def countdown(keys: Mapping, name: str) -> dict | None:
    """Returns a record of TinyZero's countdown as a row {problem, gold, kind}; None for another format.

    The record holds only the numbers and the target. The row's problem states them in the words of TinyZero's prompt.
    """
    numbers, target = keys.get("nums"), keys.get("target")
    if not isinstance(numbers, list) or target is None:
        return None
    problem = (
        f"Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once."
    )
    return {"problem": problem, "gold": {"numbers": numbers, "target": target}, "kind": "countdown"}


def trl(keys: Mapping, name: str) -> dict | None:
    """Returns a record of TRL's sets for GRPO as a row {problem, gold, kind}; None for another format.

    The gold is the first of `ground_truth`, `solution` and `answer` that the record has. If this value is a text with a
    ####, the gold is what follows the last ####. Otherwise, if this value is a text with a box, the gold is the content
    of the last box.
    """
    if (asked := prompt_text(keys)) is None:
        return None
    truth = next((keys[key] for key in ("ground_truth", "solution", "answer") if keys.get(key) is not None), None)
    if truth is None:
        return None
    if isinstance(truth, str) and "####" in truth:
        truth = truth.rpartition("####")[2].strip().replace(",", "")
    elif isinstance(truth, str) and "\\boxed" in truth:
        truth = boxed(truth)
    return {"problem": asked, **read_gold(truth)}


def gsm8k(keys: Mapping, name: str) -> dict | None:
    """Returns a record of GSM8K as a row {problem, gold, kind}; None for another format.

    The gold is the text after the last #### in `solution`, or in `answer` if `solution` has no ####.
    """
    problem = keys.get("problem") or keys.get("question")
    found = [text for text in (keys.get("solution"), keys.get("answer")) if isinstance(text, str) and "####" in text]
    if problem is None or not found:
        return None
    return with_kind(problem, found[0].rpartition("####")[2].strip().replace(",", ""))


def answered(keys: Mapping, name: str) -> dict | None:
    """Returns a record with a problem and its answer as a row {problem, gold, kind}; None for another format.

    MATH, AIME, AMC and OlympiadBench use this format. The gold is the value of the first of the keys
    `final_answer`, `answer` and `expected_answer` that the record has. If the record has none of these keys, or if this
    value is null, the gold is the content of the last box in `solution`.
    """
    problem, solution = keys.get("problem") or keys.get("question"), keys.get("solution")
    answer = next((keys[key] for key in ("final_answer", "answer", "expected_answer") if key in keys), None)
    gold: object = None
    if isinstance(answer, list):  # OlympiadBench
        answers = [str(a).strip() for a in answer if a is not None]
        every = keys.get("is_multiple_answer") or keys.get("multiple")
        gold = answers[0] if len(answers) == 1 else ", ".join(answers) if every else answers
    elif answer is not None:  # AMC's integers come as floats
        gold = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()
    elif isinstance(solution, str):  # MATH as first published
        gold = boxed(solution)
    return None if problem is None or gold is None else with_kind(problem, gold)


def with_kind(problem: Any, gold: object) -> dict:
    """Returns the row {problem, gold, kind} of a question whose answer `gold` is a text or a list of right answers.

    The kind is "choice" if the answer is a letter from A to E and the question lists (A) and (B); otherwise "math".
    """
    chosen = isinstance(gold, str) and re.fullmatch(r"[A-E]", gold) and "(A)" in problem and "(B)" in problem
    return {"problem": problem, "gold": gold, "kind": "choice" if chosen else "math"}


def prompt_text(keys: Mapping) -> str | None:
    """Returns the question of a record whose `prompt` is a text or a list of messages; None if it is neither."""
    prompt = parsed(keys.get("prompt")) if isinstance(keys.get("prompt"), str) else keys.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(m, Mapping) and "content" in m for m in prompt):
        return join_messages(prompt)
    return keys["prompt"] if isinstance(keys.get("prompt"), str) else None


def join_messages(messages: list[Mapping]) -> str:
    """Returns the contents of messages as one text, because prompt templates take a single text."""
    return "\n\n".join(str(message["content"]).strip() for message in messages)


def read_gold(truth: object) -> dict:
    """Returns {gold, kind} for a ground truth in one of the forms that published sets use.

    The kind follows from the form of the ground truth: an answer or a JSON list of right answers (math), a program's
    tests (code), or the numbers and the target of a countdown problem (countdown).

    Raises:
        ValueError: the ground truth is an object of another form.
    """
    value = parsed(truth)
    if isinstance(value, Mapping):
        if "numbers" in value and "target" in value:
            return {"gold": {"numbers": list(value["numbers"]), "target": value["target"]}, "kind": "countdown"}
        if "inputs" in value and "outputs" in value:
            pairs = [list(pair) for pair in zip(value["inputs"], value["outputs"], strict=True)]
            entry = {"entry": value["fn_name"]} if value.get("fn_name") else {}
            return {"gold": entry | {"tests": pairs}, "kind": "code"}
        raise ValueError(f"the ground truth has the keys {', '.join(map(str, value))}; no verifier reads them")
    if (
        isinstance(value, list)
        and value
        and not (isinstance(truth, str) and not all(isinstance(x, str) for x in value))
    ):
        answers = [str(answer) for answer in value]
        return {"gold": answers[0] if len(answers) == 1 else answers, "kind": "math"}
    if isinstance(truth, float) and truth.is_integer():
        truth = int(truth)
    return {"gold": str(truth).strip(), "kind": "math"}


def parsed(value: object) -> object:
    """Parses a string that holds a JSON list or object. Returns any other value unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def boxed(text: str) -> str | None:
    r"""Returns what the last `\boxed{}` or `\fbox{}` in the text of a solution encloses; None if there is no box."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("box" if text[start : start + 5] == "\\fbox" else "boxed", 1)[1].lstrip()
    if not rest.startswith("{"):
        return rest.split(maxsplit=1)[0].strip("$.") if rest.split() else None  # \boxed 3
    depth = 0
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return rest[1:i].strip()
    return None
