from .checkpointer import (
    CenterNetCheckpointer,
    check_exists,
    fitting_configs,
    load_file,
    load_trunk,
)
from .original import original_names, original_state_dict, to_our_names

__all__ = [
    "CenterNetCheckpointer",
    "check_exists",
    "fitting_configs",
    "load_file",
    "load_trunk",
    "original_names",
    "original_state_dict",
    "to_our_names",
]
