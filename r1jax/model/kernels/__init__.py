"""Defines attention kernels for GPUs and TPUs, and chooses among them."""
