"""Renders chat messages with a model's chat template, into text of the form that the model was trained on.

A template is untrusted code, so it runs in jinja2's sandbox.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def render(template: str, messages: Sequence[Mapping[str, Any]], *, generate: bool = True, **names: Any) -> str:
    """Returns the text of a conversation, as transformers' `apply_chat_template` writes it.

    Args:
        template: a jinja2 template, such as the content of chat_template.jinja.
        messages: the messages, each {"role": .., "content": ..}.
        generate: whether to end the text with the beginning of the assistant's turn, so that the model continues it.
        names: further variables of the template: bos_token, eos_token, tools, enable_thinking, ..

    Raises:
        ValueError: the template is broken, reaches outside the sandbox, or refuses these messages; or jinja2 is not
            installed.
    """
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ValueError('chat templates need the extra "hf": pip install "r1jax[hf]"') from error

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def as_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    world.filters["tojson"] = as_json
    world.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    try:
        return world.from_string(template).render(messages=list(messages), add_generation_prompt=generate, **names)
    except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError, OverflowError) as error:
        raise ValueError(
            f"the chat template cannot render these messages: {error}. Change the messages or the template"
        ) from error
