"""The network: a decoder whose only seam is `attend`.

    config       shapes and switches of a model
    attention    projections, rotary positions, and the `attend` closures
    feedforward  the gated MLP
    transformer  tokens to hidden states, through groups of equal layers
"""
