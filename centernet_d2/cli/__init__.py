"""Command-line entry points.

Each command has two modules: its parser, which needs only the standard library and the catalog of configs, and its
implementation, which imports torch and Detectron2 when the command runs.
"""
