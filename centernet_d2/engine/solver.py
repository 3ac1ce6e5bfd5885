"""Optimizers, learning rate scaling, and conversion of epochs to iterations."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..config.keys import check_keys
from ..modeling.backbone.trunk import trunk_parameters
from ..modeling.heads.branches import MapBranches
from ..utils.validation import check_choice
from .muon import Muon

__all__ = ["build_optimizer", "scaled_learning_rate", "with_iterations"]

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "Muon": Muon}


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
    check_choice("SOLVER.OPTIMIZER", name, tuple(OPTIMIZERS))
    rate = scaled_learning_rate(cfg)
    params = _parameter_groups(cfg.SOLVER, model, rate)
    optimizer = maybe_add_gradient_clipping(cfg, OPTIMIZERS[name])
    if name == "SGD":
        return optimizer(params, lr=rate, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV)
    if name == "Muon":
        return optimizer(params, lr=rate, exclude=_last_weights(model))
    # With a gradient scaler, a fused step receives scaled gradients and unscales them itself, after clipping.
    if not (cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.ENABLED):
        with suppress(RuntimeError):  # torch has no fused kernel for the device.
            return optimizer([dict(group) for group in params], lr=rate, fused=True)
    return optimizer(params, lr=rate)


def _parameter_groups(solver: CfgNode, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Return parameter groups with learning rates and weight decays.

    Vectors that are neither biases nor part of a norm, such as the layer scales of ConvNeXt, are decayed like biases.

    Raises:
        ValueError: SOLVER.TRUNK_LR_FACTOR is invalid, or the backbone has no trunk.
    """
    factor, vectors = solver.TRUNK_LR_FACTOR, {}
    if solver.WEIGHT_DECAY_BIAS is not None:
        own = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.ndim <= 1}
        vectors = {name: {"weight_decay": solver.WEIGHT_DECAY_BIAS} for name in own - {"weight", "bias"}}
    trunk = {id(parameter) for parameter in trunk_parameters(getattr(model, "backbone", model))}
    if factor <= 0 or (factor != 1 and not trunk):
        raise ValueError(
            f"SOLVER.TRUNK_LR_FACTOR is {factor:g}, but must be "
            + ("greater than 0; MODEL.TRUNK_FROZEN_STAGES freezes the trunk" if trunk else "1 for this backbone")
        )
    return get_default_optimizer_params(
        model,
        base_lr=rate,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: factor if id(model.get_parameter(name)) in trunk else 1.0,
        overrides=vectors,
    )


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
