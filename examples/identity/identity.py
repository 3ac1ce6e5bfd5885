#!/usr/bin/env python
"""Identities: an embedding for object retrieval, and a synthetic dataset.

    python examples/identity/identity.py datasets/badges

Every annotation has an integer ``identity``. The embedding is trained with a classifier of the identities in the
training set, which is not used at test time. The validation set has other identities.
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

# Before Detectron2, to suppress warnings of its import.
from centernet_d2.utils import cli

# isort: split
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from torch import Tensor, nn

from centernet_d2.imaging.geometry import Geometry
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead, Property
from centernet_d2.modeling.losses import average_over_processes
from centernet_d2.structures.plots import Plot, histogram
from centernet_d2.structures.points import Peaks, Points
from centernet_d2.structures.types import DatasetDict, Fields, Maps, Targets

# Number of colors of a ring, and of badges with three rings.
COLORS = 6
BADGES = COLORS**3
# Factor from cosine similarities to logits.
LOGIT_SCALE = 12.0


class IdentityProperty(Property):
    """Identity outside of the network: annotations, results and errors.

    Embeddings of objects without an identity are not supervised.
    """

    name = "identity"
    node = "IDENTITY"
    annotation_keys = ("identity",)
    fields = ("pred_embedding",)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # Number of identities in the training set, numbered from 0; larger numbers are ignored in training.
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
                    raise ValueError(f"{where}: identity is {identity!r}, but must be a non-negative integer")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Return ``gt_identity`` (N,), -1 for objects without an identity.

        Transforms do not change it.
        """
        identities = [annotation.get("identity", -1) for annotation in record["annotations"]]
        return {"gt_identity": torch.tensor(identities, dtype=torch.long)}

    def labeled(self, truth: Instances) -> Tensor:
        return truth.gt_identity >= 0

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Return ``rank1``, the rate of correct nearest neighbors in percent.

        Only objects whose identity occurs more than once count.
        """
        similarity = detections.pred_embedding @ detections.pred_embedding.T
        similarity.fill_diagonal_(-torch.inf)
        same = truth.gt_identity[:, None] == truth.gt_identity
        repeated = same.sum(dim=1) > 1
        hit = same[torch.arange(len(detections)), similarity.argmax(dim=1)]
        return {"rank1": 100.0 * float(hit[repeated].float().mean())}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return objects per identity, or similarities of pairs of detections."""
        if found is None:
            counts = torch.bincount(truth.gt_identity).numpy()
            return [histogram("Objects per identity", "objects", counts[counts > 0])]
        similarity = found.pred_embedding @ found.pred_embedding.T
        same = truth.gt_identity[:, None] == truth.gt_identity
        pairs = torch.ones_like(same).triu(diagonal=1)  # Every pair once.
        values = {"same identity": similarity[pairs & same], "different identities": similarity[pairs & ~same]}
        series = {}
        for name, own in values.items():
            count, edges = np.histogram(own.numpy(), 40, (-1, 1))
            series[name] = ((edges[1:] + edges[:-1]) / 2).tolist(), (count / max(count.sum(), 1)).tolist()
        return [Plot("Similarity of embeddings", "cosine similarity", "share of pairs", series)]


