"""Weights files in the format of the reference implementation, with random weights."""

import torch

from centernet_d2 import load_config
from centernet_d2.checkpoint import original_names
from centernet_d2.config.catalog import find_released
from centernet_d2.modeling import CenterNet

from .models import widen_boxes


def write_released(folder, name):
    """Write the weights file of a short name; return its path."""
    released = find_released(name)
    torch.manual_seed(0)
    model = CenterNet(load_config(released.config, ["MODEL.DEVICE", "cpu"]))
    widen_boxes(model.heads["BoxHead"])
    names = original_names(model)
    state = {f"module.{names[own]}": tensor for own, tensor in model.state_dict().items()}
    path = folder / released.file
    torch.save({"epoch": 140, "state_dict": state}, path)
    return path
