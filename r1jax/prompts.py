"""Prompt templates, verbatim from the papers."""

from __future__ import annotations

# DeepSeek-AI 2025 (arXiv 2501.12948v1), Table 1, as one line. Only `{question}` is substituted. Whether anything
# follows "Assistant:" is not published; nothing does here, and `<think>` is not prefilled: the policy has to open it.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question} Assistant:"
)

# The chat template of the released models (README of deepseek-ai/DeepSeek-R1), beginning of sequence left out.
# `<think>` is not prefilled, so that the format reward sees it opened.
R1 = "<｜User｜>{question}<｜Assistant｜>"

# What the nano world's corpus calls the same requests; a model of its size reads no instruction it has never seen.
NANO_DETAILED = "User: {question} Answer in detail, reflect and verify. Assistant:"
NANO_TRANSLATE = (
    "Translate the thinking process to the same language as the question.\n"
    "Question: {question}\nThinking: {thought}\nTranslated:"
)
NANO_SUMMARY = "Write a solution from the thought process.\nQuestion: {question}\nThinking: {thought}\nSolution:"
TEMPLATES = {"r1_zero": R1_ZERO, "r1": R1}


def fill(template: str, question: str) -> str:
    """The template with only the question put in; braces in either are left alone."""
    return template.replace("{question}", question)
