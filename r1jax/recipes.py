"""Defines the hyperparameters and options of every command, as dataclasses whose fields are command-line flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class RLRecipe:
    """Hyperparameters of a reinforcement-learning run. Each field is a flag."""

    steps: int
    """Optimizer steps of the run. Each round of sampling is followed by --minibatches steps."""
    questions_per_round: int
    """B: questions sampled in one round."""
    group_size: int
    """G: completions sampled for each question."""
    minibatches: int
    """Optimizer steps in one round. The groups of the round are divided among these steps."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    kl_coef: float
    """β, the weight of the KL term against the reference policy. 0 skips the forward pass of the reference."""
    clip_eps: float
    """ε of the ratio clip. With 10, only ratios above 11 are clipped."""
    clip_eps_high: float
    """ε of the upper bound of the ratio clip. 0 uses --clip-eps for both bounds."""
    loss: str
    """The loss. It sets the weight of each token, given here for N completions of |o| tokens. `grpo`: 1/(N·|o|).
    `dr_grpo`: 1/(N·max_tokens); advantages are not divided by the standard deviation. `dapo`: 1/Σ|o|. `sequence`
    (GSPO): 1/(N·|o|); the ratio is that of the whole completion. `sequence_token` (GSPO-token): as `sequence`, but the
    gradient of the ratio flows only through the token's own probability. `cispo`: 1/Σ|o|; clipped tokens keep their
    gradients. `rloo`: 1/N; the baseline of a completion is the mean reward of the other completions of its group.
    `reinforce_pp` and `reinforce_pp_baseline`: 1/Σ|o|; advantages are normalised over the batch. `ppo`: 1/Σ|o|;
    advantages come from a value network."""
    tis_cap: float
    """Cap of truncated importance sampling: each token is weighted by min(π_trainer/π_sampler, cap). 0 turns it off.
    Needs --old-logp=trainer."""
    temperature: float
    """Sampling temperature in training."""
    max_tokens: int
    """Maximum length of a completion in tokens, the stop token included."""
    ref_every: int
    """The reference becomes a copy of the current policy each time that this many steps have passed. 0: never."""
    accuracy_weight: float
    """Weight of the accuracy reward."""
    format_weight: float
    """Weight of the format reward."""
    language_weight: float
    """Weight of the language-consistency reward."""
    warmup_steps: int
    """Steps of linear warm-up of the learning rate."""
    grad_clip: float
    """Gradients are clipped to this global norm."""
    adam_b1: float
    """AdamW's β₁."""
    adam_b2: float
    """AdamW's β₂."""
    weight_decay: float
    """AdamW's weight decay."""
    old_logp: str
    """Source of the old policy's log-probabilities, for the ratio: `trainer` recomputes them once a round, `sampler`
    keeps the log-probabilities from sampling."""
    late_from: int
    """Step from which questions come from --late-prompts. 0: never."""
    row_length: int
    """S: slots of a packed row, at least the longest prompt plus --max-tokens."""
    batch_rows: int
    """Packed rows of one micro-batch: a multiple of the mesh's row shards (data·fsdp·expert of --mesh). A divisor
    of the number of row shards is accepted too, but the number of row shards is used in its place."""
    remat: str
    """What the backward pass recomputes: none (nothing), dots (all but attention and products with weights) or full
    (all but attention)."""
    eval_every: int
    """Steps between two evaluations. The policy is also evaluated before the first and after the last step."""
    eval_problems: int
    """Held-out problems in an evaluation, with one completion each, sampled at temperature 1."""
    save_every: int
    """Steps between two checkpoints. The last step is always saved."""
    log_samples: int
    """Completions of each round that are written to samples.jsonl."""
    max_skips: int
    """Number of consecutive non-finite updates that a run survives. One more ends the run."""
    lora_rank: int
    """Rank of the LoRA adapters, which are trained in place of the parameters. 0 trains the parameters."""
    lora_alpha: float
    """LoRA's alpha: the scale of the adapters is alpha / rank."""
    lora_targets: str
    """Regular expression over parameter paths. The matrices whose path matches get an adapter."""
    replay_routes: bool
    """For a mixture of experts: whether training routes each token to the experts that it visited in sampling."""
    balance_rate: float
    """For a mixture of experts: size of the step that moves a router's bias towards an even load of the experts. 0
    leaves the bias unchanged."""
    carry_over: int
    """Completions that may be unfinished when the sampling of a round ends; the next round continues them. 0: none."""
    overlong_weight: float = 0.0
    """Weight of DAPO's penalty for long completions, which goes from 0 to -1 over the last --overlong-cache tokens
    before --max-tokens. 0: no penalty."""
    overlong_cache: int = 0
    """Last tokens before --max-tokens over which the penalty of --overlong-weight grows from 0 to -1. 0: a fifth of
    --max-tokens, as in DAPO."""
    repetition_weight: float = 0.0
    """Weight of the repetition penalty: minus the fraction of a completion's n-grams that occur earlier in it. 0: no
    penalty."""
    repetition_ngram: int = 8
    """Words of an n-gram in the repetition penalty."""
    kl: str = "k3"
    """What --kl-coef weighs: k3, k2 or unbiased (DeepSeek-V3.2) as a term of the loss, or k1_reward, which subtracts
    the completion's log π/π_ref from its reward. With --loss=ppo, k1_reward subtracts each token's log π/π_ref from the
    reward of this token."""
    dual_clip: float = 0.0
    """Upper bound of the ratio π/π_old where the advantage is negative, such as 3. 0: no bound. For losses with PPO's
    clip."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the objective. Each token's entropy has the weight of the token in the loss. 0: no
    bonus."""
    off_policy_bound: float = 0.0
    """A completion of negative advantage is left out of the policy's term once log π_sampler/π exceeds this many nats a
    token on average (DeepSeek-V3.2). 0: never."""
    tis_by: str = "token"
    """What --tis-cap caps. token: the ratio of each token. sequence: the ratio of the token's whole completion."""
    per_reward: bool = False
    """Whether each part of the reward is normalised over its group by itself, before the parts are added (GDPO)."""
    mask_truncated: bool = False
    """Whether completions that are cut off at --max-tokens are left out of the loss. Their rewards still count in the
    mean of their group."""
    refill: int = 0
    """How many times a round may sample --questions-per-round questions. Further questions replace groups whose task
    rewards are all equal (DAPO's dynamic sampling). Task rewards leave out the overlong and repetition
    penalties. Of the rule reward, only accuracy is a task reward. 0 or 1: once, so no group is replaced."""
    keep_pass_rate: str = ""
    """LOW:HIGH, such as 0.1:0.9: leave out questions whose pass rate lies outside. Needs --pass-rates, or rows with a
    pass_rate."""
    pass_rates: str = ""
    """A jsonl file of {id, pass_rate}, or the samples.jsonl of a run, whose accuracies are averaged by id. A question
    that the file lacks is kept."""
    curriculum: bool = False
    """Whether each pass over --prompts goes from the highest pass rate to the lowest, in place of a random order."""
    optimizer: str = "adamw"
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    final_learning_rate: float = 0.0
    """Learning rate at the last step, reached by --schedule."""
    schedule: str = "constant"
    """Schedule of the learning rate after the warm-up. constant keeps the rate. cosine, linear and wsd lead to
    --final-learning-rate at the last step. wsd is constant until the last --decay-steps, then linear."""
    decay_steps: int = 0
    """Last steps over which --schedule=wsd lowers the learning rate. 0: a tenth of the steps."""
    decay: str = "all"
    """Which parameters --weight-decay decays: all, or matrices, which leaves out norms and biases."""
    gae_lambda: float = 1.0
    """λ of PPO's generalised advantages: 1 uses the whole return, 0 only one step. Only for --loss=ppo."""
    discount: float = 1.0
    """γ of PPO's returns. Only for --loss=ppo."""
    value_learning_rate: float = 0.0
    """Highest learning rate of PPO's value network. 0: the learning rate of the policy. Only for --loss=ppo."""
    value_clip: float = 0.2
    """How far a token's value may move from its value at the start of the round before PPO's value loss clips it.
    0: no clip. Only for --loss=ppo."""
    value_warmup_steps: int = 0
    """First steps that train PPO's value network and leave the policy as it is. Only for --loss=ppo."""

    wave_rows: int = 0
    """Completions that each process samples at once. The sampled tokens do not depend on this number. 0: all
    completions of a round, or fewer if the devices' free memory is too small for all. To compute how many fit, each
    completion is assumed to need a cache for a quarter of --max-tokens."""
    ahead: int = 0
    """Rounds sampled beside the updates. 0: sampling and updates take turns. 1: while a round is trained, the next one
    is sampled, under the policy as it was when that training began. Needs --tis-cap or --old-logp=sampler. With more
    than one device, needs --rollout-mesh."""
    rollout_mesh: str = ""
    """Devices that sample with --ahead=1, in the form of --mesh, such as 4x1. In every process they are the last
    devices; --mesh has the others. Default: the device of --mesh, if it is only one."""

    @property
    def descent(self) -> Descent:
        """The hyperparameters of the optimizer.

        A constant schedule uses neither `final_learning_rate` nor `steps`; both are set to 0 then.
        """
        last = (self.final_learning_rate, self.warmup_steps, self.steps)
        if self.schedule == "constant":
            last = (0.0, self.warmup_steps, 0)
        rest = (self.schedule, self.decay_steps, self.decay, self.adam_b1, self.adam_b2)
        return Descent(self.optimizer, self.learning_rate, *last, self.weight_decay, self.grad_clip, *rest)


TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # value of --track -> the package it needs


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """Flags that training, evaluation and sampling share: the policy, the devices and the output directory."""

    workdir: str = ""
    """Output directory. Default: a new directory below runs/."""
    mesh: str = "auto"
    """Device mesh: auto, AxB (fsdp=A, tensor=B), or axes by name, such as data:2,fsdp:2,tensor:2,expert:1."""
    seed: int = 0
    """Seed of prompts and sampling noise."""
    model: str = "nano"
    """Without --weights: the base model to use. The models nano and nano-small ship with this package. The models
    smollm2 and gemma3-270m come in packages of their own. With --weights: a known model, such as qwen2.5-1.5b, if the
    weights must have its shapes."""
    weights: str = ""
    """A run's directory, one of its checkpoints, a Hugging Face directory, a GGUF file, a PEFT adapter, or OWNER/NAME
    of the Hugging Face Hub. Default: the base model of --model."""
    template: str = "r1_zero"
    """Prompt template: r1_zero, r1, chat (the tokenizer's own), or a text file that contains {question}."""
    system_prompt: str = ""
    """System prompt of --template=chat: a text, or r1_zero (the instruction of that template), or boxed (reason step by
    step, answer in a box)."""
    answers: Literal["auto", "tags", "boxed", "any"] = "auto"
    """Where completions give their answer: in an <answer> block, in \\boxed{}, or in any form, such as 'the answer is'
    or ####. auto: as the prompt asks; any form if the prompt asks for none."""
    think: Literal["auto", "wanted", "free"] = "auto"
    """Whether a completion must have a <think> block before its answer. wanted: it must. free: it need not.
    auto: it must if the prompt asks for one."""
    column: tuple[str, ...] = ()
    """Keys that have another name in data files, each HERE=THERE: the name in r1jax, then the name in the file, such as
    problem=question gold=meta.answer."""
    coordinator: str | None = None
    """HOST:PORT of process 0. Needed where JAX detects no cluster."""
    processes: int | None = None
    """Number of processes. 1 runs alone, even on a cluster."""
    process_id: int | None = None
    """Index of this process, counted from 0."""
    watchdog: float = 10.0
    """With several processes: minutes without progress after which a process ends itself and says where it hangs. 0:
    no limit. If a process is lost, the others end within 80 seconds in any case."""


