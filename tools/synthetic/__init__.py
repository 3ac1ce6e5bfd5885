"""Small synthetic datasets for demos and tests."""
