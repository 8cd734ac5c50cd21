"""Defines what all training loops share: update step, losses, packed rows, log-probabilities, optimizers."""
