"""Reads conversations for fine-tuning in the formats of published data sets.

Each function takes a record, whose keys are in lower case. It returns the record's messages, [{role, content}], or None
if the record has another format. `forms.TALKS` lists the functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# OpenThoughts' marks of the thought and of the solution -> R1's
MARKS = (
    ("<|begin_of_thought|>", "<think>"),
    ("<|end_of_thought|>", "</think>"),
    ("<|begin_of_solution|>", ""),
    ("<|end_of_solution|>", ""),
)


def messages(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {messages: [{role, content}]}; None for another format.

    TRL, OpenR1-Math, NuminaMath-CoT, Tülu's mixtures and OpenAI's fine-tuning use this format.
    """
    return read_turns(keys.get("messages"), keys, "role", "content")


def conversations(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {system, conversations: [{from, value}]}; None for another format.

    ShareGPT, OpenThoughts and Bespoke-Stratos use this format. A turn may also be {role, content}.
    """
    turns = keys.get("conversations")
    names = ("role", "content") if isinstance(turns, list) and turns and "role" in turns[0] else ("from", "value")
    return read_turns(turns, keys, *names)


def chosen(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {prompt, chosen, rejected}, without `rejected`; None for another format.

    UltraFeedback and TRL's preferences use this format. `prompt` and `chosen` are texts or lists of messages.
    """
    if "chosen" not in keys or "rejected" not in keys:
        return None
    return join(keys.get("prompt"), keys["chosen"])


def completion(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {prompt, completion}, a format of TRL; None for another format.

    Each value is a text or a list of messages.
    """
    return join(keys.get("prompt"), keys["completion"]) if "completion" in keys and "prompt" in keys else None


def instruction(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {instruction, input or context, output or response}; None for another format.

    Alpaca and Dolly use this format.
    """
    said, more = keys.get("output", keys.get("response")), keys.get("input") or keys.get("context")
    if not isinstance(keys.get("instruction"), str) or not isinstance(said, str):
        return None
    asked = f"{keys['instruction']}\n\n{more}" if more else keys["instruction"]
    return join(asked, said)


def traced(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record {question, thinking_trajectories, attempt}; None for another format.

    s1K uses this format. The first trajectory becomes the chain of thought, between <think> tags.
    """
    thoughts, attempt = keys.get("thinking_trajectories"), keys.get("attempt")
    if not isinstance(thoughts, list) or not isinstance(attempt, str) or not thoughts:
        return None
    return join(keys["question"], f"<think>\n{thoughts[0].strip()}\n</think>\n\n{attempt.strip()}")


def solved(keys: Mapping) -> list[dict] | None:
    """Returns the messages of a record with a problem or question and its solution; None for another format.

    OpenMathInstruct, MATH and GSM8K use this format. The solution is the first of `response`, `generated_solution`,
    `solution` and `answer` that holds a text.
    """
    asked = keys.get("problem") or keys.get("question")
    names = ("response", "generated_solution", "solution", "answer")
    said = next((keys[name] for name in names if isinstance(keys.get(name), str)), None)
    return join(asked, said) if isinstance(asked, str) and said else None


def read_turns(turns: object, keys: Mapping, role: str, content: str) -> list[dict] | None:
    """Returns a list of turns as messages [{role, content}]; None if `turns` is empty or not a list.

    Args:
        turns: the turns of the conversation, a list of mappings or the JSON text of such a list.
        keys: the record. Its `system` becomes the first message if `turns` does not begin with a system prompt.
        role, content: the keys of a turn that hold its role and its text, such as "from" and "value".

    Raises:
        ValueError: a turn has an unknown role, or no text.
    """
    if isinstance(turns, str) and turns.startswith("["):
        turns = json.loads(turns)
    if not isinstance(turns, list) or not turns:
        return None
    found = []
    for turn in turns:
        name, text = ROLES.get(str(turn.get(role))), turn.get(content)
        if name is None or not isinstance(text, str):
            raise ValueError(
                f"a turn has {role}={turn.get(role)!r} and {content}={text!r:.40}; {content} must be a text, and "
                f"{role} one of {', '.join(ROLES)}"
            )
        for theirs, ours in MARKS:
            text = text.replace(theirs, ours)
        found.append({"role": name, "content": text})
    if found[0]["role"] != "system" and isinstance(keys.get("system"), str) and keys["system"].strip():
        found.insert(0, {"role": "system", "content": keys["system"]})
    return found


def join(asked: object, said: object) -> list[dict] | None:
    """Returns a prompt `asked` and its reply `said` as one list of messages; None if there is no reply.

    Each of the two is a text or a list of messages. If `said` holds both prompt and reply, `asked` is not used.
    """
    before, after = (
        [{"role": role, "content": part}] if isinstance(part, str) else read_turns(part, {}, "role", "content") or []
        for role, part in (("user", asked), ("assistant", said))
    )
    if len(after) > 1 and after[0]["role"] != "assistant":
        return after  # UltraFeedback repeats the prompt
    return [*before, *after] if after else None
