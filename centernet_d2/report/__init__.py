"""Reports: inspection of a dataset, and evaluation of a model."""
