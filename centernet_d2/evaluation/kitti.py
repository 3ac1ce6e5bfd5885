"""Evaluator of the KITTI 3-D object benchmark, with official result files."""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from ..data.kitti import CLASSES, format_result
from ..data.loaded import load_dataset
from ..structures.types import DatasetDict
from ..utils.screen import track
from ..utils.validation import check_choice
from .kitti_metrics import (
    DIFFICULTIES,
    RULES,
    SAMPLES,
    Detections,
    GroundTruth,
    count_objects,
    evaluate_kitti,
    is_broken,
)

__all__ = ["KITTIEvaluator"]

# Image id, class of each detection, and (N, 13) values in the order of `format_result`.
_Prediction = tuple[str, list[str], np.ndarray]


class KITTIEvaluator(DatasetEvaluator):
    """Evaluator of datasets of :func:`centernet_d2.data.kitti.register_kitti_3d`.

    Only the processed images are evaluated. Instances must have ``pred_boxes``, ``pred_boxes3d``, ``pred_alpha``,
    ``pred_classes`` and ``scores``.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        distributed: bool = True,
        round_results: bool = True,
        rules: str = "kit",
    ) -> None:
        """
        Args:
            dataset_name: name of the registered dataset.
            output_dir: folder for the official result files, which are written to its subfolder ``data``.
            distributed: gather the results of all processes.
            round_results: round results to two decimals as in the result files, like the reference implementation.
            rules: "kit" ignores labeled boxes of exactly the minimum height like KITTI's development kit; "original"
                counts them like the evaluation tool of the reference implementation.

        Raises:
            ValueError: the rules are unknown, or the dataset has classes that KITTI does not have.
        """
        check_choice("rules", rules, RULES)
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._round_results = round_results
        self._rules = rules
        self._classes = list(MetadataCatalog.get(dataset_name).thing_classes)
        if unknown := set(self._classes) - set(CLASSES):
            raise ValueError(f"the dataset '{dataset_name}' has classes that KITTI does not have: {', '.join(unknown)}")
        self.reset()

    def reset(self) -> None:
        self._predictions: list[_Prediction] = []

    def process(self, inputs: list[DatasetDict], outputs: list[dict]) -> None:
        """Add the detections of a batch, see :meth:`DatasetEvaluator.process`."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            kinds = [self._classes[index] for index in instances.pred_classes.tolist()]
            self._predictions.append((image["image_id"], kinds, _result_rows(instances)))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the metrics of :func:`evaluate_kitti`, in the main process only.

        Other processes return None. Without images, the result is an empty dict.

        Raises:
            KeyError: an image does not belong to the dataset.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return None
        if not predictions:
            self._logger.warning("no images were processed; skipping the evaluation")
            return OrderedDict()
        if self._output_dir:
            self._write(os.path.join(self._output_dir, "data"), predictions)
        records = {record["image_id"]: record for record in load_dataset(self._dataset_name)}
        if unknown := [image_id for image_id, _, _ in predictions if image_id not in records]:
            raise KeyError(f"the image '{unknown[0]}' is not in the dataset '{self._dataset_name}'")
        truth = _collect_truth([records[image_id]["annotations"] for image_id, _, _ in predictions])
        detections = _collect_detections(predictions, self._round_results)
        if invalid := int(is_broken(detections).sum()):
            self._logger.warning(
                f"{invalid} of {len(detections.score)} detections contain NaN or Inf and count as false positives"
            )
        results = evaluate_kitti(truth, detections, self._classes, rules=self._rules)
        self._log(truth, results)
        return results

    def _write(self, folder: str, predictions: Sequence[_Prediction]) -> None:
        PathManager.mkdirs(folder)
        for image_id, kinds, rows in track(predictions, "writing results", len(predictions)):
            with PathManager.open(os.path.join(folder, f"{image_id}.txt"), "w") as file:
                file.writelines(f"{format_result(*one)}\n" for one in zip(kinds, rows.tolist(), strict=True))

    def _log(self, truth: GroundTruth, results: dict[str, dict[str, float]]) -> None:
        for metric, values in results.items():
            # "Car_easy_R11@0.5" -> row "Car R11@0.5", column "easy".
            table: dict[str, dict[str, float]] = {}
            for name, value in values.items():
                kind, difficulty, points = name.split("_")
                table.setdefault(f"{kind} {points}", {})[difficulty] = value
            rows = [[name, *row.values()] for name, row in table.items()]
            headers = [metric, *(difficulty.name for difficulty in DIFFICULTIES)]
            self._logger.info("\n" + tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f"))
        few = [
            f"{kind} {difficulty.name} ({count})"
            for kind, difficulty in itertools.product(self._classes, DIFFICULTIES)
            if 0 < (count := count_objects(truth, kind, difficulty, self._rules)) < SAMPLES
        ]
        if few:
            self._logger.warning(
                f"with fewer than {SAMPLES} objects, KITTI's metrics stay below 100 even for perfect detections: "
                + ", ".join(few)
            )


def _result_rows(instances: Instances) -> np.ndarray:
    """Return the (N, 13) values of :func:`format_result` for N detections."""
    boxes = instances.pred_boxes3d
    columns = [
        instances.pred_alpha.reshape(-1, 1),
        instances.pred_boxes.tensor,
        boxes.dimensions,
        boxes.location,
        boxes.rotation_y[:, None],
        instances.scores[:, None],
    ]
    return torch.cat([column.double() for column in columns], dim=1).numpy()


def _collect_detections(predictions: Sequence[_Prediction], round_results: bool) -> Detections:
    rows = np.concatenate([rows for _, _, rows in predictions])
    if round_results:
        # Round by formatting: np.round may differ from the decimals in the result files.
        rows = np.array([f"{value:.2f}" for value in rows.ravel().tolist()], dtype=np.float64).reshape(rows.shape)
    return Detections(
        image=np.repeat(np.arange(len(predictions)), [len(kinds) for _, kinds, _ in predictions]),
        kind=np.array([kind for _, kinds, _ in predictions for kind in kinds], dtype=np.str_),
        boxes=rows[:, 1:5],
        boxes3d=np.concatenate([rows[:, 8:11], rows[:, 5:8], rows[:, 11:12]], axis=1),
        alpha=rows[:, 0],
        score=rows[:, 12],
    )


def _collect_truth(annotations: Sequence[Sequence[dict]]) -> GroundTruth:
    flat = [(index, one) for index, image in enumerate(annotations) for one in image]

    def column(name: str, width: int) -> np.ndarray:
        return np.array([one[name] for _, one in flat], dtype=np.float64).reshape(-1, width)

    return GroundTruth(
        image=np.array([index for index, _ in flat], dtype=np.int64),
        kind=np.array([one["kitti_type"] for _, one in flat], dtype=np.str_),
        boxes=column("bbox", 4),
        boxes3d=np.concatenate([column("location", 3), column("dimensions", 3), column("rotation_y", 1)], axis=1),
        alpha=column("alpha", 1)[:, 0],
        occlusion=column("occlusion", 1)[:, 0],
        truncation=column("truncation", 1)[:, 0],
    )
