"""Defines the parts that all training loops share: update step, losses, packed rows, log-probabilities, optimizers."""
