"""The numbers of a reinforcement-learning run. The literals live in the experiment files, beside the paper's words."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RLRecipe:
    """Every number of a reinforcement-learning run. Fields are flags."""

    steps: int
    """Optimizer steps, as the paper counts them."""
    questions_per_round: int
    """B: questions of one round of sampling."""
    group_size: int
    """G: completions of each question."""
    minibatches: int
    """Optimizer steps a round is split into, by whole groups."""
    learning_rate: float
    """Of AdamW, constant after `warmup_steps`."""
    kl_coef: float
    """β of the KL term against the reference; 0 skips the reference pass."""
    clip_eps: float
    """ε of the ratio's clip. 10 means that only ratios above 11 are clipped."""
    clip_eps_high: float
    """ε of the clip from above, where it is another; 0 is `clip_eps` on both sides."""
    loss: str
    """What a token weighs: `grpo` 1/(N·|o|), `dr_grpo` 1/(N·max_tokens) with advantages not divided by std, `dapo`
    1/Σ|o|; `sequence` is `grpo` with the ratio of whole completions (GSPO)."""
    tis_cap: float
    """Cap of truncated importance sampling, π_trainer/π_sampler on each token; 0 is without. Needs old_logp
    `trainer`."""
    temperature: float
    """Of sampling in training."""
    max_tokens: int
    """Longest completion, the stop token included."""
    ref_every: int
    """Steps between two copies of the policy into the reference."""
    accuracy_weight: float
    """Weight of the accuracy reward."""
    format_weight: float
    """Weight of the format reward."""
    language_weight: float
    """Weight of the language-consistency reward."""
    warmup_steps: int
    """Steps of linear warm-up of the learning rate."""
    grad_clip: float
    """Largest global norm of a gradient."""
    adam_b1: float
    adam_b2: float
    weight_decay: float
    old_logp: str
    """Whose log-probabilities are old: `trainer` recomputes them once a round, `sampler` takes the rollout's."""
    late_from: int
    """Step from which the questions are those of --late-prompts; 0 is never."""
    row_length: int
    """Slots of a packed row; at least the longest prompt + completion."""
    batch_rows: int
    """Packed rows of one micro-batch; a multiple of the mesh's row shards, or a divisor, which is raised to them."""
    remat: str
    """What the backward pass makes again: none, dots or full."""
    eval_every: int
    """Steps between two evaluations; the base and the final policy are evaluated always."""
    eval_problems: int
    """Held-out problems of an evaluation, one sample each at temperature 1."""
    save_every: int
    """Steps between two checkpoints; the last step is saved always."""
    log_samples: int
    """Completions of a round written to samples.jsonl."""
    max_skips: int
    """Non-finite updates in a row that a run goes on after; one more ends it."""
    lora_rank: int
    """Rank of the adapters that are trained in place of the parameters; 0 trains the parameters."""
    lora_alpha: float
    """The adapters' scale is alpha / rank."""
    lora_targets: str
    """Regular expression over parameter paths: the matrices that get an adapter."""
    replay_routes: bool
    """The experts a token visited while it was sampled are those it visits in training."""
    balance_rate: float
    """How far a router's bias moves in each step towards an even load; 0 leaves it."""
    carry_over: int
    """Unfinished rows with which a round's sampling may end; the next round goes on with them. 0 waits for all."""
