"""Compares two runs that may differ by the rounding of sums."""

import numpy as np
import pytest

from r1jax.runs import checkpoint
from support.walk import lines

# Logarithms of ratios of on-policy probabilities, and what is 0 but for rounding: their size says nothing.
NOISE = {"kl", "loss", "log_ratio/max", "sampler_gap/max", "sampler_gap/k3"}


def arrays(workdir) -> dict[str, np.ndarray]:
    """The parameters of a run's newest checkpoint by name."""
    found = checkpoint.find(workdir)
    names = [name for name in checkpoint.list_arrays(found, "--weights") if name.startswith("params/")]
    return {name: np.asarray(checkpoint.StoredArray(found, name)) for name in names}


def assert_close(one, other, bound: float = 1e-5) -> None:
    """The same tokens and rewards, and parameters that differ by rounding alone: by at most `bound`."""
    for a, b in zip(lines(one, "metrics"), lines(other, "metrics"), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - NOISE:
            assert a[key] == (b[key] if b[key] is None else pytest.approx(b[key], rel=1e-3, abs=1e-6)), (a["step"], key)
        if not a.get("staleness/max"):  # otherwise an older policy sampled
            assert max(a["sampler_gap/max"], b["sampler_gap/max"]) <= 2e-5
    for a, b in zip(lines(one, "eval"), lines(other, "eval"), strict=True):
        assert a == b
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    apart = {name: float(abs(second[name] - array).max()) for name, array in first.items()}
    worst = max(apart, key=apart.get)
    print(f"parameters differ by at most {apart[worst]:.1e} ({worst})")
    assert apart[worst] <= bound, worst
