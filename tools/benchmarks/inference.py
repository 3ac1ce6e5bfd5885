"""From normalised images to decoded detections, of an untrained network; of others from images to detections."""

from __future__ import annotations

import argparse

import torch

from centernet_d2 import load_config
from centernet_d2.layers.folding import fold_batch_norms
from centernet_d2.modeling import CenterNet
from count_flops import count

from . import others
from .measure import alternate, matmul_peak, summarize, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a file, or a name of the model zoo")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vs", nargs="+", metavar="KEY VALUE", help="time the config with these changed, too")
    parser.add_argument("--others", action="store_true", help="time torchvision's detectors, too")


@torch.no_grad()
def run(args: argparse.Namespace) -> dict[str, object]:
    """Seconds per batch, by variant, and the share of the peak that the config itself reaches."""
    size = (args.size[0], args.size[1])
    changes = {"as it is": [], **({" ".join(args.vs): args.vs} if args.vs else {})}
    models = {name: build(args.config, [*options, "MODEL.DEVICE", args.device]) for name, options in changes.items()}
    images = torch.rand(args.batch, 3, *size, device=args.device)
    variants = {
        name: lambda model=model: model.decode(model.compute_test_maps(images)) for name, model in models.items()
    }
    if args.others:
        rivals = {name: model.eval() for name, model in others.build(size, args.device).items()}
        variants |= {name: lambda model=model: model(list(images)) for name, model in rivals.items()}
    times = alternate(variants, args.runs)
    print(f"\n{args.config}, {size[0]} x {size[1]}, batch of {args.batch}\n\n{table(times)}")
    results = summarize(times)
    multiply_adds = args.batch * count(args.config, size)[2]
    share = multiply_adds / results["as it is"]["median"] / matmul_peak(args.device)
    print(f"\n{multiply_adds / 1e9:.2f} G multiply-adds: {share:.0%} of what a matrix product reaches here")
    return {"seconds": results, "multiply_adds": multiply_adds, "share_of_peak": share}


def build(config: str, options: list[str]) -> CenterNet:
    """An untrained network as it detects."""
    cfg = load_config(config, options)
    model = CenterNet(cfg).eval().to(cfg.MODEL.DEVICE)
    if cfg.TEST.FOLD_NORMS:
        model.backbone = fold_batch_norms(model.backbone)
    return model
