"""Defines the network, a decoder. Its callers supply a function `attend`, which computes attention over keys and
values.

config       shapes and switches of a model
layers       norms and dense layers
rope         rotary positions, plain and stretched
attention    attention kinds (grouped queries, latent), and `attend` over the keys of the current call
cache        `attend` over cached keys
feedforward  feed-forward kinds (gated MLP, mixture of experts)
transformer  tokens to hidden states, through groups of equal layers
"""
