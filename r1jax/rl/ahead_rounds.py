"""Defines sampling beside training (--ahead): a round is sampled while the round before it is trained.

Round r, for r ≥ 1, is sampled under the policy as it was when round r−1 began to be trained. Round 0 is sampled under
the first policy. So the lag is one round, always, and whatever the speed of sampling and updates: two runs of the same
seed sample the same tokens. The policy that samples is called the *behaviour policy*. A token keeps its
log-probability under this policy, for truncated importance sampling (--tis-cap) and the off-policy mask
(--off-policy-bound), and its version, the optimizer step of the policy.

Sampling runs in a thread of its own. A checkpoint stores the parameters of the behaviour policy of the next round, and
not the round itself. A resumed run samples the round again, and gets the same tokens, because the noise of a token
depends only on its name.

Two threads may start programs on the same devices only if no program waits for other devices. Otherwise two devices
could get the programs in different orders, and wait for each other for ever. So this thread alone uses the devices of
--rollout-mesh, and the main thread uses all others; without --rollout-mesh, there is only one device. In a run of
several processes, both threads exchange values over a `Store` and not over devices.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np

from r1jax.distributed import beat
from r1jax.distributed.exchange import exchange_over
from r1jax.distributed.phases import beside
from r1jax.distributed.signals import until
from r1jax.distributed.store import Store
from r1jax.model.feedforward import within
from r1jax.model.lora import merge, partition
from r1jax.rl.rounds import Round, Setting, WholeRounds
from r1jax.sharding import copy_to

_runs = itertools.count()  # every run of this process has stores of its own


class AheadRounds:
    """A `rounds.Sample` that samples each round while the round before it is trained.

    It is a context manager. Leaving the context stops a round that is being sampled, after the chunk of tokens that its
    devices are at, and waits for the thread.

    Args:
        setting: what sampling needs besides the parameters.
        behaviour: the trained parameters of the policy that samples the first round, on the mesh of `setting`. They are
            never donated.
        rounds: number of rounds of the run. After the last one, nothing is sampled.
    """

    def __init__(self, setting: Setting, behaviour: dict, rounds: int):
        self._setting, self._sample, self._rounds = setting, WholeRounds(setting), rounds
        self._behaviour = behaviour  # of the next round
        self._before: tuple[int, dict] = -1, behaviour  # the last round's number, and its behaviour policy
        self._frozen: dict | None = None  # the parameters that are not trained, on the mesh of `setting`
        self._flight: Future[tuple[Round, float]] | None = None  # the round that is being sampled
        self._thread, self._ended = ThreadPoolExecutor(1, "sampling"), threading.Event()
        self._open, self._store = contextlib.ExitStack(), None

    def __enter__(self) -> AheadRounds:
        if jax.process_count() > 1:
            run = next(_runs)
            self._store = Store(f"{run}/sampling", self._ended)
            self._open.enter_context(exchange_over(Store(f"{run}/training", threading.Event())))
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.shutdown(cancel_futures=True)
        self._open.close()

    def waiting_at(self, step: int) -> dict:
        """Returns the trained parameters of the behaviour policy of the round that begins at optimizer step `step`.

        With several processes, first waits for the round that is being sampled: Orbax saves with programs on all
        devices.
        """
        if self._flight and jax.process_count() > 1:
            wait([self._flight])
        number, behaviour = self._before
        return behaviour if step // self._setting.draws.minibatches == number else self._behaviour

    def __call__(self, params: dict, number: int) -> Round:
        """Returns round `number`, and begins to sample the next round under `params`.

        Waits until the round is sampled. The round that a run or a resumed run begins with is sampled now.

        Raises:
            Stop: Ctrl-C or SIGTERM asked to stop while the round was sampled.
        """
        asked, mesh, steps = time.monotonic(), self._setting.mesh, self._setting.draws.minibatches
        trained, frozen = partition(params)
        if self._frozen is None and frozen is not None:
            self._frozen = copy_to(frozen, mesh, alias=True)
        self._flight = self._flight or self._begin(number)
        beat("sampling")  # an error of the thread is raised here, and the user is told the phase
        while wait([self._flight], timeout=1).not_done:
            pass  # between two waits, the handler of a signal runs
        round_, took = self._flight.result()
        arrived = time.monotonic()
        self._before = number, self._behaviour  # before the next line, so that an older copy is freed first
        self._behaviour = copy_to(trained, mesh)
        self._flight = self._begin(number + 1) if number + 1 < self._rounds else None
        version = np.broadcast_to(np.int32(max(number - 1, 0) * steps), round_.rollout.tokens.shape)
        rollout = round_.rollout._replace(version=version)
        return round_._replace(rollout=rollout, began=asked, arrived=arrived, took=took)

    def _begin(self, number: int) -> Future[tuple[Round, float]]:
        """Begins to sample round `number` under its behaviour policy. Returns a future of the round and its seconds."""
        return self._thread.submit(self._run, merge(self._behaviour, self._frozen), number)

    def _run(self, params: dict, number: int) -> tuple[Round, float]:
        """Samples a round. Runs in the thread, for which signals, exchange, devices and ambient mesh are set here."""
        policy, mesh, began = self._setting.policy, self._setting.mesh, time.monotonic()
        own = jax.default_device(mesh.local_devices[0])  # of small arrays, which would wait for updates elsewhere
        with beside(), until(self._ended), exchange_over(self._store), own, within(policy.cfg, mesh):
            round_ = self._sample(params, number)
        return round_, time.monotonic() - began
