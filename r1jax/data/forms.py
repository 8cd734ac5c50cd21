"""Multiple choice and programs in the forms their authors publish them: records turned into {problem, gold, kind}."""

from __future__ import annotations

import ast
import json
import random
import string
from collections.abc import Mapping, Sequence

GPQA_WRONG = ("incorrect answer 1", "incorrect answer 2", "incorrect answer 3")


def known(keys: Mapping[str, object], name: str) -> dict | None:
    """The row of a record, without its id; None for a form that is none of these.

    MMLU and C-Eval    {question, choices [..] or A, B, C, D, answer: a letter or an index}
    ARC                {question, choices {text [..], label [..]}, answerKey}
    GPQA               {Question, Correct Answer, Incorrect Answer 1..3}; the options' order depends on the id alone
    APPS, TACO         {question, input_output {inputs, outputs, fn_name}}
    LiveCodeBench      {question_content, public_test_cases, private_test_cases as JSON, starter_code, metadata}
    MBPP               {text or prompt, test_list}: of its assertions those that compare one call with a value

    Args:
        keys: the record, its keys in lower case.
        name: the id, which orders GPQA's options.

    Raises:
        ValueError, KeyError, TypeError: a known form with something in it that breaks it.
    """
    for form in (_choices, _gpqa, _apps, _livecodebench, _mbpp):
        if (row := form(keys, name)) is not None:
            return row
    return None


def listed(question: object, options: Sequence[object]) -> str:
    """A question with its options, one a line, as simple-evals lists them."""
    return "\n".join(
        [
            str(question).strip(),
            "",
            *(f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)),
        ]
    )


def _choices(keys: Mapping, name: str) -> dict | None:
    question, options, answer = keys.get("question"), keys.get("choices"), keys.get("answer", keys.get("answerkey"))
    if options is None and all(letter in keys for letter in "abcd"):
        options = [keys[letter] for letter in "abcde" if keys.get(letter) is not None]
    labels: Sequence[object] = string.ascii_uppercase
    if isinstance(options, Mapping):
        options, labels = options.get("text"), [str(label).strip() for label in options.get("label") or ()]
    if not (isinstance(question, str) and isinstance(options, list) and 2 <= len(options) <= 26) or answer is None:
        return None
    given = (
        string.ascii_uppercase[answer] if type(answer) is int and 0 <= answer < len(options) else str(answer).strip()
    )
    if given not in labels[: len(options)]:
        return None
    gold = string.ascii_uppercase[list(labels).index(given)]
    return {"problem": listed(question, options), "gold": gold, "kind": "choice"}


def _gpqa(keys: Mapping, name: str) -> dict | None:
    if not all(isinstance(keys.get(key), str) for key in ("question", "correct answer", *GPQA_WRONG)):
        return None
    options = [keys["correct answer"].strip(), *(keys[key].strip() for key in GPQA_WRONG)]
    order = random.Random(f"options {name}").sample(range(4), 4)
    gold = string.ascii_uppercase[order.index(0)]
    return {"problem": listed(keys["question"], [options[i] for i in order]), "gold": gold, "kind": "choice"}


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def _apps(keys: Mapping, name: str) -> dict | None:
    question, tests = keys.get("question", keys.get("problem")), _json(keys.get("input_output"))
    if not isinstance(question, str) or not isinstance(tests, Mapping):
        return None
    pairs = [list(pair) for pair in zip(tests.get("inputs") or (), tests.get("outputs") or (), strict=False)]
    gold: dict = {"tests": pairs}
    if entry := tests.get("fn_name"):
        # A function's value stands in a list of its own, as most of these files have it.
        gold = {
            "entry": entry,
            "tests": [
                [given, value[0] if isinstance(value, list) and len(value) == 1 else value] for given, value in pairs
            ],
        }
    return {"problem": question, "gold": gold, "kind": "code"}


def _livecodebench(keys: Mapping, name: str) -> dict | None:
    question = keys.get("question_content")
    public, private = _json(keys.get("public_test_cases")), _json(keys.get("private_test_cases"))
    if not isinstance(question, str) or not isinstance(public, list):
        return None
    if keys.get("private_test_cases") and not isinstance(private, list):
        raise ValueError(
            "private_test_cases is no JSON. As published it is a compressed pickle, and to read that is to run it: "
            "write it as JSON first"
        )
    cases = [*public, *(private or ())]
    about = _json(keys.get("metadata"))
    entry = about.get("func_name") if isinstance(about, Mapping) else None
    starter = keys.get("starter_code")
    if entry:
        tests = [[[_json(line) for line in case["input"].split("\n")], _json(case["output"])] for case in cases]
        return {"problem": question, "gold": {"entry": entry, "tests": tests}, "kind": "code", "starter": starter}
    return {"problem": question, "gold": {"tests": [[case["input"], case["output"]] for case in cases]}, "kind": "code"}


def _mbpp(keys: Mapping, name: str) -> dict | None:
    question, lines = keys.get("text", keys.get("prompt")), keys.get("test_list")
    if not isinstance(question, str) or not isinstance(lines, list):
        return None
    tests, entries = [], set()
    for line in lines:
        if (found := _assertion(str(line))) is not None:
            entries.add(found[0])
            tests.append(list(found[1:]))
    if len(entries) != 1:
        return None
    problem = f"{question.strip()}\nYour code should pass these tests:\n" + "\n".join(map(str, lines))
    return {"problem": problem, "gold": {"entry": entries.pop(), "tests": tests}, "kind": "code"}


def _assertion(line: str) -> tuple[str, list, object] | None:
    """(function, arguments, value) of `assert f(1, [2]) == 3`; read as literals, never run."""
    try:
        (statement,) = ast.parse(line.strip()).body
        test = statement.test
        if not (
            isinstance(test, ast.Compare)
            and isinstance(test.ops[0], ast.Eq)
            and len(test.ops) == 1
            and not test.left.keywords
        ):
            return None
        return test.left.func.id, [ast.literal_eval(x) for x in test.left.args], ast.literal_eval(test.comparators[0])
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        return None
