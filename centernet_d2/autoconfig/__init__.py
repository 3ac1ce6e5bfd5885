"""From a dataset and a machine to a config."""
