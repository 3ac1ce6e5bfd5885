#!/usr/bin/env python
"""Tracks in videos from boxes and embeddings, and a synthetic dataset.

    python examples/tracking/tracking.py write datasets/walks
    python examples/tracking/tracking.py evaluate output/walks datasets/walks/val output/tracks

The second command tracks the objects in all videos of a folder in MOT format, with and without embeddings, and prints
the metrics of trackeval. Requires norfair-enough and trackeval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from centernet_d2.utils import cli

# isort: split
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.visualizer import Visualizer

from centernet_d2 import Predictor
from centernet_d2.imaging.visualization import class_color
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY
from centernet_d2.utils.validation import ArgumentError

# The head and the drawing of badges are reused.
(identity,) = cli.import_user_modules([str(Path(__file__).resolve().parents[1] / "identity" / "identity.py")])

NODE = "MODEL.CENTERNET.TRACKS"


class TrackProperty(identity.IdentityProperty):
    """Identity that is also tracked in videos.

    Numbers of tracks start at 1; they are in results, visualizations and MOT files."""

    name = "track"
    node = "TRACKS"
    keys = {
        "embeddings": f"{NODE}.EMBEDDINGS",
        "min_score": f"{NODE}.MIN_SCORE",
        "memory": f"{NODE}.MEMORY",
        "similarity": f"{NODE}.SIMILARITY",
    }
    arguments = {"--mot": {"type": Path, "metavar": "FILE", "help": "tracks of a video in MOT format"}}

    @configurable
    def __init__(
        self, *, embeddings: bool = True, min_score: float = 0.4, memory: int = 60, similarity: float = 0.6
    ) -> None:
        """
        Args:
            embeddings: associate by boxes and embeddings; otherwise by boxes.
            min_score: minimum score of tracked detections.
            memory: number of frames after which a lost object is forgotten, if `embeddings` is set.
            similarity: minimum cosine similarity of embeddings of an object.
        """
        super().__init__()
        if not 0 <= similarity <= 1:
            raise ArgumentError("similarity", f"is {similarity}, but must be from 0 to 1")
        self.embeddings = embeddings
        self.min_score = min_score
        self.memory = memory
        self.similarity = similarity
        self.mot: Path | None = None

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.EMBEDDINGS = True
        node.MIN_SCORE = 0.4
        node.MEMORY = 60
        node.SIMILARITY = 0.6

    def start_video(self) -> Callable[[Instances], Instances]:
        return Tracks(self)

    def use_arguments(self, args: argparse.Namespace) -> None:
        self.mot = args.mot
        if self.mot is not None and self.mot.exists() and not args.overwrite:
            raise FileExistsError(f"{self.mot} already exists and is not overwritten; choose another name")

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw boxes in the color of their track, with its number."""
        if not instances.has("pred_track"):
            return []
        for box, track in zip(instances.pred_boxes.tensor.tolist(), instances.pred_track.tolist(), strict=True):
            if track:
                visualizer.draw_box(box, alpha=1.0, edge_color=class_color(track))
                # Labels of boxes are at the edges.
                center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                visualizer.draw_text(str(track), center, color=class_color(track), font_size=9)
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``embedding`` and, in videos, ``track`` (0 if not tracked)."""
        entries = super().to_json(instances)
        if instances.has("pred_track"):
            for entry, track in zip(entries, instances.pred_track.tolist(), strict=True):
                entry["track"] = track
        return entries


@POINT_HEAD_REGISTRY.register()
class TrackHead(identity.IdentityHead):
    """Embeddings inside the network, see IdentityHead."""

    property_type = TrackProperty
    keys = {name: key.replace(".IDENTITY.", ".TRACKS.") for name, key in identity.IdentityHead.keys.items()}


class Tracks:
    """Association of the detections of one video by norfair.

    An object is associated with the next box that overlaps and, with embeddings, looks similar. With embeddings, a new
    object continues the track of a lost object that looks similar.
    """

    def __init__(self, prop: TrackProperty) -> None:
        """
        Args:
            prop: options of the tracks.
        """
        # Only needed for videos.
        from norfair import Tracker
        from norfair.distances import ScalarDistance

        self.prop = prop
        self.frame = 0
        options: dict[str, Any] = {}
        if prop.embeddings:
            options = {
                "reid_distance_function": self._look,
                "reid_distance_threshold": 1 - prop.similarity,
                "reid_hit_counter_max": prop.memory,
            }
        # 8 frames without a detection are bridged by the predicted motion; the third frame of an object starts a track.
        self.tracker = Tracker("iou", 0.8, hit_counter_max=8, initialization_delay=2, **options)
        if prop.embeddings:
            self.tracker.distance_function = ScalarDistance(self._move)

    def __call__(self, detections: Instances) -> Instances:
        """Return the detections of the next frame with ``pred_track`` (N,), 0 for detections that are not tracked."""
        from norfair import Detection

        self.frame += 1
        found = (detections.scores >= self.prop.min_score).nonzero()[:, 0].tolist()
        boxes, looks = detections.pred_boxes.tensor.numpy(), detections.pred_embedding.numpy()
        objects = self.tracker.update(
            [
                Detection(
                    boxes[row].reshape(2, 2).astype(float),
                    data=(self.frame, row),
                    label=int(detections.pred_classes[row]),
                    embedding=looks[row],
                )
                for row in found
            ]
        )
        tracks = torch.zeros(len(detections), dtype=torch.long)
        for one in objects:
            frame, row = one.last_detection.data
            if frame == self.frame:
                tracks[row] = one.id
        detections.pred_track = tracks
        if self.prop.mot is not None:
            with self.prop.mot.open("w" if self.frame == 1 else "a") as file:
                file.writelines(mot_lines(self.frame, detections))
        return detections

    def _move(self, detection: Any, one: Any) -> float:
        """Return the distance of a detection in 0..1 from the predicted box of an object; 1 if it looks different."""
        if self._look(detection, one) > 1 - self.prop.similarity:
            return 1.0
        first, second = (Boxes(torch.as_tensor(x.reshape(1, 4))) for x in (detection.points, one.estimate))
        return 1 - float(pairwise_iou(first, second))

    @staticmethod
    def _look(first: Any, second: Any) -> float:
        """Return one minus the largest cosine similarity of two objects (or detections)."""
        seen = [[x.embedding for x in getattr(one, "past_detections", [one])] for one in (first, second)]
        return 1 - float((np.stack(seen[0]) @ np.stack(seen[1]).T).max())


def mot_lines(frame: int, detections: Instances) -> list[str]:
    """Return the lines of a frame in MOT format.

    Columns: frame, track, left, top, width, height, score, and 3 unused values."""
    rows = zip(
        detections.pred_boxes.tensor.tolist(), detections.pred_track.tolist(), detections.scores.tolist(), strict=True
    )
    return [
        f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.4f},-1,-1,-1\n"
        for (x1, y1, x2, y2), track, score in rows
        if track
    ]


def evaluate_tracks(truth: Path, results: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compute metrics of trackeval in percent, and numbers of identity switches.

    Args:
        truth: folder with ``VIDEO/gt/gt.txt`` and ``VIDEO/seqinfo.ini``.
        results: folder with ``NAME/data/VIDEO.txt``.
        names: names of the results.
    """
    import trackeval

    quiet = {"PRINT_CONFIG": False, "TIME_PROGRESS": False, "PRINT_RESULTS": False}
    files = {"OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False, "LOG_ON_ERROR": None}
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(truth),
            "TRACKERS_FOLDER": str(results),
            "TRACKERS_TO_EVAL": list(names),
            "SEQ_INFO": {path.parents[1].name: None for path in sorted(truth.glob("*/gt/gt.txt"))},
            "SKIP_SPLIT_FOL": True,
            "PRINT_CONFIG": False,
        }
    )
    metrics = [kind({"PRINT_CONFIG": False}) for kind in (trackeval.metrics.HOTA, trackeval.metrics.Identity)]
    metrics.append(trackeval.metrics.CLEAR({"PRINT_CONFIG": False}))
    found, _ = trackeval.Evaluator({**quiet, **files}).evaluate([dataset], metrics)
    table = {}
    for name in names:
        own = found["MotChallenge2DBox"][name]["COMBINED_SEQ"]["pedestrian"]  # The only class of the format.
        table[name] = {
            "HOTA": 100 * float(np.mean(own["HOTA"]["HOTA"])),
            "IDF1": 100 * float(own["Identity"]["IDF1"]),
            "MOTA": 100 * float(own["CLEAR"]["MOTA"]),
            "switches": float(own["CLEAR"]["IDSW"]),
        }
    return table


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate tracks in all videos, with and without embeddings.

    Raises:
        FileExistsError: the output folder exists.
    """
    if args.output.exists():
        raise FileExistsError(f"{args.output} already exists; nothing is overwritten, choose another folder")
    predictor = Predictor(args.weights, device=args.device)
    prop = next(prop for prop in predictor.network.properties if isinstance(prop, TrackProperty))
    videos = [path.parents[1] for path in sorted(args.videos.glob("*/gt/gt.txt"))]
    if not videos:
        raise FileNotFoundError(f"{args.videos} has no videos in MOT format (VIDEO/gt/gt.txt)")
    names = {"boxes": False, "boxes and embeddings": True}
    for name in names:
        (args.output / name / "data").mkdir(parents=True)
    for folder in videos:
        frames = sorted((folder / "img1").iterdir())
        results = predictor(frames, threshold=0.0)
        for name, prop.embeddings in names.items():
            prop.mot = args.output / name / "data" / f"{folder.name}.txt"
            prop.mot.touch()
            predictor.video().update(results)
    table = evaluate_tracks(args.videos, args.output, list(names))
    (args.output / "metrics.json").write_text(json.dumps(table, indent=1))
    for name, own in table.items():
        print(f"{name}: {', '.join(f'{key} {value:.1f}' for key, value in own.items())}")


SIZE = 128


class Walk:
    """Synthetic video of moving badges, which may be occluded or outside."""

    def __init__(self, rng: np.random.Generator, identities: Sequence[int], frames: int) -> None:
        """
        Args:
            rng: random number generator.
            identities: identities of badges to choose from.
            frames: number of frames.
        """
        count = min(int(rng.integers(4, 7)), len(identities))
        self.rng = rng
        self.identities = rng.choice(identities, count, replace=False).tolist()
        self.radius = rng.uniform(10, 15, count)
        self.ground = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        self.bar = int(rng.integers(40, 70))
        start, speed = rng.uniform(20, SIZE - 20, (count, 2)), rng.uniform(-3.5, 3.5, (count, 2))
        self.paths = start + np.arange(frames)[:, None, None] * speed
        # Objects turn around 25 pixels outside of the image.
        period = SIZE + 50
        self.paths = period - 25 - np.abs((self.paths + 25) % (2 * period) - period)

    def draw(self, frame: int) -> tuple[np.ndarray, list[dict]]:
        """Draw a frame.

        Returns:
            (H, W, 3) BGR image, and annotations with ``bbox``, ``identity``, ``object`` (the index in the video) and
            ``visible``, the visible share of the object.
        """
        image, owner = self.ground.copy(), np.full((SIZE, SIZE), -1, np.int32)
        for index, (center, radius) in enumerate(zip(self.paths[frame], self.radius, strict=True)):
            position = np.round(center * 16).astype(int).tolist()
            for ring, color in enumerate(identity.badge(self.identities[index])):
                cv2.circle(image, position, round(radius * (1 - ring / 3) * 16), color.tolist(), -1, cv2.LINE_AA, 4)
            cv2.circle(owner, position, round(radius * 16), index, -1, cv2.LINE_8, 4)
        image[:, self.bar : self.bar + 22], owner[:, self.bar : self.bar + 22] = 40, -1
        annotations = []
        for index, (center, radius) in enumerate(zip(self.paths[frame], self.radius, strict=True)):
            first, last = (center - radius).clip(0, SIZE), (center + radius).clip(0, SIZE)
            visible = min(1.0, float((owner == index).sum() / (np.pi * radius**2)))
            box = [*first.tolist(), *(last - first).tolist()]
            annotations.append({"bbox": box, "identity": self.identities[index], "object": index, "visible": visible})
        # Objects of which less than a third is visible are hidden.
        return image, [one for one in annotations if one["visible"] > 1 / 3]


def write_walks(
    folder: Path, name: str, identities: Sequence[int], *, videos: int, frames: int, step: int = 1, seed: int = 0
) -> None:
    """Write videos in MOT format, and ``name.json`` in COCO format with identities.

    Args:
        folder: output folder.
        name: name of the split.
        identities: identities of the badges.
        videos: number of videos.
        frames: number of frames of each video.
        step: only every `step`-th frame is in the COCO file.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    records, annotations = [], []
    for video in range(1, videos + 1):
        own = folder / name / f"{video:02d}"
        (own / "img1").mkdir(parents=True)
        (own / "gt").mkdir()
        walk, lines = Walk(rng, identities, frames), []
        for frame in range(frames):
            image, badges = walk.draw(frame)
            file_name = f"{video:02d}/img1/{frame + 1:06d}.png"
            cv2.imwrite(str(folder / name / file_name), image)
            for one in badges:
                values = (
                    frame + 1,
                    one["object"] + 1,
                    *(f"{x:.2f}" for x in one["bbox"]),
                    1,
                    1,
                    f"{one['visible']:.2f}",
                )
                lines.append(",".join(map(str, values)) + "\n")
            if frame % step == 0:
                image_id = len(records) + 1
                records.append({"id": image_id, "file_name": file_name, "height": SIZE, "width": SIZE})
                for one in badges:
                    entry = {"bbox": one["bbox"], "identity": one["identity"], "category_id": 1}
                    annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
        (own / "gt" / "gt.txt").write_text("".join(lines))
        (own / "seqinfo.ini").write_text(f"[Sequence]\nname={video:02d}\nseqLength={frames}\n")
    content = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "badge"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def write(args: argparse.Namespace) -> None:
    """Write both splits, with different identities.

    Raises:
        FileExistsError: the output folder exists.
    """
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists; nothing is overwritten, choose another folder")
    train, val = range(120), range(120, identity.BADGES)
    write_walks(args.folder, "train", train, videos=args.train, frames=60, step=4, seed=1)
    write_walks(args.folder, "val", val, videos=args.val, frames=120, step=4, seed=2)
    print(f"wrote {args.train} training and {args.val} validation videos to {args.folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    writer = commands.add_parser("write", help="write the synthetic videos")
    writer.add_argument("folder", type=Path, help="output folder; must not exist")
    writer.add_argument("--train", type=int, default=40, help="number of training videos")
    writer.add_argument("--val", type=int, default=10, help="number of validation videos")
    writer.set_defaults(run=write)
    evaluator = commands.add_parser("evaluate", help="track the objects in videos, and print metrics")
    evaluator.add_argument("weights", help="the folder of a run, or a checkpoint")
    evaluator.add_argument("videos", type=Path, help="folder of videos in MOT format")
    evaluator.add_argument("output", type=Path, help="output folder; must not exist")
    evaluator.add_argument("--device", help="cpu, cuda, ... (default: MODEL.DEVICE of the config)")
    evaluator.set_defaults(run=evaluate)
    return cli.run(parser, lambda args: args.run(args), argv)


if __name__ == "__main__":
    sys.exit(main())