# Flags that may change when a directory is used again. The weights are compared by hash, so they may have moved.
MAY_MOVE = frozenset({"workdir", "mesh", "weights", "coordinator", "processes", "process_id", "watchdog"})


@dataclasses.dataclass(frozen=True)
class CheckpointOptions(PolicyOptions):
    """Flags of commands that evaluate a checkpoint or sample from it. `SamplingOptions` has the flags of sampling."""

    template: str = "auto"
    """Prompt template: r1, r1_zero, chat (the tokenizer's own), or a text file that contains {question}. auto: chat if
    the tokenizer has a chat template, else r1."""


@dataclasses.dataclass(frozen=True)
class RunOptions(PolicyOptions):
    """Flags of every training run, besides the hyperparameters of its recipe."""

    workdir: str = ""
    """Output directory of the run. Default: a new runs/STAGE-TIME; stages that collect records reuse runs/STAGE."""
    weights: str = ""
    """Weights to start from: a run's directory, one of its checkpoints, a Hugging Face directory, a GGUF file, a PEFT
    adapter, or OWNER/NAME of the Hugging Face Hub. Default: the base model of --model."""
    prompts: str = "nano"
    """Training questions: a jsonl or parquet file, or nano or nano:MIX, which generate questions. MIX names a mix of
    tasks, such as reasoning, or one task. The rows of a file are {id, problem, gold, kind}, where kind chooses the
    verifier."""
    late_prompts: str = ""
    """Questions from step --late-from on, in the form of --prompts."""
    eval_prompts: str = "nano"
    """Held-out problems, in the form of --prompts. nano is the generator's fixed list. If --prompts is a
    file, nano means instead that a tenth of the rows of this file is held out, at most --eval-problems."""
    reward: tuple[str, ...] = ()
    """The reward, in place of the accuracy, format and language weights: one or more of FILE.py:FUNCTION, accuracy,
    format and language, separated by spaces, each with =WEIGHT unless the weight is 1. A function takes (texts,
    examples) and returns a float for each text, or {part: floats}. With --reward, the rows of --prompts may lack
    kind."""
    decontaminate: tuple[str, ...] = ()
    """Files of benchmark problems. Rows of --prompts that share 10 words in a row with such a problem are
    dropped."""
    exact: bool | None = None
    """On CPUs: whether attention is computed in float64, so that sampler and trainer agree to the last rounding.
    Default: True for models of up to 16 M parameters, False for larger models, where float64 costs time."""
    resume: bool = False
    """Continue the run in --workdir, from its newest checkpoint."""
    track: Literal["", "tensorboard", "wandb"] = ""
    """Send the metrics also to tensorboard (files below --workdir) or to wandb (project r1jax)."""

    def __post_init__(self) -> None:
        if self.track and find_spec(TRACKERS[self.track]) is None:
            raise ValueError(f"--track={self.track} needs its package: pip install 'r1jax[{self.track}]'")


