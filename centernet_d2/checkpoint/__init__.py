from .checkpointer import CenterNetCheckpointer, load_file, load_trunk

__all__ = ["CenterNetCheckpointer", "load_file", "load_trunk"]
