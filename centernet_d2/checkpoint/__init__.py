from ..utils.files import remove_leftovers
from .checkpointer import CenterNetCheckpointer, checkpoint_files, has_checkpoint, load_trunk, set_threshold
from .loading import check_exists, find_trunk, find_weights, load_file
from .reference_names import original_names, original_state_dict, to_our_names
from .source import is_checkpoint, load_source, read_metadata
from .timm_names import HUB

__all__ = [
    "HUB",
    "CenterNetCheckpointer",
    "check_exists",
    "checkpoint_files",
    "find_trunk",
    "find_weights",
    "has_checkpoint",
    "is_checkpoint",
    "load_file",
    "load_source",
    "load_trunk",
    "original_names",
    "original_state_dict",
    "read_metadata",
    "remove_leftovers",
    "set_threshold",
    "to_our_names",
]
