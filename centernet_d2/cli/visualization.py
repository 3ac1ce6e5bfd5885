"""Figures of augmented training images with their ground truth and target heatmaps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..config import load_config
from ..data import CenterNetDatasetMapper, register_from_config
from ..data.catalog import dataset_metadata
from ..data.checks import load_checked
from ..imaging.visualization import draw_heatmap, draw_instances, side_by_side
from ..modeling import CenterNet
from .sinks import ImageFolderSink


def heatmaps(model: CenterNet, gt: Instances, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return the (C, h, w) target heatmaps of one image by name.

    Args:
        model: model whose heads compute the targets.
        gt: ground truth of the image.
        size: (height, width) of the image.
    """
    points = model.build_points([gt], (size[0] // model.stride, size[1] // model.stride))
    return {
        name: target.value[0]
        for head in model.heads.values()
        for name, target in head.targets([gt], points).items()
        if name in head.heatmaps
    }


def figures(cfg: CfgNode, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield file names and (H, W, 3) RGB figures of training images.

    Args:
        cfg: config whose DATASETS.TRAIN contains the images.
        count: number of figures; images are repeated if necessary.
    """
    with torch.device("meta"):  # Targets do not depend on weights.
        model = CenterNet(cfg)
    records = load_checked(cfg.DATASETS.TRAIN, cfg.MODEL.CENTERNET.NUM_CLASSES, model.properties)
    mapper = CenterNetDatasetMapper(cfg, True, defer_color=False)
    class_names = dataset_metadata(cfg).get("thing_classes")
    to_image = torch.tensor([[model.stride, 0.0, 0.0], [0.0, model.stride, 0.0]])
    for index in tqdm(range(count), unit=" images"):
        sample = mapper(records[index % len(records)])
        image, gt = sample["image"], sample["instances"]
        pixels = image.permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
        pixels = convert_image_to_rgb(pixels, cfg.INPUT.FORMAT)
        inputs = {key: sample[key] for key in model.input_keys if key in sample}
        truth = draw_instances(pixels, gt, class_names, properties=model.properties, inputs=inputs)
        panels = {"ground truth": truth}
        for name, heatmap in heatmaps(model, gt, tuple(image.shape[-2:])).items():
            panels[name] = draw_heatmap(pixels, heatmap, to_image)
        yield f"{index:04d}-{Path(sample['file_name']).stem}.png", side_by_side(list(panels.values()), list(panels))


def visualize(args: argparse.Namespace) -> None:
    """Draw the figures requested on the command line."""
    cfg = load_config(args.config, args.opts)
    register_from_config(cfg)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    sink = ImageFolderSink(args.output)
    for name, figure in figures(cfg, args.count):
        sink.write(name, figure[..., ::-1])
    print(f"saved {args.count} figures of training images to {args.output}")
