"""Defines reward models: the model and its losses, its training data, its held-out accuracy and its calibration."""
