"""Optimizers beyond Detectron2's SGD, the learning rate for the actual batch, and iterations for epochs."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import cast

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..config.keys import check_keys
from ..modeling.heads.branches import MapBranches
from ..utils.validation import check_choice
from .muon import Muon

__all__ = ["build_optimizer", "scaled_learning_rate", "with_iterations"]

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "Muon": Muon}


def scaled_learning_rate(cfg: CfgNode) -> float:
    """SOLVER.BASE_LR, scaled from REFERENCE_IMS_PER_BATCH images to IMS_PER_BATCH (original.md: Optimizer)."""
    reference = cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    return cfg.SOLVER.BASE_LR * (cfg.SOLVER.IMS_PER_BATCH / reference if reference > 0 else 1)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of ``SOLVER.OPTIMIZER`` over the trainable parameters, with Detectron2's gradient clipping.

    Adam and AdamW are fused where torch can, and nothing forbids it; a resumed training stays as it was. Muon leaves
    the last weights of the heads, as small ones, to AdamW.

    Raises:
        ValueError: unknown optimizer.
    """
    check_keys(cfg)
    name = cfg.SOLVER.OPTIMIZER
    check_choice("SOLVER.OPTIMIZER", name, ("SGD", *OPTIMIZERS))
    rate = scaled_learning_rate(cfg)
    if name == "SGD":
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.BASE_LR = rate
        return build_sgd(cfg, model)
    params = get_default_optimizer_params(
        model,
        base_lr=rate,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    optimizer = maybe_add_gradient_clipping(cfg, OPTIMIZERS[name])
    if name == "Muon":
        return optimizer(params, lr=rate, plain=_last_weights(model))
    # Under a loss scaling, a fused step takes the gradients before they are scaled back: too late for clipping.
    if not (cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.ENABLED):
        with suppress(RuntimeError):  # Not every torch has it for every device.
            return optimizer([dict(group) for group in params], lr=rate, fused=True)
    return optimizer(params, lr=rate)


def _last_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that end in the maps of the heads."""
    return [
        cast(nn.Sequential, branch)[-1].get_parameter("weight")
        for module in model.modules()
        if isinstance(module, MapBranches)
        for branch in module.values()
    ]


def with_iterations(cfg: CfgNode, images: float | None) -> CfgNode:
    """SOLVER.EPOCHS and STEP_EPOCHS as SOLVER.MAX_ITER and STEPS; the config itself, if it does not count in epochs.

    Args:
        cfg: of the training.
        images: in an epoch; the mean, if it varies. None for a loader that has no epochs.

    Raises:
        ValueError: the epochs are none, or the steps have none to lie in.
    """
    node = cfg.SOLVER
    if node.EPOCHS < 0 or any(not 0 < step <= node.EPOCHS for step in node.STEP_EPOCHS):
        raise ValueError(
            f"SOLVER.EPOCHS is {node.EPOCHS} and SOLVER.STEP_EPOCHS {tuple(node.STEP_EPOCHS)}: steps are epochs of the "
            "training, and 0 epochs mean that SOLVER.MAX_ITER and STEPS count iterations"
        )
    if node.EPOCHS == 0:
        return cfg
    if images is None:
        raise ValueError("SOLVER.EPOCHS needs the loader of this project; count in SOLVER.MAX_ITER with another one")
    iterations = images / node.IMS_PER_BATCH
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = math.ceil(node.EPOCHS * iterations)
    if node.STEP_EPOCHS:
        cfg.SOLVER.STEPS = tuple(round(step * iterations) for step in node.STEP_EPOCHS)
    cfg.freeze()
    logging.getLogger(__name__).info(
        f"{node.EPOCHS} epochs of {images:g} images in batches of {node.IMS_PER_BATCH}: {cfg.SOLVER.MAX_ITER} "
        f"iterations, steps of the learning rate at {', '.join(map(str, cfg.SOLVER.STEPS)) or 'none'}"
    )
    return cfg
