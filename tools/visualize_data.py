#!/usr/bin/env python
"""Draw augmented training images with what the network should say about them.

    python tools/visualize_data.py CONFIG --output FOLDER [--count 16] [--opts KEY VALUE ...]

CONFIG is a file or a name of the model zoo. Each picture shows the image as the network gets it with its ground truth,
and next to it every heatmap that the heads want.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

# In front of Detectron2, whose import it makes a quiet one.
from centernet_d2 import command_line, load_config, model_zoo

# isort: split
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from centernet_d2.data import CenterNetDatasetMapper, register_from_config
from centernet_d2.data.checks import load_checked
from centernet_d2.demo.sinks import PictureSink
from centernet_d2.modeling import PointHead
from centernet_d2.modeling.heads import build_point_heads
from centernet_d2.modeling.points import build_points, known_objects
from centernet_d2.predictor import dataset_metadata
from centernet_d2.visualization import draw_heatmap, draw_instances, draw_scene3d, side_by_side

STRIDE = 4


def heatmaps(
    cfg: CfgNode, heads: dict[str, PointHead], gt: Instances, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """The heatmaps, (C, h, w) each, that the heads want for one image of `size` (height, width)."""
    map_size = (size[0] // STRIDE, size[1] // STRIDE)
    node = cfg.MODEL.CENTERNET
    points = build_points([gt], map_size, STRIDE, radius_policy=node.GAUSSIAN_RADIUS, round_up=node.RADIUS_ROUND_UP)
    return {
        name: target[0]
        for head in heads.values()
        for name, target in head.targets([gt], points).items()
        if name in head.heatmaps and isinstance(target, torch.Tensor)
    }


def pictures(cfg: CfgNode, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and (H, W, 3) RGB pictures of the first images of DATASETS.TRAIN; over again if there are fewer."""
    records = load_checked(cfg.DATASETS.TRAIN, cfg.MODEL.CENTERNET.NUM_CLASSES)
    mapper = CenterNetDatasetMapper(cfg, True)
    # What heads want does not depend on the network in front of them.
    heads = build_point_heads(cfg, ShapeSpec(channels=1, stride=STRIDE), 1)
    metadata = dataset_metadata(cfg)
    to_image = torch.tensor([[STRIDE, 0.0, 0.0], [0.0, STRIDE, 0.0]])
    for index in tqdm(range(count), unit=" images"):
        sample = mapper(records[index % len(records)])
        image, gt = sample["image"], sample["instances"]
        pixels = image.permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
        pixels = convert_image_to_rgb(pixels, cfg.INPUT.FORMAT)
        panels = {"ground truth": draw_instances(pixels, gt, metadata.get("thing_classes"), metadata=metadata)}
        for name, heatmap in heatmaps(cfg, heads, gt, tuple(image.shape[-2:])).items():
            panels[name] = draw_heatmap(pixels, heatmap, to_image)
        if gt.has("gt_boxes3d") and "camera" in sample:
            panels["space"] = draw_scene3d(pixels, sample["camera"], known_objects(gt).gt_boxes3d)
        yield f"{index:04d}-{Path(sample['file_name']).stem}.png", side_by_side(list(panels.values()), list(panels))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a file, or a name of the model zoo")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, at the end")
    return command_line.run(parser, visualize, argv)


def visualize(args: argparse.Namespace) -> None:
    """Draw what a command line names."""
    file = args.config if Path(args.config).is_file() else model_zoo.get_config_file(args.config)
    cfg = load_config(file, args.opts)
    register_from_config(cfg)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    sink = PictureSink(args.output)
    for name, picture in pictures(cfg, args.count):
        sink.write(name, picture[..., ::-1])
    print(f"drew {args.count} training images into {args.output}")


if __name__ == "__main__":
    sys.exit(main())
