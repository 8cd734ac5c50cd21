"""Judges single completions, evaluates on held-out problems during training, and runs benchmarks."""
