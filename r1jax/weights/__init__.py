"""Hugging Face directories <-> parameters.

names      what each parameter is called over there, both ways
config_in  config.json -> ModelConfig
config_out ModelConfig -> config.json
files      what a directory's safetensors files hold, checked before anything is allocated
read       files -> parameters on the mesh, one layer at a time
write      parameters -> a directory that transformers and vLLM load
"""

from r1jax.weights.config_in import config_from_hf, read_config
from r1jax.weights.config_out import config_to_hf
from r1jax.weights.read import from_hf
from r1jax.weights.write import export, to_hf

__all__ = ["config_from_hf", "config_to_hf", "export", "from_hf", "read_config", "to_hf"]
