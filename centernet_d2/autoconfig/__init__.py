"""Automatic configuration of a training from a dataset and a machine."""
