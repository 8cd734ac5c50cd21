"""Defines `Policy`, which holds a policy's model config, tokenizer and prompt template, but not its parameters."""

from __future__ import annotations

from typing import NamedTuple

from r1jax.model.config import ModelConfig
from r1jax.rewards.format import ANSWER
from r1jax.tokenizers.protocol import Tokenizer


class Policy(NamedTuple):
    """A policy without its parameters.

    Attributes:
        cfg: the architecture and its sizes.
        tokenizer: the tokenizer.
        template: the prompt template, with {question} where the question goes.
        form: the form that completions must have, a key of `format.STYLES`; "" takes the form that `template` asks
            for.
    """

    cfg: ModelConfig
    tokenizer: Tokenizer
    template: str
    form: str = ""

    @property
    def style(self) -> str:
        """The form that completions must have, a key of `format.STYLES`.

        It is `form`, if `form` is not empty. Otherwise it is "r1_zero" if the template asks for an <answer> block, and
        "r1" if not.
        """
        return self.form or ("r1_zero" if ANSWER in self.template else "r1")