@POINT_HEAD_REGISTRY.register()
class IdentityHead(PointHead):
    """Identity inside the network: a map of embeddings, and a training classifier."""

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
            count: number of identities in the training set.
            size: length of the embedding.
            weight: factor of the loss.
            common: see :class:`PointHead`.
        """
        super().__init__({"embedding": size}, **common)
        self.classifier = nn.Linear(size, count, bias=False)
        self.weight = weight

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """Return identities as targets, because target embeddings do not exist."""
        identity = torch.cat([instances.gt_identity for instances in gt])
        known = (identity >= 0) & (identity < self.classifier.out_features)
        value = torch.where(known, identity, 0).float()[:, None]
        return {"embedding": points.target(value, (points.weight * known)[:, None])}

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        target = targets["embedding"]
        embedding = F.normalize(target.gather(maps["embedding"]).float(), dim=1)
        logits = LOGIT_SCALE * F.linear(embedding, F.normalize(self.classifier.weight, dim=1))
        entropy = F.cross_entropy(logits, target.value[:, 0].long(), reduction="none")
        weight = target.weight[:, 0]
        loss = (entropy * weight).sum() / average_over_processes(weight.sum(), minimum=1)
        return {"loss_identity": self.weight * loss}

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        return {"embedding": maps["embedding"].flip(-1)}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Return (B, K, D) embeddings of unit length."""
        return {"embedding": F.normalize(peaks.gather(maps["embedding"]).float(), dim=2)}

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        return {"pred_embedding": fields["embedding"]}


def badge(identity: int) -> np.ndarray:
    """Return the (3, 3) BGR colors of the rings of a badge, from outside to inside.

    All BADGES identities have different colors.
    """
    # Consecutive numbers share rings; in random order, training and validation badges have the same distribution.
    shuffled = np.random.default_rng(0).permutation(BADGES)[identity]
    hues = [shuffled // COLORS**ring % COLORS * 180 // COLORS for ring in range(3)]
    hsv = np.array([[[hue, 230, 230] for hue in hues]], dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0]


def draw_badges(rng: np.random.Generator, identities: Sequence[int], size: int = 160) -> tuple[np.ndarray, list[dict]]:
    """Draw up to five badges in a grid.

    Returns:
        (H, W, 3) BGR image, and annotations with ``bbox`` and ``identity``.
    """
    image = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    cells = rng.permutation([(x, y) for x in range(3) for y in range(3)])[: rng.integers(1, 6)]
    badges = []
    for cell in cells:
        identity, radius = int(rng.choice(identities)), rng.uniform(15, 23)
        center = (cell + 0.5) * size / 3 + rng.uniform(-3, 3, 2)
        light = rng.uniform(0.7, 1.0)
        for ring, color in enumerate(badge(identity)):
            position = np.round(center * 16).astype(int).tolist()
            ring_radius = round(radius * (1 - ring / 3) * 16)
            cv2.circle(image, position, ring_radius, (color * light).tolist(), -1, cv2.LINE_AA, 4)
        badges.append({"bbox": [*(center - radius).tolist(), 2 * radius, 2 * radius], "identity": identity})
    return image, badges


def write_badges(folder: Path, name: str, identities: Sequence[int], *, images: int, seed: int = 0) -> None:
    """Write images and ``name.json`` in COCO format with ``identity`` in annotations."""
    rng, size = np.random.default_rng(seed), 160
    (folder / name).mkdir(parents=True)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        image, badges = draw_badges(rng, identities, size)
        cv2.imwrite(str(folder / name / f"{image_id:04d}.png"), image)
        records.append({"id": image_id, "file_name": f"{image_id:04d}.png", "height": size, "width": size})
        for one in badges:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, **one})
    content = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "badge"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    parser.add_argument("--train", type=int, default=600, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    parser.add_argument(
        "--identities",
        type=int,
        default=120,
        help=f"number of identities in the training set; the other ones of {BADGES} are in the validation set",
    )
    return cli.run(parser, write_dataset, argv)


def write_dataset(args: argparse.Namespace) -> None:
    """Write both splits, with different identities.

    Raises:
        FileExistsError: the output folder exists.
        ValueError: --identities is out of range.
    """
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists; nothing is overwritten, choose another folder")
    if not 1 <= args.identities < BADGES:
        raise ValueError(f"--identities is {args.identities}, but must be from 1 to {BADGES - 1}")
    write_badges(args.folder, "train", range(args.identities), images=args.train, seed=1)
    write_badges(args.folder, "val", range(args.identities, BADGES), images=args.val, seed=2)
    print(f"wrote {args.train} training and {args.val} validation images of badges to {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