@dataclasses.dataclass(frozen=True)
class PretrainRecipe:
    """Hyperparameters of supervised training on packed documents for `steps` steps. Each field is a flag."""

    steps: int
    """Optimizer steps."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    final_learning_rate: float
    """Learning rate at the last step, reached by --schedule."""
    warmup_steps: int
    """Steps of linear warm-up."""
    optimizer: str
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    weight_decay: float
    """Weight decay of the optimizer."""
    grad_clip: float
    """Gradients are clipped to this global norm."""
    row_length: int
    """Slots of a packed row. Longer documents are cut."""
    batch_rows: int
    """Packed rows of one step: a multiple of the mesh's row shards (data·fsdp·expert of --mesh)."""
    save_every: int
    """Steps between two checkpoints."""
    schedule: str = "cosine"
    """Schedule of the learning rate after the warm-up. constant keeps the rate. cosine, linear and wsd lead to
    --final-learning-rate at the last step. wsd is constant until the last --decay-steps, then linear."""
    decay_steps: int = 0
    """Last steps over which --schedule=wsd lowers the learning rate. 0: a tenth of the steps."""
    decay: str = "all"
    """Which parameters --weight-decay decays: all, or matrices, which leaves out norms and biases."""

    @property
    def descent(self) -> Descent:
        """The hyperparameters of the optimizer."""
        return Descent(**{name: getattr(self, name) for name in Descent._fields if hasattr(self, name)})


