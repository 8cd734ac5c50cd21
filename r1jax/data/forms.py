"""Holds two tables of the record formats of published data sets: questions with answers, and conversations.

A format ("form") is recognised by the keys of a record. To add a format, write its function in the module `rl_forms`,
`benchmark_forms` or `talks`, and add the function to a table here. tests/cases/forms has three published records
of each format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from r1jax.data import benchmark_forms, rl_forms, talks

Question = Callable[[Mapping, str], dict | None]  # (record with keys in lower case, its id) -> {problem, gold, kind}
Talk = Callable[[Mapping], list[dict] | None]  # record with keys in lower case -> messages


class Found(NamedTuple):
    """A record, converted to a question or a conversation, and the name of the record's format.

    Attributes:
        form: the name of the record's format, a key of `QUESTIONS` or `TALKS`.
        value: the question {problem, gold, kind}, or the conversation's messages [{role, content}].
    """

    form: str
    value: object


QUESTIONS: dict[str, Question] = {  # the first that fits decides
    "verl (DAPO, Skywork, Eurus, SimpleRL): prompt, reward_model.ground_truth": rl_forms.verl,
    "Tülu RLVR: messages, ground_truth": rl_forms.tulu,
    "Open-Reasoner-Zero: a list of turns with ground_truth": rl_forms.orz,
    "TinyZero countdown: nums, target": rl_forms.countdown,
    "IFEval: prompt, instruction_id_list": benchmark_forms.ifeval,
    "HumanEval: prompt, test, entry_point": benchmark_forms.humaneval,
    "MMLU-Pro: question, options, answer": benchmark_forms.mmlu_pro,
    "MMLU, C-Eval, ARC: question, choices, answer": benchmark_forms.choices,
    "GPQA: question, correct answer, incorrect answer 1..3": benchmark_forms.gpqa,
    "APPS, TACO: question, input_output": benchmark_forms.apps,
    "LiveCodeBench: question_content, public_test_cases": benchmark_forms.livecodebench,
    "MBPP: text or prompt, test_list": benchmark_forms.mbpp,
    "TRL: prompt, solution or ground_truth": rl_forms.trl,
    "GSM8K: question, answer after ####": rl_forms.gsm8k,
    "MATH, AIME, AMC, DeepScaleR, Big-Math, OlympiadBench: problem, answer or boxed solution": rl_forms.answered,
}
TALKS: dict[str, Talk] = {
    "messages: role, content": talks.messages,
    "ShareGPT, OpenThoughts, Bespoke-Stratos: conversations": talks.conversations,
    "UltraFeedback, TRL preferences: prompt, chosen, rejected (the chosen one)": talks.chosen,
    "TRL: prompt, completion": talks.completion,
    "Alpaca, Dolly: instruction, input, output": talks.instruction,
    "s1K: question, thinking_trajectories, attempt": talks.traced,
    "OpenMathInstruct, MATH, GSM8K: problem or question, response or solution": talks.solved,
}


def find_question(keys: Mapping[str, object], name: str) -> Found | None:
    """Returns a record as a question, with the name of its format; None if no entry of `QUESTIONS` fits the record.

    Args:
        keys: the record, with its keys in lower case.
        name: the record's id, which seeds the order of GPQA's options.

    Raises:
        ValueError, KeyError, TypeError: the record has the keys of a format, but values that do not fit it.
    """
    for form, convert in QUESTIONS.items():
        if (row := convert(keys, name)) is not None:
            return Found(form, row)
    return None


def find_talk(keys: Mapping[str, object]) -> Found | None:
    """Returns a record as a conversation, with the name of its format; None if no entry of `TALKS` fits the record.

    Args:
        keys: the record, with its keys in lower case.

    Raises:
        ValueError, KeyError, TypeError: the record has the keys of a format, but values that do not fit it.
    """
    for form, convert in TALKS.items():
        if found := convert(keys):
            return Found(form, found)
    return None
