"""Prompt templates, verbatim from the papers."""

from __future__ import annotations

# DeepSeek-AI 2025 (arXiv 2501.12948v1), Table 1, as one line. Only `{question}` is substituted. Whether anything follows
# "Assistant:" is not published; nothing does here, and `<think>` is not prefilled: the policy has to open it itself.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question} Assistant:"
)
TEMPLATES = {"r1_zero": R1_ZERO}


def fill(template: str, question: str) -> str:
    """The template with only the question put in; braces in either are left alone."""
    return template.replace("{question}", question)