class Descent(NamedTuple):
    """Hyperparameters of an optimizer: see `PretrainRecipe` and `RLRecipe`."""

    optimizer: str
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    steps: int
    weight_decay: float
    grad_clip: float
    schedule: str = "cosine"
    decay_steps: int = 0
    decay: str = "all"
    adam_b1: float = 0.9
    adam_b2: float = 0.95


@dataclasses.dataclass(frozen=True)
class SFTRecipe:
    """Hyperparameters of supervised fine-tuning on records (problems with responses). Each field is a flag."""

    epochs: float
    """Passes over the records. The number of steps in a pass is the number of tokens in all records, divided by
    the slots of a step (--batch-rows times --row-length)."""
    steps: int
    """Optimizer steps. 0: as many as --epochs takes."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    final_learning_rate: float
    """Learning rate at the last step, reached by --schedule."""
    warmup_steps: int
    """Steps of linear warm-up."""
    optimizer: str
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    weight_decay: float
    """Weight decay of the optimizer."""
    grad_clip: float
    """Gradients are clipped to this global norm."""
    row_length: int
    """Slots of a packed row. A longer record is an error."""
    batch_rows: int
    """Packed rows of one step."""
    micro_rows: int
    """Packed rows of one forward pass: a multiple of the mesh's row shards (data·fsdp·expert of --mesh). 0: all rows of
    a step."""
    remat: str
    """What the backward pass recomputes: none (nothing), dots (all but attention and products with weights) or full
    (all but attention)."""
    held_out_problems: int
    """Problems kept out of training, at most a tenth of all. Evaluations measure the loss on the records of these
    problems."""
    max_tokens: int
    """Maximum length of a completion in an evaluation, in tokens."""
    eval_problems: int
    """Problems in an evaluation, with one completion each, sampled at temperature 1."""
    eval_every: int
    """Steps between two evaluations. 0: evaluate only at the beginning and the end."""
    log_samples: int
    """Completions of each evaluation that are written to samples.jsonl."""
    save_every: int
    """Steps between two checkpoints. The last step is always saved."""
    lora_rank: int = 0
    """Rank of the LoRA adapters, which are trained in place of the parameters. 0 trains the parameters."""
    lora_alpha: float = 32.0
    """LoRA's alpha: the scale of the adapters is alpha / rank."""
    lora_targets: str = r"attention/(q|k|v|o|q_down|q_up|kv_down)/kernel|(mlp|shared)/(gate|up|down)/kernel"
    """Regular expression over parameter paths. The matrices whose path matches get an adapter."""
    schedule: str = "cosine"
    """Schedule of the learning rate after the warm-up. constant keeps the rate. cosine, linear and wsd lead to
    --final-learning-rate at the last step. wsd is constant until the last --decay-steps, then linear."""
    decay_steps: int = 0
    """Last steps over which --schedule=wsd lowers the learning rate. 0: a tenth of the steps."""
    decay: str = "all"
    """Which parameters --weight-decay decays: all, or matrices, which leaves out norms and biases."""


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Flags of a dry run, which prints what a run would need and stops."""

    dry_run: bool = False
    """Print what the run would need, then stop. Needs neither weights nor devices."""
    fit: bool = False
    """With --dry-run: print the settings that fit --device, the largest first. The settings are the number of packed
    rows in a forward pass, --wave-rows and --lora-rank. For reinforcement learning and fine-tuning."""
    device: str = "h200"
    """Device that a dry run plans for: t4, l4, rtx4090, a100-40gb, a100, h100, h200, b200, v4, v5e, v5p, v6e or
    v7x."""
    mean_tokens: int = 0
    """Mean length in tokens that a dry run assumes: of a completion in reinforcement learning, of a record in
    fine-tuning, of a text for reward models, of an item for preferences. 0: an eighth of --max-tokens."""


@dataclasses.dataclass(frozen=True)
class TunePlanOptions(PlanOptions):
    """Flags of a dry run of fine-tuning."""

    plan_records: int = 800_000
    """Number of records that a dry run assumes if --steps is 0."""


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """Flags of sampling: the number and length of completions, and how each token is drawn."""

    samples: int = 4
    """Completions sampled for each problem. In an evaluation, 0 means the paper's number for each benchmark."""
    temperature: float = 1.0
    """Sampling temperature. 0 is greedy."""
    top_p: float = 1.0
    """Sample only from the likeliest tokens, as many as are needed for a total probability of top_p. 1: from all."""
    top_k: int = 0
    """Sample only from this many of the likeliest tokens. 0: from all."""
    min_p: float = 0.0
    """Sample only from tokens with at least this fraction of the likeliest token's probability. 0: from all."""
    max_tokens: int = 320
    """Maximum length of a completion in tokens."""
    wave_rows: int = 512
    """Completions that each process samples at once. Lower this number if memory runs out."""


