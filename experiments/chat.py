"""Talks with a checkpoint in the terminal: replies stream, thinking is folded into one line, the history is kept.

Run:     python -m experiments.chat                        (the base model that ships with the package)
         python -m experiments.chat runs/r1_zero-…         (a run, or one of its checkpoints)
         python -m experiments.chat Qwen3-0.6B --thinking=show --temperature=0.7 --system="Answer briefly."
Type:    a question; a line that ends in \\ goes on in the next line. Ctrl-C stops the reply. /new begins a new
         conversation, /again samples the last reply once more, /quit or Ctrl-D ends
Cost:    memory for two copies of the model; the first reply waits for compilation. Later runs find the compiled
         programs in a cache
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import sys
import time
from typing import Annotated, Literal, TextIO

import tyro

from r1jax import cli
from r1jax.distributed import launch
from r1jax.serving.conversation import Splitter, answer_of, encode_messages, starts_thinking
from r1jax.serving.models import Model, load
from r1jax.serving.replies import Request, Settings, reply

DIM, PLAIN, CLEAR = "\x1b[2m", "\x1b[0m", "\r\x1b[K"  # for a terminal


@dataclasses.dataclass(frozen=True)
class Command:
    """Talks with a checkpoint."""

    weights: Annotated[str, tyro.conf.Positional] = ""
    """A run's directory, one of its checkpoints, a Hugging Face directory, a PEFT adapter, or OWNER/NAME of the Hugging
    Face Hub. Default: the base model of --model."""
    model: str = "nano"
    """Base model that is used if no weights are given, such as nano or nano-small, which ship with the package."""
    template: str = ""
    """How questions are asked: chat (the tokenizer's own chat template), r1, r1_zero, or a text file that contains
    {question}. Default: chat if the tokenizer has a chat template, else the template of the run, else r1_zero. The
    model sees the earlier turns only with chat and r1."""
    system: str = ""
    """System prompt: instructions that the model reads before the first question. Default: none."""
    temperature: float = 0.6
    """Sampling temperature. 0 is greedy."""
    top_p: float = 0.95
    """Sample only from the likeliest tokens, as many as are needed for a total probability of top_p. 1: from all."""
    top_k: int = 0
    """Sample only from this many of the likeliest tokens. 0: from all."""
    min_p: float = 0.0
    """Sample only from tokens whose probability is at least this fraction of the likeliest token's. 0: from all."""
    max_tokens: int = 1024
    """Maximum number of tokens of a reply."""
    seed: int | None = None
    """Seed of the replies. Default: a new random seed for each reply."""
    thinking: Literal["fold", "show", "hide"] = "fold"
    """What is shown of the text between <think> and </think>. fold: the number of characters. show: the whole text.
    hide: nothing."""
    mesh: str = "1x1"
    """Device mesh: AxB (fsdp=A, tensor=B), or axes by name, such as data:2,fsdp:2."""


class Screen:
    """Writes a reply as it streams in. On a terminal, thinking is dim.

    Folded thinking is replaced by one line, with its duration in seconds and its number of characters.

    Args:
        thinking: "fold", "show" or "hide".
        begins: whether the reply begins inside the thinking.
    """

    def __init__(self, out: TextIO, thinking: str, begins: bool):
        self._out, self._how, self._terminal = out, thinking, out.isatty()
        self._split, self._thought, self._began = Splitter(begins), 0, time.monotonic()
        self._open = self._written = False

    def write(self, text: str, *, last: bool = False) -> None:
        """Writes new text of the reply. `last` says whether the reply ends with this text."""
        for thinking, part in self._split.feed(text, last=last):
            self._think(part) if thinking else self._answer(part)
        if last:
            self._fold()
            self._out.write("\n")
        self._out.flush()

    def _think(self, part: str) -> None:
        self._open = True
        self._thought += len(part)
        if self._how == "show":
            self._out.write(f"{DIM}{part}{PLAIN}" if self._terminal else part)
        elif self._how == "fold" and self._terminal:
            self._out.write(f"{CLEAR}{DIM}thinking, {self._thought} characters{PLAIN}")

    def _answer(self, part: str) -> None:
        self._fold()
        if not self._written:
            part = part.lstrip()
        self._written |= bool(part)
        self._out.write(part)

    def _fold(self) -> None:
        """Ends the thinking, if it is open."""
        if self._open and self._how == "fold":
            seconds = time.monotonic() - self._began
            note = f"thought for {seconds:.0f} s, {self._thought} characters"
            self._out.write(f"{CLEAR}{DIM}{note}{PLAIN}\n" if self._terminal else f"[{note}]\n")
        elif self._open and self._how == "show":
            self._out.write("\n")
        self._open = False


def chat(command: Command) -> None:
    """Reads questions from standard input, and writes the replies to standard output, until the user ends the program.

    Raises:
        ValueError: a flag or the checkpoint cannot be used.
    """
    if command.max_tokens < 1:
        raise ValueError(f"--max-tokens={command.max_tokens} must be at least 1")
    launch.share_cpu(command.mesh)
    launch.keep_compilations()
    model = load(command.weights, command.model, command.template, command.mesh)
    print(f"{model.described}. Ctrl-C stops a reply, /new begins anew, /quit ends")
    if command.system and not model.has_history:
        print("note: this template has no system prompt; --system is put before the question")
    first = [{"role": "system", "content": command.system}] if command.system else []
    messages = list(first)
    while True:
        try:
            if (line := ask()) is None:
                return
            if line == "/new":
                messages = list(first)
                continue
            if line == "/again" and messages and messages[-1]["role"] == "assistant":
                messages.pop()
            elif line.startswith("/"):
                print("type a question, or /new, /again, /quit")
                continue
            elif line:
                messages.append({"role": "user", "content": line})
            else:
                continue
            text = answer(command, model, messages)
        except KeyboardInterrupt:  # drops the line that is being typed, or a question whose reply has not begun
            print()
            if messages and messages[-1]["role"] == "user":
                messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})
        if not model.has_history:
            messages = [*first, *messages[-2:]]


