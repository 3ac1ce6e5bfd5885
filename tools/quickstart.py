#!/usr/bin/env python
"""Demo: generate a small dataset, train, evaluate and visualize the result.

    python tools/quickstart.py [--output FOLDER] [KEY VALUE ...]

It combines tools/draw_dataset.py and train_net.py. KEY VALUE pairs override the config.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from centernet_d2 import load_config, model_zoo

# Before Detectron2, to suppress warnings of its import.
from centernet_d2.utils import cli

# isort: split
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser

from centernet_d2.autoconfig.machine import inspect_machine
from centernet_d2.checkpoint import CenterNetCheckpointer
from centernet_d2.cli.train import main as train_net
from centernet_d2.engine import Trainer
from centernet_d2.evaluation.figures import draw_prediction
from centernet_d2.imaging.visualization import side_by_side
from centernet_d2.modeling import CenterNet
from centernet_d2.utils.files import unused_folder
from centernet_d2.utils.signals import Stopped
from synthetic.shapes import write_shapes

CONFIG = "Shapes/centernet_HG_shapes.yaml"
# Longer side of a visualization in pixels.
SIDE = 480


def half_precision(config_file: str, overrides: list[str]) -> list[str]:
    """Return the config override for half precision.

    Half precision is enabled if it is faster on this machine. On a CPU, this is measured in a second.
    """
    if "SOLVER.AMP.ENABLED" in overrides:
        return []
    machine = inspect_machine(load_config(config_file, overrides).MODEL.DEVICE, measure=True)
    return ["SOLVER.AMP.ENABLED", str(machine.half_speed > 1.1)]


def train(config_file: str, output: Path, overrides: list[str]) -> dict:
    """Run ``python train_net.py --config-file ...`` in this process."""
    options = ["--config-file", config_file, "OUTPUT_DIR", str(output), *overrides]
    return train_net(default_argument_parser().parse_args(options))


def visualize(model: CenterNet, record: dict) -> np.ndarray:
    """Draw ground truth, detections and heatmap of one image side by side.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    row, _ = draw_prediction(model, record, SIDE)
    return side_by_side([figure for _, figure in row], [title for title, _ in row])


def write_visualizations(cfg_file: str, overrides: list[str], weights: Path, folder: Path, count: int = 12) -> None:
    """Write visualizations of the first validation images, and a sheet of four."""
    cfg = load_config(cfg_file, overrides)
    model = Trainer.build_model(cfg).eval()
    CenterNetCheckpointer(model).load(str(weights))
    name = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(name)[:count]
    folder.mkdir(parents=True)
    figures = [visualize(model, record) for record in records]
    for index, rgb in enumerate(figures):
        cv2.imwrite(str(folder / f"{index:02d}.png"), rgb[..., ::-1])
    width = max(rgb.shape[1] for rgb in figures)
    padded = [np.pad(f, ((0, 8), (0, width - f.shape[1]), (0, 0)), constant_values=255) for f in figures[:4]]
    cv2.imwrite(str(folder / "sheet.png"), np.concatenate(padded)[..., ::-1])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="output folder (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, nargs=2, default=(800, 200), metavar=("TRAIN", "VAL"), help="number of images per split"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Run the demo with the options of the command line."""
    start = time.perf_counter()
    output = unused_folder(args.output)
    os.environ["DETECTRON2_DATASETS"] = str(output / "datasets")
    print(f"writing {sum(args.images)} images to {output / 'datasets' / 'shapes'}")
    write_shapes(output / "datasets" / "shapes", train=args.images[0], val=args.images[1])
    config_file = model_zoo.get_config_file(CONFIG)
    python = os.path.relpath(sys.executable)
    try:
        metrics = train(config_file, output, [*half_precision(config_file, args.overrides), *args.overrides])["bbox"]
    except Stopped as stopped:  # The message of the trainer refers to --resume of train_net.py.
        raise Stopped(
            stopped.number,
            f"stopped; continue with DETECTRON2_DATASETS={output / 'datasets'} "
            f"{python} train_net.py --config-file {output / 'config.yaml'} --resume",
        ) from stopped
    pictures = output / "pictures"
    write_visualizations(config_file, args.overrides, output / "model_final.pth", pictures)
    seconds = time.perf_counter() - start
    print(
        f"\n{'':10}{'AP':>8}{'AP50':>8}{'AP75':>8}\n{'shapes_val':10}"
        + "".join(f"{metrics[name]:8.1f}" for name in ("AP", "AP50", "AP75"))
        + f"\n\npictures: {pictures}{os.sep} (sheet.png: ground truth, detections and heatmap)\n"
        "to train on your own labeled images:\n"
        f"  {python} train_net.py --data FOLDER --minutes 20\n"
        f"demo: AP50={metrics['AP50']:.1f} AP={metrics['AP']:.1f} seconds={seconds:.0f} pictures={pictures}"
    )


if __name__ == "__main__":
    sys.exit(main())
