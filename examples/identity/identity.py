#!/usr/bin/env python
"""Identities: an embedding by which an object is found again in other images; and a small data set of badges.

    python examples/identity/identity.py datasets/badges

Every annotation has an ``identity``, a number. The embedding is learned by telling the identities of the training set
apart, with a classifier that is not needed later; those of the validation set are others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

# In front of Detectron2, whose import it makes a quiet one.
from centernet_d2.utils import cli

# isort: split
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from torch import Tensor, nn

from centernet_d2.imaging.geometry import Geometry
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead, Property
from centernet_d2.modeling.losses import average_over_processes
from centernet_d2.structures.points import Peaks, Points
from centernet_d2.structures.types import DatasetDict, Fields, Maps, Targets

# Rings of a badge have one of these colors each, which makes so many badges.
COLORS = 6
BADGES = COLORS**3
# How much more a cosine of 1 counts than one of 0, as logits.
SHARPNESS = 12.0


class IdentityProperty(Property):
    """Identities outside the network. An object without one has no supervision of its embedding."""

    name = "identity"
    node = "IDENTITY"
    annotation_keys = ("identity",)
    fields = ("pred_embedding",)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # Identities of the training set, counted from 0; larger numbers are others, of which nothing is learned.
        node.COUNT = 1
        # Length of the embedding.
        node.SIZE = 32
        node.WEIGHT = 0.2

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        for image in dicts:
            for index, annotation in enumerate(image.get("annotations", ())):
                identity = annotation.get("identity", 0)
                if not isinstance(identity, int) or identity < 0:
                    where = f"{image['file_name']}, annotation {index} of this image"
                    raise ValueError(f"{where}: identity is {identity!r}, but must be a number from 0 on")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """``gt_identity`` (N,); -1 where there is none. Nothing that happens to an image changes it."""
        identities = [annotation.get("identity", -1) for annotation in record["annotations"]]
        return {"gt_identity": torch.tensor(identities, dtype=torch.long)}

    def labeled(self, truth: Instances) -> Tensor:
        return truth.gt_identity >= 0

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """``rank1``: of the objects that are there more than once, percent whose nearest other object is the same."""
        similarity = detections.pred_embedding @ detections.pred_embedding.T
        similarity.fill_diagonal_(-torch.inf)
        same = truth.gt_identity[:, None] == truth.gt_identity
        again = same.sum(dim=1) > 1
        hit = same[torch.arange(len(detections)), similarity.argmax(dim=1)]
        return {"rank1": 100.0 * float(hit[again].float().mean())}


@POINT_HEAD_REGISTRY.register()
class IdentityHead(PointHead):
    """Identities inside the network: a map of embeddings, and a classifier for training."""

    property_type = IdentityProperty
    keys = {
        "count": "MODEL.CENTERNET.IDENTITY.COUNT",
        "size": "MODEL.CENTERNET.IDENTITY.SIZE",
        "weight": "MODEL.CENTERNET.IDENTITY.WEIGHT",
    }
    provides = ("embedding",)

    @configurable
    def __init__(self, *, count: int, size: int = 32, weight: float = 1.0, **common: Any) -> None:
        """
        Args:
            count: identities of the training set.
            size: length of the embedding.
            weight: factor of the loss.
            common: see :class:`PointHead`.
        """
        super().__init__({"embedding": size}, **common)
        self.classifier = nn.Linear(size, count, bias=False)
        self.weight = weight

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """The number of the identity in place of an embedding, of which nobody knows what it should be."""
        identity = torch.cat([instances.gt_identity for instances in gt])
        known = (identity >= 0) & (identity < self.classifier.out_features)
        value = torch.where(known, identity, 0).float()[:, None]
        return {"embedding": points.target(value, (points.weight * known)[:, None])}

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        target = targets["embedding"]
        embedding = F.normalize(target.gather(maps["embedding"]).float(), dim=1)
        logits = SHARPNESS * F.linear(embedding, F.normalize(self.classifier.weight, dim=1))
        entropy = F.cross_entropy(logits, target.value[:, 0].long(), reduction="none")
        weight = target.weight[:, 0]
        loss = (entropy * weight).sum() / average_over_processes(weight.sum(), minimum=1)
        return {"loss_identity": self.weight * loss}

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        return {"embedding": maps["embedding"].flip(-1)}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """(B, K, D) embeddings of length 1; the product of two is their similarity."""
        return {"embedding": F.normalize(peaks.gather(maps["embedding"]).float(), dim=2)}

    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        return {"pred_embedding": fields["embedding"]}


def badge(identity: int) -> np.ndarray:
    """(3, 3) BGR colors of the rings of a badge, from the outside to the inside; all BADGES differ."""
    # Neighbors share rings; in random order, the first ones look like the others.
    shuffled = np.random.default_rng(0).permutation(BADGES)[identity]
    hues = [shuffled // COLORS**ring % COLORS * 180 // COLORS for ring in range(3)]
    hsv = np.array([[[hue, 230, 230] for hue in hues]], dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0]


def draw_badges(rng: np.random.Generator, identities: Sequence[int], size: int = 160) -> tuple[np.ndarray, list[dict]]:
    """A picture of up to five badges side by side, (H, W, 3) BGR, and their ``bbox`` and ``identity``."""
    image = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    cells = rng.permutation([(x, y) for x in range(3) for y in range(3)])[: rng.integers(1, 6)]
    badges = []
    for cell in cells:
        identity, radius = int(rng.choice(identities)), rng.uniform(15, 23)
        center = (cell + 0.5) * size / 3 + rng.uniform(-3, 3, 2)
        light = rng.uniform(0.7, 1.0)
        for ring, color in enumerate(badge(identity)):
            place = np.round(center * 16).astype(int).tolist()
            inner = round(radius * (1 - ring / 3) * 16)
            cv2.circle(image, place, inner, (color * light).tolist(), -1, cv2.LINE_AA, 4)
        badges.append({"bbox": [*(center - radius).tolist(), 2 * radius, 2 * radius], "identity": identity})
    return image, badges


def write_badges(folder: Path, name: str, identities: Sequence[int], *, images: int, seed: int = 0) -> None:
    """Draw ``name/*.png`` and ``name.json``, COCO's format with an ``identity`` in each annotation."""
    rng, size = np.random.default_rng(seed), 160
    (folder / name).mkdir(parents=True)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        picture, badges = draw_badges(rng, identities, size)
        cv2.imwrite(str(folder / name / f"{image_id:04d}.png"), picture)
        records.append({"id": image_id, "file_name": f"{image_id:04d}.png", "height": size, "width": size})
        for one in badges:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, **one})
    content = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "badge"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=600, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    parser.add_argument("--identities", type=int, default=120, help=f"of the training set; {BADGES} there are in all")
    return cli.run(parser, draw, argv)


def draw(args: argparse.Namespace) -> None:
    """Draw both splits; the identities of the validation set are those behind the ones of the training set."""
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists; nothing is overwritten")
    if not 1 <= args.identities < BADGES:
        raise ValueError(f"--identities {args.identities}: choose 1 to {BADGES - 1}")
    write_badges(args.folder, "train", range(args.identities), images=args.train, seed=1)
    write_badges(args.folder, "val", range(args.identities, BADGES), images=args.val, seed=2)
    print(f"drew {args.train} and {args.val} images of badges into {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
