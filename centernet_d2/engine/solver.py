"""Optimizers, learning rate scaling, and conversion of epochs to iterations."""

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
    """Return SOLVER.BASE_LR scaled to the batch size (original.md: Optimizer).

    The rate is multiplied by IMS_PER_BATCH / REFERENCE_IMS_PER_BATCH if the latter is set.
    """
    reference = cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    return cfg.SOLVER.BASE_LR * (cfg.SOLVER.IMS_PER_BATCH / reference if reference > 0 else 1)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of ``SOLVER.OPTIMIZER`` with gradient clipping.

    Adam and AdamW use fused kernels if torch supports them for the device and gradient clipping permits it; a resumed
    training keeps the setting of its checkpoint. With Muon, AdamW updates the last layers of the heads.

    Raises:
        ValueError: ``SOLVER.OPTIMIZER`` is unknown.
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
        return optimizer(params, lr=rate, exclude=_last_weights(model))
    # With a gradient scaler, a fused step receives scaled gradients and unscales them itself, after clipping.
    if not (cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.ENABLED):
        with suppress(RuntimeError):  # torch has no fused kernel for the device.
            return optimizer([dict(group) for group in params], lr=rate, fused=True)
    return optimizer(params, lr=rate)


def _last_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of the last layers of all heads."""
    return [
        cast(nn.Sequential, branch)[-1].get_parameter("weight")
        for module in model.modules()
        if isinstance(module, MapBranches)
        for branch in module.values()
    ]


def with_iterations(cfg: CfgNode, images: float | None) -> CfgNode:
    """Convert SOLVER.EPOCHS and STEP_EPOCHS to SOLVER.MAX_ITER and STEPS.

    Args:
        cfg: training config.
        images: mean number of images per epoch; None for a data loader without epochs.

    Returns:
        A converted copy, or `cfg` itself if SOLVER.EPOCHS is 0.

    Raises:
        ValueError: SOLVER.EPOCHS is negative, a step is after the end of training, or the data loader has no epochs.
    """
    node = cfg.SOLVER
    if node.EPOCHS < 0 or any(not 0 < step <= node.EPOCHS for step in node.STEP_EPOCHS):
        raise ValueError(
            f"SOLVER.EPOCHS is {node.EPOCHS} and SOLVER.STEP_EPOCHS is {tuple(node.STEP_EPOCHS)}: epochs must not be "
            "negative, and steps must be greater than 0 and at most SOLVER.EPOCHS. With 0 epochs, use SOLVER.MAX_ITER "
            "and SOLVER.STEPS"
        )
    if node.EPOCHS == 0:
        return cfg
    if images is None:
        raise ValueError(
            "SOLVER.EPOCHS needs the data loader of this project: set SOLVER.MAX_ITER for another data loader"
        )
    iterations = images / node.IMS_PER_BATCH
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = math.ceil(node.EPOCHS * iterations)
    if node.STEP_EPOCHS:
        cfg.SOLVER.STEPS = tuple(round(step * iterations) for step in node.STEP_EPOCHS)
    cfg.freeze()
    logging.getLogger(__name__).info(
        f"{node.EPOCHS} epochs of {images:g} images in batches of {node.IMS_PER_BATCH}: {cfg.SOLVER.MAX_ITER} "
        f"iterations; learning rate steps at {', '.join(map(str, cfg.SOLVER.STEPS)) or 'none'}"
    )
    return cfg
