"""Checks proofs in Lean 4, Coq and Metamath."""
