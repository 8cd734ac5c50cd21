"""Turns conversations into training documents: the chat template's text, with loss on the assistant's turns alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1jax.prompts import SYSTEM_PROMPTS
from r1jax.tokenizers.chat_templates import render
from r1jax.tokenizers.protocol import Tokenizer


def encode_conversation(
    messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, system: str = ""
) -> tuple[list[int], list[float]]:
    """Returns a conversation's token ids and their loss weights, two lists of equal length.

    The weights are 1 on each reply of the assistant and on the token that ends the reply, and 0 elsewhere. Some chat
    templates rewrite earlier replies. Qwen3's template, for example, drops their thoughts. With such a template, only
    the last reply has the weight 1.

    Args:
        messages: the messages, [{role, content}]; the last is the assistant's.
        tokenizer: its chat template is used.
        system: system prompt for conversations without one, or its name in `SYSTEM_PROMPTS`; "" for no system prompt.

    Raises:
        ValueError: the chat template cannot render the messages, or does not write the last reply as it is.
    """
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM_PROMPTS.get(system, system)}, *messages]
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    turns = write_turns(messages, replies, tokenizer) or write_turns(messages, replies[-1:], tokenizer)
    if turns is None:
        raise ValueError(
            "the chat template does not write the reply as it is: the template changes the reply, or the prompt before "
            "the reply. Some templates, for example, drop thoughts. Give another template with --template=FILE: a text "
            "file that contains {question}"
        )
    tokens: list[int] = []
    weights: list[float] = []
    for i, (asked, said) in enumerate(turns):
        prompt, reply = tokenizer.encode(asked, start=not tokens), tokenizer.encode(said, start=False)
        ends = [k + 1 for k, token in enumerate(reply) if token in tokenizer.stop_ids]
        if not ends and i == len(turns) - 1:
            reply = [*reply, tokenizer.eos_id]
        learnt = ends[-1] if ends else len(reply)
        tokens += prompt + reply
        weights += [0.0] * len(prompt) + [1.0] * learnt + [0.0] * (len(reply) - learnt)
    return tokens, weights


def write_turns(
    messages: Sequence[Mapping[str, str]], replies: Sequence[int], tokenizer: Tokenizer
) -> list[tuple[str, str]] | None:
    """Returns a pair (text before the reply, text of the reply) for each reply to train on.

    The text before a reply begins at the end of the previous reply to train on, or where the conversation begins.
    Returns None if the chat template alters a reply. Also returns None if the template writes the earlier messages
    differently once further messages follow.

    Args:
        replies: indices of the messages to train on.
    """
    names = dict(bos_token="", eos_token=getattr(tokenizer, "eos_token", "") or "")
    done, found = "", []
    for i in replies:
        before = render(tokenizer.chat_template, messages[:i], generate=True, **names)
        whole = render(tokenizer.chat_template, messages[: i + 1], generate=False, **names)
        said = whole[len(before) :]
        if not before.startswith(done) or not whole.startswith(before) or messages[i]["content"].strip() not in said:
            return None
        found.append((before[len(done) :], said))
        done = whole
    return found
