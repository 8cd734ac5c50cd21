"""Records for supervised fine-tuning: sampled from any checkpoint, judged, not yet filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from r1jax.chat import render
from r1jax.evaluate import reply_of
from r1jax.nano import general
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict
from r1jax.run import Policy, RunOptions, load_policy
from r1jax.tokenizer import Tokenizer
from r1jax.waves import Sampling, Wave, in_waves

DOMAINS = {
    "math": "math", "proof": "math", "code": "code", "choice": "stem", "countdown": "logic", "general": "general",
}  # fmt: skip
CHAT = "chat"  # the template that the tokenizer brings along


def load(model: str, weights: str, template: str, mesh: Mesh) -> tuple[Policy, dict, dict[str, str]]:
    """A policy that will only be sampled: see `run.load_policy`; its template may be the tokenizer's own.

    Raises:
        ValueError: as `load_policy`; a tokenizer without a chat template, or one that cannot hold a question.
    """
    options = RunOptions(model=model, weights=weights, template="r1" if template == CHAT else template)
    policy, params, parent = load_policy(options, mesh, frozen=True)
    if template == CHAT:
        policy = policy._replace(template=chat_template(policy.tokenizer))
    return policy, params, parent


def chat_template(tokenizer: Tokenizer) -> str:
    """The tokenizer's own template around a question. What begins every text is left to `encode`.

    Raises:
        ValueError: it has none, or it changes what it is given.
    """
    if not getattr(tokenizer, "chat_template", ""):
        raise ValueError(
            f"--template={CHAT}: this tokenizer has no chat template; use r1, r1_zero or a file that holds {{question}}"
        )
    asked = [{"role": "user", "content": "{question}"}]
    text = render(tokenizer.chat_template, asked, bos_token="", eos_token=tokenizer.eos_token or "")
    if text.count("{question}") != 1:
        raise ValueError(
            f"--template={CHAT}: this chat template does not keep the question as it is; "
            "write it to a file that holds {question}"
        )
    return text


def judged(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], style: str) -> list[Verdict | None]:
    """The verdict on each completion: by rule, on nano general prompts the generator's; None where nobody can tell."""
    found = []
    for text, example, verdict in zip(texts, examples, rule.verify(pool, texts, examples, style), strict=True):
        if example["kind"] != rule.GENERAL:
            found.append(verdict)
        elif example.get("task") == "general":
            right = general.right(example, reply_of(text)) and general.harmless(example, text)
            found.append(Verdict(float(right), "correct" if right else "wrong", "generator"))
        else:
            found.append(None)
    return found


def generate(
    policy: Policy,
    params: dict,
    examples: Sequence[dict],
    mesh: Mesh,
    pool: Pool,
    sampling: Sampling,
    path: Path,
    *,
    seed: int,
    route: str,
    source: Mapping[str, str],
    style: str | None = None,
    prompts: Sequence[str] | None = None,
) -> list[dict]:
    """SFT records of `samples` completions of each example, in order, all still kept; `path` (.jsonl) holds them.

    A record has id, example (its problem's id), sample, domain, kind, task, set, language, problem, gold, raw (what was
    sampled), response (the same), route, source, rewritten_by, keep, reason, tokens, truncated, verdict, right (None
    where nobody can tell) and answer (its normal form). Resumes as `in_waves` does; every process returns all records.

    Args:
        route: where the records come from, such as "few_shot".
        source: {"path", "sha256"} of the checkpoint.
        style: the form in which the answer is looked for, "r1_zero" or "r1"; by default the template's.
        prompts: the whole prompt of each example, such as one with worked examples; by default the policy's template.

    Raises:
        ValueError: see `in_waves`.
    """  # fmt: skip
    style = style or policy.style

    def lines(wave: Wave) -> list[dict]:
        verdicts = judged(pool, wave.texts, wave.examples, style)
        return [
            {
                "id": f"{route}/{example['id']}/{sample}", "example": example["id"], "sample": sample,
                "domain": DOMAINS[example["kind"]], "kind": example["kind"],
                "task": example.get("task", example["kind"]), "set": example.get("set"),
                "language": example.get("language"), "problem": example["problem"], "gold": example["gold"],
                "response": text, "raw": text,
                "route": route, "source": dict(source), "rewritten_by": None, "keep": True, "reason": "",
                "tokens": int(length), "truncated": not stopped, "verdict": verdict and verdict.verdict,
                "right": None if verdict is None or verdict.reward is None else verdict.reward == 1.0,
                "answer": verdict and verdict.canonical,
            }
            for example, sample, text, length, stopped, verdict in zip(*wave, verdicts, strict=True)
        ]  # fmt: skip

    settings = {"route": route, "source": source["sha256"], "style": style}
    return in_waves(
        policy, params, examples, mesh, sampling, path, lines, seed=seed, settings=settings, prompts=prompts
    )