@dataclasses.dataclass(frozen=True)
class RewardRecipe:
    """Hyperparameters of training a reward model. Each field is a flag."""

    epochs: int
    """Passes over the training items: judged pairs of responses, or labelled responses."""
    batch_items: int
    """Pairs, or labelled responses, in one step."""
    learning_rate: float
    """AdamW's learning rate, constant after the warm-up."""
    warmup_steps: int
    """Steps of linear warm-up."""
    adam_b1: float
    """AdamW's β₁."""
    adam_b2: float
    """AdamW's β₂."""
    weight_decay: float
    """AdamW's weight decay."""
    grad_clip: float
    """Gradients are clipped to this global norm."""
    max_tokens: int
    """Maximum length of a text in tokens. Training leaves out items with a longer text. Scoring has no limit."""
    batch_rows: int
    """Texts of one micro-batch: an even number, and a multiple of the mesh's row shards (data·fsdp·expert of
    --mesh)."""
    remat: str
    """What the backward pass recomputes: none (nothing), dots (all but attention and products with weights) or full
    (all but attention)."""
    items: int
    """Items to take from nano's simulated annotator. Used if --data names no file."""
    held_out_items: int
    """Number of items held out for evaluation. If --data names a file, no more than a fifth of the file's items, but at
    least one whole problem. The items of one problem stay together."""
    save_every: int
    """Steps between two checkpoints. 0: save only the last step, which is always saved."""

    @property
    def descent(self) -> Descent:
        """The hyperparameters of the optimizer. `final_learning_rate` and `steps` are 0: the rate is constant."""
        rate, rest = (self.learning_rate, 0.0, self.warmup_steps, 0), (self.weight_decay, self.grad_clip)
        return Descent("adamw", *rate, *rest, "constant", adam_b1=self.adam_b1, adam_b2=self.adam_b2)


def require(rules: Iterable[tuple[object, str]]) -> None:
    """Raises ValueError if a rule does not hold, with the message of the first such rule.

    Args:
        rules: (condition, error message) pairs. A rule holds if its condition is true.
    """
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
