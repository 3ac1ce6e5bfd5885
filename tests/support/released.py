"""Files as the original's authors released them, with weights made up."""

import torch

from centernet_d2 import load_config
from centernet_d2.checkpoint import original_names
from centernet_d2.config.catalog import find_released
from centernet_d2.modeling import CenterNet


def write_released(folder, name):
    """Write the file of a short name; returns its path."""
    trained = find_released(name)
    torch.manual_seed(0)
    model = CenterNet(load_config(trained.config, ["MODEL.DEVICE", "cpu"]))
    names = original_names(model)
    state = {f"module.{names[own]}": tensor for own, tensor in model.state_dict().items()}
    path = folder / trained.file
    torch.save({"epoch": 140, "state_dict": state}, path)
    return path
