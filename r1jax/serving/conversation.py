"""Turns the messages of a conversation into a prompt, and separates the thinking of a reply from its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1jax.policy import Policy
from r1jax.prompts import R1, fill
from r1jax.rewards.format import THINK, THINK_END
from r1jax.serving.replies import held_back

ROLES = ("system", "user", "assistant")


def encode_messages(policy: Policy, messages: Sequence[Mapping[str, Any]], *, chat: bool) -> list[int]:
    """Returns the prompt of a conversation as token ids, up to the beginning of the assistant's next turn.

    Args:
        policy: its tokenizer is used, and, if `chat` is False, its prompt template. Only the template r1 can hold
            several turns. Any other template holds a single question: the user's last message.
        messages: a list of {"role", "content"}; the last message is the user's.
        chat: whether the tokenizer's own chat template renders the messages.

    Raises:
        ValueError: a message cannot be used, or the chat template refuses the messages.
    """
    check_messages(messages)
    if chat:
        return policy.tokenizer.chat(messages)
    system = "".join(str(m["content"]) + "\n" for m in messages if m["role"] == "system")
    asked = [m["content"] for m in messages if m["role"] == "user"]
    if policy.template != R1:
        return policy.tokenizer.encode(fill(policy.template, system + asked[-1]))
    turns = [
        fill(R1, m["content"]) if m["role"] == "user" else answer_of(m["content"])
        for m in messages
        if m["role"] != "system"
    ]
    return policy.tokenizer.encode(system + "".join(turns))


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError if a message is not {"role", "content"} with a text, or the last message is not the user's."""
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ValueError(f"messages[{i}]: role must be one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{i}]: content must be a text")
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("messages must end with a message of role user, which the model then answers")


def has_chat(policy: Policy) -> bool:
    """Returns whether the tokenizer has a chat template of its own."""
    return bool(getattr(policy.tokenizer, "chat_template", ""))


def starts_thinking(policy: Policy, prompt: Sequence[int]) -> bool:
    """Returns whether a prompt (token ids) ends in `<think>`, so that the reply begins inside the chain of thought."""
    return policy.tokenizer.decode(prompt[-16:]).rstrip().endswith(THINK)


def answer_of(text: str) -> str:
    """Returns a reply without its chain of thought. Later turns see only this part, as in DeepSeek-R1's template."""
    return text.rpartition(THINK_END)[2].strip()


class Splitter:
    """Separates the thinking of a reply from its answer while the text streams in.

    Args:
        thinking: whether the reply begins inside the thinking.
    """

    def __init__(self, thinking: bool = False):
        self.thinking, self._held = thinking, ""

    def feed(self, text: str, *, last: bool = False) -> Iterator[tuple[bool, str]]:
        """Yields the new text without tags, as pairs (whether this piece is thinking, the piece).

        Text that may be the beginning of a tag is held back.

        Args:
            last: whether the reply ends here, so that nothing is held back.
        """
        text, self._held = self._held + text, ""
        while text:
            tag = THINK_END if self.thinking else THINK
            before, found, after = text.partition(tag)
            if not found and not last and (held := held_back(text, tag)):
                before, self._held = text[:-held], text[-held:]
            if before:
                yield self.thinking, before
            self.thinking = self.thinking != bool(found)
            text = after
