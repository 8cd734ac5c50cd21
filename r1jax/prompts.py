"""Defines prompt templates. Templates printed in a paper are copied word for word; the others are r1jax's own."""

from __future__ import annotations

import re

# DeepSeek-AI 2025 (arXiv 2501.12948v1), Table 1, as one line. Only `{question}` is substituted. The paper does not
# say whether anything follows "Assistant:". Here nothing does: the policy has to write `<think>` itself.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question} Assistant:"
)

# The chat template of the released models (README of deepseek-ai/DeepSeek-R1), without the beginning-of-sequence token.
# `<think>` is not prefilled, because the format reward checks that the policy writes it.
R1 = "<｜User｜>{question}<｜Assistant｜>"

# The wording of these requests in nano's corpus. A model of nano's size follows no instruction that it has not seen.
NANO_DETAILED = "User: {question} Answer in detail, reflect and verify. Assistant:"
NANO_TRANSLATE = (
    "Translate the thinking process to the same language as the question.\n"
    "Question: {question}\nThinking: {thought}\nTranslated:"
)
NANO_SUMMARY = "Write a solution from the thought process.\nQuestion: {question}\nThinking: {thought}\nSolution:"

# The request to real models. The paper names this way of collecting cold-start data, "directly prompting models to
# generate detailed answers with reflection and verification" (section 2.3.1), but prints no prompt: this one is ours.
DETAILED = (
    "User: {question}\nAnswer in detail: think step by step between <think> and </think>, reflect on each step and "
    "verify the result, then give the final answer within <answer> </answer>. Put a mathematical answer in "
    "\\boxed{}.\nAssistant:"
)

# v2 of the paper, section B.3.2, prints only the first sentence; the rest is ours.
TRANSLATE = """Translate the thinking process to the same language as the question. Output the translation and \
nothing else.
## Question
{question}
## Thought process
{thought}"""

# v2 of the paper, Listing 1, verbatim; `{thought}` is called {thought_process} there.
SUMMARY = """## Question
{question}
## Thought process
{thought}
---
Based on the above thought process, provide a clear, easy-to-follow, and well-formatted solution to the question. Use\
 the same language as the question.
The solution must strictly follow these requirements:
- Stay faithful and consistent with the given thought process. Do not add new reasoning steps or conclusions not \
shown in the original.
- Show key steps leading to final answer(s) in clear, well-formatted LaTeX.
- Use \\boxed{} for final answer(s).
- Be clean and concise. Avoid colloquial language. Do not use phrases like "thought process" in the solution.
Your response should start with the solution right away, and do not include anything else. Your task is solely to \
write the solution based on the provided thought process. Do not try to solve the question yourself."""

# v2 of the paper, Listing 4. One sentence between the two levels and the question is missing, and the line breaks are
# ours, because no copy that we could read is complete.
REFERENCE_JUDGE = """As an advanced reasoning problem evaluation assistant, your primary responsibility is to assess \
the accuracy of provided answers. You will be presented with a reasoning-related question, its corresponding \
reference answer, and an answer requiring evaluation.
## Answer Quality Classification
You have to carefully analyze and classify the answer into one of the following two levels:
1. **correct**: The answer fully aligns with the reference answer in both reasoning process and final conclusion, and\
 address the question without any errors or omissions.
2. **incorrect**: The answer contains major errors in key reasoning steps or the final conclusion, or completely \
deviates from the core of the question.
## Question
{question}
## Reference Answer
{reference}
## Answer to be Evaluated
{answer}
## Output Format
You need to combine the question and reference answer, first provide a detailed explanation of your analysis of the \
answer to be evaluated, then conclude with the final answer quality classification.
Output the following content in **JSON** format, including two key:
1. 'analysis': analysis of the answer's correctness;
2. 'correctness': correct/incorrect"""

TEMPLATES = {"r1_zero": R1_ZERO, "r1": R1}

# Values of --system-prompt by name. boxed: the system prompt of Qwen2.5-Math's model card, which Dr. GRPO and
# SimpleRL-Zoo train with.
SYSTEM_PROMPTS = {
    "r1_zero": R1_ZERO.partition(" User: {question}")[0],
    "boxed": "Please reason step by step, and put your final answer within \\boxed{}.",
}


def fill(template: str, question: str) -> str:
    """Returns the template with the question in place of {question}. Other braces stay as they are."""
    return template.replace("{question}", question)


def fill_in(template: str, **fields: str) -> str:
    """Returns the template with several fields filled in: {name} becomes the value of the argument `name`.

    All other braces stay as they are. Braces inside the values stay too, because all fields are filled in at once.
    """
    return re.sub(r"\{(" + "|".join(fields) + r")\}", lambda found: fields[found[1]], template)
