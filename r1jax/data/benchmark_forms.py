"""Reads multiple-choice and programming problems in the formats of published benchmarks.

There is a function for each format; `forms.QUESTIONS` lists these functions. Each takes a record (`keys`), whose keys
are in lower case, and the record's id (`name`). It returns a row {problem, gold, kind}, or None if the record has
another format. It raises ValueError, KeyError or TypeError if the record has the keys of the format, but values that do
not fit it.
"""

from __future__ import annotations

import ast
import json
import random
import string
from collections.abc import Mapping, Sequence

GPQA_WRONG = ("incorrect answer 1", "incorrect answer 2", "incorrect answer 3")


def list_options(question: object, options: Sequence[object]) -> str:
    """Returns the question followed by its options, one option per line as "A) ..", as simple-evals does."""
    return "\n".join(
        [
            str(question).strip(),
            "",
            *(f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)),
        ]
    )


def mmlu_pro(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of an MMLU-Pro record; None for a record of another format."""
    question, options, index = keys.get("question"), keys.get("options"), keys.get("answer_index")
    if not isinstance(question, str) or not isinstance(options, list) or "answer" not in keys:
        return None
    letter = str(keys["answer"]).strip()
    gold = letter if letter in string.ascii_uppercase[: len(options)] else string.ascii_uppercase[index]
    return {"problem": list_options(question, options), "gold": gold, "kind": "choice"}


def choices(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of an MMLU, C-Eval or ARC record; None for a record of another format."""
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
    return {"problem": list_options(question, options), "gold": gold, "kind": "choice"}


def gpqa(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of a GPQA record; None for a record of another format.

    The record's id, `name`, determines the order of the options.
    """
    if not all(isinstance(keys.get(key), str) for key in ("question", "correct answer", *GPQA_WRONG)):
        return None
    options = [keys["correct answer"].strip(), *(keys[key].strip() for key in GPQA_WRONG)]
    order = random.Random(f"options {name}").sample(range(4), 4)
    gold = string.ascii_uppercase[order.index(0)]
    return {"problem": list_options(keys["question"], [options[i] for i in order]), "gold": gold, "kind": "choice"}


def from_json(value: object) -> object:
    """Parses a string as JSON.

    Returns None if the string is not JSON. A value that is not a string is returned unchanged.
    """
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def apps(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of an APPS or TACO record; None for a record of another format."""
    question, tests = keys.get("question", keys.get("problem")), from_json(keys.get("input_output"))
    if not isinstance(question, str) or not isinstance(tests, Mapping):
        return None
    pairs = [list(pair) for pair in zip(tests.get("inputs") or (), tests.get("outputs") or (), strict=False)]
    gold: dict = {"tests": pairs}
    if entry := tests.get("fn_name"):
        # Most of these files wrap a function's value in a list of one.
        gold = {
            "entry": entry,
            "tests": [
                [given, value[0] if isinstance(value, list) and len(value) == 1 else value] for given, value in pairs
            ],
        }
    return {"problem": question, "gold": gold, "kind": "code"}


def livecodebench(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of a LiveCodeBench record; None for a record of another format.

    Raises ValueError if the private test cases are not JSON.
    """
    question = keys.get("question_content")
    public, private = from_json(keys.get("public_test_cases")), from_json(keys.get("private_test_cases"))
    if not isinstance(question, str) or not isinstance(public, list):
        return None
    if keys.get("private_test_cases") and not isinstance(private, list):
        raise ValueError(
            "private_test_cases is not JSON. LiveCodeBench publishes it as a compressed pickle, which is not read "
            "because reading a pickle can run code: write it as JSON first"
        )
    cases = [*public, *(private or ())]
    about = from_json(keys.get("metadata"))
    entry = about.get("func_name") if isinstance(about, Mapping) else None
    starter = keys.get("starter_code")
    if entry:
        tests = [[[from_json(line) for line in case["input"].split("\n")], from_json(case["output"])] for case in cases]
        return {"problem": question, "gold": {"entry": entry, "tests": tests}, "kind": "code", "starter": starter}
    return {"problem": question, "gold": {"tests": [[case["input"], case["output"]] for case in cases]}, "kind": "code"}


def mbpp(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of an MBPP record; None for a record of another format.

    Also returns None unless the assertions of the record call exactly one function. Assertions that `read_assertion`
    cannot read are ignored.
    """
    question, lines = keys.get("text", keys.get("prompt")), keys.get("test_list")
    if not isinstance(question, str) or not isinstance(lines, list):
        return None
    tests, entries = [], set()
    for line in lines:
        if (found := read_assertion(str(line))) is not None:
            entries.add(found[0])
            tests.append(list(found[1:]))
    if len(entries) != 1:
        return None
    problem = f"{question.strip()}\nYour code should pass these tests:\n" + "\n".join(map(str, lines))
    return {"problem": problem, "gold": {"entry": entries.pop(), "tests": tests}, "kind": "code"}


def humaneval(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of a HumanEval record; None for a record of another format.

    Only assertions such as `assert candidate(1) == 2`, which compare one call with a value, become tests. Raises
    ValueError if there is no such assertion.
    """
    prompt, entry, test = keys.get("prompt"), keys.get("entry_point"), keys.get("test")
    if not all(isinstance(value, str) for value in (prompt, entry, test)):
        return None
    try:
        found = [read_call(node) for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Assert)]
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        found = []
    tests = [list(call[1:]) for call in found if call and call[0] == "candidate"]
    if not tests:
        raise ValueError("no assertion of `test` compares one call of candidate with a value, so nothing can be tested")
    gold: dict = {"entry": entry, "tests": tests}
    if any(isinstance(value, float) for _, value in tests):
        gold["float_tolerance"] = 1e-6
    return {"problem": f"Complete this function.\n\n{prompt.strip()}", "gold": gold, "kind": "code", "starter": prompt}


def ifeval(keys: Mapping, name: str) -> dict | None:
    """Returns the row {problem, gold, kind} of an IFEval record; None for a record of another format."""
    prompt, names, given = keys.get("prompt"), keys.get("instruction_id_list"), keys.get("kwargs")
    if not isinstance(prompt, str) or not isinstance(names, list) or not isinstance(given, list):
        return None
    kwargs = [{key: value for key, value in (one or {}).items() if value is not None} for one in given]
    return {"problem": prompt, "gold": {"instructions": names, "kwargs": kwargs}, "kind": "instructions"}


def read_assertion(line: str) -> tuple[str, list, object] | None:
    """Reads a line of the form `assert f(1, [2]) == 3`, without running it.

    Returns:
        (name of the function, list of its arguments, expected value); None if the line has another form, or if an
        argument or the value is not a literal.
    """
    try:
        (statement,) = ast.parse(line.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return read_call(statement)


def read_call(statement: ast.AST) -> tuple[str, list, object] | None:
    """Returns what `read_assertion` returns, for a statement that is already parsed."""
    try:
        test = statement.test
        if not (
            isinstance(test, ast.Compare)
            and isinstance(test.ops[0], ast.Eq)
            and len(test.ops) == 1
            and not test.left.keywords
        ):
            return None
        return test.left.func.id, [ast.literal_eval(x) for x in test.left.args], ast.literal_eval(test.comparators[0])
    except (ValueError, AttributeError, RecursionError, MemoryError):
        return None
