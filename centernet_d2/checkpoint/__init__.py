from .checkpointer import (
    CenterNetCheckpointer,
    check_exists,
    checkpoint_files,
    fitting_configs,
    has_checkpoint,
    load_file,
    load_trunk,
)
from .files import remove_leftovers, write_whole
from .original import original_names, original_state_dict, to_our_names

__all__ = [
    "CenterNetCheckpointer",
    "check_exists",
    "checkpoint_files",
    "fitting_configs",
    "has_checkpoint",
    "load_file",
    "load_trunk",
    "original_names",
    "original_state_dict",
    "remove_leftovers",
    "to_our_names",
    "write_whole",
]
