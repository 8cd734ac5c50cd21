"""Holds the parts of the reinforcement-learning loop: start-up checks, rounds of sampling, minibatches and metrics."""
