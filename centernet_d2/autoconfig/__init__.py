"""Automatic training configuration from a dataset and a machine."""
