"""Converts between Hugging Face directories and parameters.

names      the Hugging Face name of each parameter
config_in  config.json -> ModelConfig
config_out ModelConfig -> config.json
gguf_files a GGUF file -> a Hugging Face directory
files      the tensors in a directory's safetensors files, checked before anything is allocated
read       files -> parameters on the mesh, one layer at a time
write      parameters -> a directory that transformers and vLLM load
"""

from r1jax.weights.config_in import config_from_hf, read_config
from r1jax.weights.config_out import config_to_hf
from r1jax.weights.read import from_hf
from r1jax.weights.write import export, to_hf

__all__ = ["config_from_hf", "config_to_hf", "export", "from_hf", "read_config", "to_hf"]
