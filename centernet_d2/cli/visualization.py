"""Figures of augmented training images, their ground truth and heatmaps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..autoconfig.plan import Request, draft_plan, output_folders, plan_training
from ..config import load_config
from ..data import CenterNetDatasetMapper, register_from_config
from ..data.catalog import dataset_metadata
from ..data.checks import load_checked
from ..evaluation.figures import IMAGES
from ..imaging.visualization import draw_heatmap, draw_instances, side_by_side
from ..modeling import CenterNet
from ..readers import discover_dataset
from ..readers.tree import read_text
from ..utils.parsing import parse_yaml
from ..utils.screen import columns, wrap
from .sheets import write_data_sheets
from .sinks import ImageFolderSink, refuse_existing


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
    """Draw the figures requested on the command line.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: data or config are invalid, or a folder exists.
    """
    if args.count is not None and args.count < 1:
        raise ValueError(f"--count is {args.count}, but must be at least 1")
    if is_data(args.source):
        visualize_data(args.source, args.output, args.count or IMAGES, args.opts)
        return
    if args.output is None:
        raise ValueError("figures of a config require --output FOLDER")
    visualize_config(args.source, args.output, args.count or 16, args.opts)


def is_data(source: str) -> bool:
    """Return True for a dataset, False for a config.

    A YAML file is a dataset if it lists class names or images, as YOLO's data.yaml does.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        content = parse_yaml(read_text(path))
        return isinstance(content, dict) and not content.keys().isdisjoint(("names", "train", "val"))
    return path.is_dir() or path.suffix.lower() in (".json", ".csv")


def visualize_data(source: str, output: Path | None, count: int, overrides: Sequence[str]) -> None:
    """Write images.jpg and augmented.jpg of a dataset.

    Args:
        source: path of the dataset.
        output: folder, created if needed; default: output/NAME-sheets.
        count: maximum number of images in a sheet.
        overrides: alternating config keys and values.
    """
    data = discover_dataset(source)
    print(wrap("\n".join(data.lines()), columns()), flush=True)
    with TemporaryDirectory() as folder:  # The plan writes COCO files.
        fixed = ("MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "False")
        draft = draft_plan(Request(source, overrides=(*fixed, *overrides, "OUTPUT_DIR", folder), timed=False))
        name = next(output_folders(source)).name
        output = output or Path("output", f"{name}-sheets")
        output.mkdir(parents=True, exist_ok=True)
        cfg = plan_training(draft, data).cfg
        register_from_config(cfg)
        for path in write_data_sheets(cfg, output, count):
            print(f"saved {path}")
    for entry in cfg.DATASETS.REGISTER:  # Their files no longer exist.
        DatasetCatalog.remove(entry[0])
        MetadataCatalog.remove(entry[0])


def visualize_config(name: str, output: Path, count: int, overrides: Sequence[str]) -> None:
    """Write figures of augmented training images and their target heatmaps.

    Args:
        name: a config file, or a name of the model zoo.
        output: new folder.
        count: number of figures.
        overrides: alternating config keys and values.
    """
    refuse_existing(output)
    cfg = load_config(name, overrides)
    register_from_config(cfg)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    sink = ImageFolderSink(output)
    for file_name, figure in figures(cfg, count):
        sink.write(file_name, figure[..., ::-1])
    print(f"saved {count} figures of training images to {output}")
