"""Trains a policy on preferences, without sampling, by DPO and related losses."""
