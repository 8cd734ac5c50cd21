"""Loads the tokenizer of a Hugging Face directory: tokenizer.json, and the small files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.tokenizers.chat_templates import render
from r1jax.tokenizers.protocol import read_stop_ids

NEEDED = "tokenizer.json"
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
)


class TokenizerJson:
    """The tokenizer of a tokenizer.json, run by the `tokenizers` library. Keeps all files of the tokenizer for `save`.

    Attributes:
        bos_id: id of the token that begins a text; None if the files name none.
        chat_template: the jinja2 template for conversations; "" if the model has none.
    """

    def __init__(self, files: Mapping[str, bytes], stop_ids: Sequence[int] = ()):
        """
        Args:
            files: {name: content} of tokenizer.json, and of those files in `BESIDE` that exist.
            stop_ids: ids of the tokens that end a text according to generation_config.json or config.json.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ValueError('tokenizer.json needs the extra "hf": pip install "r1jax[hf]"') from error
        self._files = dict(files)
        self._inner = Tokenizer.from_str(files[NEEDED].decode())
        config = json.loads(files.get("tokenizer_config.json", b"{}"))
        self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_token, self.eos_token, pad = (
            read_token_text(config.get(f"{kind}_token")) for kind in ("bos", "eos", "pad")
        )
        ids = [] if self.eos_token is None else [self._inner.token_to_id(self.eos_token)]
        self.stop_ids = tuple(dict.fromkeys([i for i in ids if i is not None] + list(stop_ids)))
        if not self.stop_ids:
            raise ValueError("no file says which token ends a text: add eos_token_id to generation_config.json")
        self.eos_id = self.stop_ids[0]
        pad_id = None if pad is None else self._inner.token_to_id(pad)
        self.bos_id = None if self.bos_token is None else self._inner.token_to_id(self.bos_token)
        self.pad_id = self.eos_id if pad_id is None else pad_id
        plain, whole = (self._inner.encode("a", add_special_tokens=special).ids for special in (False, True))
        self._start = whole[: len(whole) - len(plain)] if whole[len(whole) - len(plain) :] == plain else []
        template = files.get("chat_template.jinja", b"").decode() or config.get("chat_template") or ""
        if isinstance(template, list):  # transformers 4 allows several templates by name
            template = next((t["template"] for t in template if t["name"] == "default"), "")
        self.chat_template = template

    @classmethod
    def load(cls, directory: Path) -> TokenizerJson:
        """Loads the tokenizer of a Hugging Face directory. Raises ValueError if a file cannot be read."""
        try:
            files = {name: (directory / name).read_bytes() for name in (NEEDED, *BESIDE) if (directory / name).exists()}
            return cls(files, read_stop_ids(directory))
        except ValueError as error:
            raise ValueError(
                f"{directory}: the tokenizer cannot be read ({error}); download its files again"
            ) from error
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ValueError(f"{directory / NEEDED} cannot be read ({error}); download it again") from error

    def save(self, directory: Path) -> None:
        for name, content in self._files.items():
            (directory / name).write_bytes(content)
        if "generation_config.json" not in self._files:
            asked = {"eos_token_id": list(self.stop_ids), "pad_token_id": self.pad_id}
            (directory / "generation_config.json").write_text(json.dumps(asked, indent=1) + "\n")

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        ids = self._inner.encode(text, add_special_tokens=False).ids
        return [*self._start, *ids] if start else ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._inner.decode([int(i) for i in ids if i < self.vocab_size], skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, generate: bool = True, **names: Any) -> list[int]:
        """Returns the token ids of a conversation, rendered by the model's chat template.

        Arguments as for `chat_templates.render`.

        Raises:
            ValueError: the model has no template, or the template cannot render these messages.
        """
        if not self.chat_template:
            raise ValueError("this tokenizer has no chat template: call encode with plain text, as for a base model")
        given = {"bos_token": self.bos_token or "", "eos_token": self.eos_token or ""} | names
        return self.encode(render(self.chat_template, messages, generate=generate, **given), start=False)


def read_token_text(token: Any) -> str | None:
    """Returns the text of a special token in tokenizer_config.json; None if there is no such token.

    Args:
        token: the value in tokenizer_config.json, which is a string, a dictionary with the string as "content", or
            None.
    """
    return token["content"] if isinstance(token, dict) else token