def ask() -> str | None:
    """Returns the next question; None if the user ends the program."""
    with contextlib.suppress(ImportError):  # arrow keys and earlier questions, where Python has it
        import readline  # noqa: F401
    lines: list[str] = []
    while True:
        try:
            line = input("... " if lines else ">>> ")
        except EOFError:
            print()
            return None
        if line.strip() == "/quit":
            return None
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines).strip()


def answer(command: Command, model: Model, messages: list[dict[str, str]]) -> str:
    """Samples the reply to the last question, and writes it to standard output as it streams in.

    Returns the reply's text: incomplete if Ctrl-C stopped the reply, empty if the question does not fit the context.
    Turns that no longer fit the model's context are dropped from `messages`, the oldest first.
    """
    context = model.policy.cfg.max_positions
    while True:
        prompt = encode_messages(model.policy, shown(messages, model), chat=model.chat)
        oldest = next((i for i, m in enumerate(messages[:-1]) if m["role"] != "system"), None)
        room = context - len(prompt)
        if room >= min(command.max_tokens, context // 4) or oldest is None:
            break
        del messages[oldest : oldest + 2]
        print("note: the oldest turn no longer fits the context")
    if room < 1:
        print(f"the question has {len(prompt)} tokens, and the model reads at most {context}")
        return ""
    longest = min(command.max_tokens, room)
    screen = Screen(sys.stdout, command.thinking, starts_thinking(model.policy, prompt))
    seed = secrets.randbits(31) if command.seed is None else command.seed
    settings = Settings(command.temperature, command.top_p, command.top_k, command.min_p)
    request = Request(prompt, settings, longest, seed, hear=screen.write)
    try:
        reply(model.policy, model.weights, model.mesh, [request])
    except KeyboardInterrupt:
        request.finish = "stopped"
    screen.write("", last=True)
    if request.finish != "stop":
        print("[stopped]" if request.finish == "stopped" else f"[cut after {longest} tokens]")
    return request.text


def shown(messages: list[dict[str, str]], model: Model) -> list[dict[str, str]]:
    """Returns the messages as the model sees them. Earlier replies lose their thinking."""
    if not model.has_history:
        messages = [m for m in messages[:-1] if m["role"] == "system"] + messages[-1:]
    return [m | {"content": answer_of(m["content"])} if m["role"] == "assistant" else m for m in messages]


def main() -> None:
    cli.main(Command, chat, __doc__)


if __name__ == "__main__":
    main()
