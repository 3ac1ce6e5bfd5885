"""Oracle table of the paper: ground truth in place of predicted maps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.loaded import load_dataset
from ..evaluation.oracle import OracleMapper, oracle_maps
from ..modeling import CenterNet
from .truth import coco_metrics, flatten_detections, load_truth

__all__ = ["evaluate_oracle"]

MOST_IMAGES = 200


@torch.no_grad()
def evaluate_oracle(cfg: CfgNode, model: CenterNet, name: str) -> dict[str, Any]:
    """Evaluate a model with ground truth in place of predicted maps.

    Each map of centers and boxes is replaced alone, then all of them. The network runs once per image, followed by all
    substitutions.

    Args:
        cfg: config of the model.
        model: model in evaluation mode.
        name: name of the dataset.

    Returns:
        ``images``, ``seconds`` and ``rows``, dicts with ``maps``, ``AP`` and ``AP50``.
    """
    start = time.perf_counter()
    records = load_dataset(name)
    chosen = np.random.default_rng(0).permutation(len(records))[:MOST_IMAGES]
    records = [records[index] for index in sorted(chosen.tolist())]
    mapper = OracleMapper(cfg, False)
    own = [head for head in model.heads.values() if {"centers", "boxes"} & set(head.provides)]
    names = [one for head in own for one in head.maps]
    variants: dict[str, tuple[str, ...]] = {"none": (), **{one: (one,) for one in names}, "all": tuple(names)}
    found: dict[str, list] = {variant: [] for variant in variants}
    for record in records:
        inputs = mapper(record)
        canvases, geometries = model.preprocessor.canvases([inputs])
        maps = model.compute_test_maps(model.preprocessor.batch(canvases))
        gt = [mapper.annotate_canvas(inputs, geometries[0], model.stride).to(model.device)]
        points = model.build_points(gt, maps["heatmap"].shape[-2:])
        for variant, replaced in variants.items():
            substituted = oracle_maps(model.heads, replaced, maps, gt, points)
            found[variant].append(model.suppress(model.detect(substituted, geometries)[0]).to("cpu"))
    truth = load_truth(name, [record["image_id"] for record in records])
    classes = MetadataCatalog.get(name).thing_classes
    rows = []
    for variant, parts in found.items():
        metrics = coco_metrics(truth, flatten_detections(parts)[0], len(parts), classes, cfg.TEST.DETECTIONS_PER_IMAGE)
        rows.append({"maps": variant, "AP": metrics["AP"], "AP50": metrics["AP50"]})
    return {"images": len(records), "seconds": time.perf_counter() - start, "rows": rows}
