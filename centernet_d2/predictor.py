"""Predictor that detects objects in arrays, Pillow images or image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image as Pillow
from torch import Tensor

from .checkpoint import CenterNetCheckpointer, find_weights
from .config.keys import check_keys
from .config.loading import check_device, load_config
from .data.catalog import dataset_metadata, from_plain
from .evaluation.coco import to_coco
from .imaging.reading import pillow_to_rgb, read_image, to_uint8_color
from .layers.folding import fold_batch_norms
from .modeling import CenterNet, CenterNetWithTTA

__all__ = ["Predictor"]

Image = np.ndarray | Pillow.Image | str | Path


class Predictor:
    """Model with preprocessing, for single images and lists of images.

    It is called like DefaultPredictor of Detectron2. Example::

        predictor = Predictor.from_zoo("dla34-coco")
        instances = predictor("street.jpg")["instances"]
        results = predictor(["street.jpg", cv2.imread("river.png")])
    """

    def __init__(
        self, model: CenterNet | CenterNetWithTTA, *, metadata: Metadata | None = None, batch_size: int = 4
    ) -> None:
        """
        Args:
            model: model, which is set to evaluation mode.
            metadata: class names and category IDs, as in Detectron2's MetadataCatalog.
            batch_size: number of images in memory; images with the same canvas size are processed as one batch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        self.model: CenterNet | CenterNetWithTTA = model.eval()
        self.metadata = metadata or Metadata()
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg: CfgNode, *, batch_size: int = 4) -> Predictor:
        """Build the model of a config with MODEL.WEIGHTS.

        With TEST.AUG.ENABLED, the model uses test-time augmentation. Class names and category IDs come from the
        datasets of the config or, if these are not available, from the metadata of the weights file.

        Raises:
            FileNotFoundError: the weights file does not exist or cannot be downloaded.
            ValueError: MODEL.WEIGHTS is empty or does not match the model, MODEL.DEVICE is a GPU that is not available,
                or the backbone does not support TEST.FOLD_NORMS.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS is empty, but detection requires weights: set MODEL.WEIGHTS")
        find_weights(cfg.MODEL.WEIGHTS)
        check_keys(cfg)
        check_device(cfg.MODEL.DEVICE)
        model = build_model(cfg).eval()
        saved = CenterNetCheckpointer(model).load(cfg.MODEL.WEIGHTS).get("metadata")
        if cfg.TEST.FOLD_NORMS:
            model.backbone = fold_batch_norms(model.backbone)
        metadata = dataset_metadata(cfg)
        if metadata.get("thing_classes") is None:
            metadata = from_plain(saved, model.num_classes)
        for prop in model.properties:
            prop.use_metadata(saved if isinstance(saved, dict) else {})
        if cfg.TEST.AUG.ENABLED:
            model = CenterNetWithTTA(cfg, model, batch_size=batch_size)
        return cls(model, metadata=metadata, batch_size=batch_size)

    @classmethod
    def from_zoo(
        cls,
        name: str,
        weights: str | Path = "",
        device: str | None = None,
        *,
        batch_size: int = 4,
        overrides: Sequence[object] = (),
    ) -> Predictor:
        """Build a predictor from a config of the model zoo.

        Args:
            name: one of :func:`centernet_d2.model_zoo.available`, or the path of a config file.
            weights: weights file of this project or of the reference implementation, or the short name of released
                weights; by default MODEL.WEIGHTS of the config, which a short name as `name` sets.
            device: device of the model; by default MODEL.DEVICE of the config.
            batch_size: see :class:`Predictor`.
            overrides: alternating config keys and values.
        """
        options = list(overrides)
        for key, value in (("MODEL.WEIGHTS", weights), ("MODEL.DEVICE", device)):
            options += [key, str(value)] if value else []
        return cls.from_config(load_config(name, options), batch_size=batch_size)

    def __call__(
        self, images: Image | list[Image] | tuple[Image, ...], **inputs: Any
    ) -> dict[str, Instances] | list[dict[str, Instances]]:
        """Detect objects in one image, or in each image of a list.

        Args:
            images: a path; a Pillow image of any mode; an array of uint8, uint16 or float in 0..255 with shape (H, W)
                gray, (H, W, 3) BGR or (H, W, 4) BGRA, as read by OpenCV; or a list of these, of any sizes.
            inputs: additional inputs of all images, by the keys in :attr:`CenterNet.input_keys`.

        Returns:
            ``{"instances": Instances}`` on the CPU, in coordinates of the image after its EXIF orientation is applied;
            for a list of images, a list of such dicts.

        Raises:
            OSError: a file cannot be read.
            TypeError: the model does not have one of the inputs.
            ValueError: an array is not an image, or an input is invalid.
        """
        if not isinstance(images, (list, tuple)):
            return self.detect([images], [inputs])[0]
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        batches = (self.detect(part, [inputs] * len(part)) for part in parts)
        return [result for batch in batches for result in batch]

    @torch.no_grad()
    def detect(
        self,
        images: Sequence[Image],
        inputs: Sequence[Mapping[str, Any]] | None = None,
        *,
        keep_heatmap: bool = False,
    ) -> list[dict[str, Any]]:
        """Detect objects in one batch of images.

        Args:
            images: see :meth:`__call__`.
            inputs: additional inputs of each image.
            keep_heatmap: see :meth:`CenterNet.inference`.

        Returns:
            One dict per image, see :meth:`CenterNet.inference`; instances are on the CPU.
        """
        inputs = inputs or [{}] * len(images)
        known = self.network.input_keys
        if unknown := sorted({key for own in inputs for key in own} - set(known)):
            expected = f"inputs of this model: {', '.join(known)}" if known else "this model has no additional inputs"
            raise TypeError(f"unknown inputs {', '.join(unknown)}; {expected}")
        batch = [{"image": self._load(image), **own} for image, own in zip(images, inputs, strict=True)]
        results = self.model.inference(batch, keep_heatmap=keep_heatmap)
        return [{**result, "instances": result["instances"].to("cpu")} for result in results]

    @property
    def network(self) -> CenterNet:
        """Model without test-time augmentation."""
        # @configurable is untyped, and removes the type narrowing of isinstance.
        return cast(CenterNet, self.model.model if isinstance(self.model, CenterNetWithTTA) else self.model)

    def _load(self, image: Image) -> Tensor:
        """Return an image as (3, H, W) uint8 in the channel order of the model."""
        if isinstance(image, (str, Path)):
            bgr = read_image(image)
        elif isinstance(image, Pillow.Image):
            bgr = pillow_to_rgb(image)[..., ::-1]
        else:
            bgr = to_uint8_color(image)
        pixels = bgr if self.model.input_format == "BGR" else bgr[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def to_coco(self, instances: Instances, image_id: int) -> list[dict[str, Any]]:
        """Convert detections to COCO results with the category IDs of the dataset.

        See :func:`centernet_d2.evaluation.coco.to_coco`.
        """
        return to_coco(instances, image_id, self.network.properties, self.category_ids)

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes; None if unknown."""
        return self.metadata.get("thing_classes")

    @property
    def category_ids(self) -> list[int] | None:
        """Category ID of each class in the dataset; None if unknown."""
        ids = self.metadata.get("thing_dataset_id_to_contiguous_id")
        return sorted(ids, key=ids.get) if ids else None
