from ..utils.files import remove_leftovers
from .checkpointer import CenterNetCheckpointer, checkpoint_files, has_checkpoint, load_trunk
from .loading import check_exists, find_trunk, find_weights, load_file
from .reference_names import original_names, original_state_dict, to_our_names

__all__ = [
    "CenterNetCheckpointer",
    "check_exists",
    "checkpoint_files",
    "find_trunk",
    "find_weights",
    "has_checkpoint",
    "load_file",
    "load_trunk",
    "original_names",
    "original_state_dict",
    "remove_leftovers",
    "to_our_names",
]
