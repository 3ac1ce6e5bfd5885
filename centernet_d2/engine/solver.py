"""Optimizers beyond Detectron2's SGD, and the learning rate for the actual batch."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..config import check_choice, check_keys

__all__ = ["build_optimizer", "scaled_learning_rate"]

ADAM = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def scaled_learning_rate(cfg: CfgNode) -> float:
    """SOLVER.BASE_LR, scaled from REFERENCE_IMS_PER_BATCH images to IMS_PER_BATCH (original.md: Optimizer)."""
    reference = cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    return cfg.SOLVER.BASE_LR * (cfg.SOLVER.IMS_PER_BATCH / reference if reference > 0 else 1)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of ``SOLVER.OPTIMIZER`` over the trainable parameters, with Detectron2's gradient clipping.

    Raises:
        ValueError: unknown optimizer.
    """
    check_keys(cfg)
    name = cfg.SOLVER.OPTIMIZER
    check_choice("SOLVER.OPTIMIZER", name, ("SGD", *ADAM))
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
    return maybe_add_gradient_clipping(cfg, ADAM[name])(params, lr=rate)
