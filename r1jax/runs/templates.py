"""Finds the prompt template of a run and the form of completions that goes with it. Describes both in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from r1jax import storage
from r1jax.policy import Policy
from r1jax.prompts import SYSTEM_PROMPTS, TEMPLATES, fill
from r1jax.recipes import PolicyOptions
from r1jax.rewards.format import ANSWER, STYLES, THINK, Style
from r1jax.tokenizers.chat_templates import render
from r1jax.tokenizers.protocol import Tokenizer

CHAT, FITTING = "chat", "auto"  # values of --template: the tokenizer's own; that one if there is one, else r1
SHOWN = 1200  # characters of the first prompt that are printed
WORDS = {
    Style(True, "tags"): "one <think> block, then one <answer> block",
    Style(True, "boxed"): r"one <think> block, then a reply with \boxed{}",
    Style(True, "any"): "one <think> block, then a reply that gives the answer in any form",
    Style(False, "tags"): "one <answer> block",
    Style(False, "boxed"): r"\boxed{}",
    Style(False, "any"): r"any form: \boxed{}, <answer>, ####, 'the answer is', or the last formula",
}


class Asked(NamedTuple):
    """The way in which questions are put to a policy.

    Attributes:
        name: the value of --template, with "auto" resolved.
        text: the prompt template, with {question} where the question goes.
        style: the form of completions (think block, place of the answer), a key of `format.STYLES`.
    """

    name: str
    text: str
    style: str


def read_template(options: PolicyOptions, tokenizer: Tokenizer) -> Asked:
    """Returns the prompt template that the flags name, and the form of completions that goes with it.

    By default, the form is what the template asks for (see `ask_form`); for the template r1 it is the style "r1".
    --answers overrides the place of the answer. --think overrides whether a think block is expected.

    Raises:
        ValueError: the template does not exist or lacks {question}, or --system-prompt is given for a template other
            than chat.
    """
    name = options.template
    if name == FITTING:
        name = CHAT if getattr(tokenizer, "chat_template", "") else "r1"
    if options.system_prompt and name != CHAT:
        raise ValueError(
            f"--system-prompt is for --template=chat, and this is --template={name}. Leave --system-prompt out, or "
            "write its text into the template"
        )
    text = chat_template(tokenizer, options.system_prompt) if name == CHAT else template_of(name)
    asked = STYLES["r1"] if name == "r1" else ask_form(text)
    answer = asked.answer if options.answers == "auto" else options.answers
    think = asked.think if options.think == "auto" else options.think == "wanted"
    return Asked(name, text, next(style for style, of in STYLES.items() if of == Style(think, answer)))


def ask_form(text: str) -> Style:
    """Returns the form of completions (think block or none, place of the answer) that a prompt template asks for.

    The answer is expected in an `<answer>` block if the template names <answer>, in \\boxed{} if it names \\boxed, and
    in any form otherwise. A think block is expected if the template names <think>. A template may end in <think>; the
    tag then stands before every completion.
    """
    answer = "tags" if ANSWER in text else "boxed" if "\\boxed" in text else "any"
    return Style(THINK in text, answer)


def template_of(name: str) -> str:
    """Returns the text of a prompt template.

    Args:
        name: the name of a template, or the path of a text file.

    Raises:
        ValueError: `name` is neither, or the template lacks {question}.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = storage.path_of(name, "--template")
    if not path.is_file():
        raise ValueError(f"--template={name} is neither a file nor one of {', '.join(TEMPLATES)}, {CHAT}")
    text = path.read_text(encoding="utf-8")
    if "{question}" not in text:
        raise ValueError(f"--template={name} lacks {{question}}. Put {{question}} where the question goes")
    return text


def chat_template(tokenizer: Tokenizer, system: str = "") -> str:
    """Returns the tokenizer's chat template as a prompt template that holds {question}.

    The beginning-of-text token is left out, since `encode` adds it.

    Args:
        system: the system prompt, or the name of one of `SYSTEM_PROMPTS`; "" means the chat template's own system
            prompt, if it has one.

    Raises:
        ValueError: the tokenizer has no chat template, or its chat template alters the question.
    """
    if not getattr(tokenizer, "chat_template", ""):
        raise ValueError(
            f"--template={CHAT}: this tokenizer has no chat template; use r1, r1_zero or a file that holds {{question}}"
        )
    asked = [{"role": "user", "content": "{question}"}]
    if system:
        asked = [{"role": "system", "content": SYSTEM_PROMPTS.get(system, system)}, *asked]
    text = render(tokenizer.chat_template, asked, bos_token="", eos_token=tokenizer.eos_token or "")
    if text.count("{question}") != 1:
        raise ValueError(
            f"--template={CHAT}: this chat template does not keep the question as it is; "
            "write a template file that holds {question}, and name that file"
        )
    return text


def describe(policy: Policy, options: Any, problem: str) -> str:
    """Returns, for the screen, the template, the form of answers, and the first prompt as the model reads it.

    Args:
        options: the flags.
        problem: the first question.
    """
    prompt = fill(policy.template, problem)
    tokens = len(policy.tokenizer.encode(prompt))
    if len(prompt) > SHOWN:
        prompt = f"{prompt[: SHOWN // 2]} [..] {prompt[-SHOWN // 2 :]}"
    hint = ""
    if options.template not in (CHAT, FITTING) and getattr(policy.tokenizer, "chat_template", ""):
        hint = "\nthis model has a chat template, which --template=chat uses"
    return (
        f"prompt: --template={options.template}; answers: {WORDS[STYLES[policy.style]]} (--answers, --think)\n"
        f"the first prompt, {tokens} tokens:\n{prompt}{hint}"
    )
