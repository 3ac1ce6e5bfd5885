"""Detection for Python users: arrays, pictures or paths in, Instances or COCO results out."""

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
from .imaging.reading import as_color_bytes, pillow_to_rgb, read_image
from .layers.folding import fold_batch_norms
from .modeling import CenterNet, CenterNetWithTTA

__all__ = ["Predictor"]

Image = np.ndarray | Pillow.Image | str | Path


class Predictor:
    """A model with everything around it, for one image or many; called like Detectron2's DefaultPredictor.

    ::

        predictor = Predictor.from_zoo("dla34-coco")
        instances = predictor("street.jpg")["instances"]
        many = predictor(["street.jpg", cv2.imread("river.png")])
    """

    def __init__(
        self, model: CenterNet | CenterNetWithTTA, *, metadata: Metadata | None = None, batch_size: int = 4
    ) -> None:
        """
        Args:
            model: is put into evaluation mode.
            metadata: names of the classes and their ids, as in Detectron2's MetadataCatalog.
            batch_size: images that are in memory together; of these, images of one canvas size run together.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        self.model: CenterNet | CenterNetWithTTA = model.eval()
        self.metadata = metadata or Metadata()
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg: CfgNode, *, batch_size: int = 4) -> Predictor:
        """The model of a config with its MODEL.WEIGHTS; with TEST.AUG.ENABLED under test-time augmentation.

        Names and ids of the classes are those of the config's data sets; where these are not at hand, those that the
        weights' file has kept.

        Raises:
            FileNotFoundError: the weights file does not exist or cannot be fetched.
            ValueError: MODEL.WEIGHTS is empty or does not fit the model, MODEL.DEVICE is a GPU and there is none, or
                TEST.FOLD_NORMS asks for what the backbone does not allow.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("there are no weights to detect with: set MODEL.WEIGHTS")
        find_weights(cfg.MODEL.WEIGHTS)
        check_keys(cfg)
        check_device(cfg.MODEL.DEVICE)
        model = build_model(cfg).eval()
        kept = CenterNetCheckpointer(model).load(cfg.MODEL.WEIGHTS).get("metadata")
        if cfg.TEST.FOLD_NORMS:
            model.backbone = fold_batch_norms(model.backbone)
        metadata = dataset_metadata(cfg)
        if metadata.get("thing_classes") is None:
            metadata = from_plain(kept, model.num_classes)
        for prop in model.properties:
            prop.use_metadata(kept if isinstance(kept, dict) else {})
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
        """A config of the model zoo by name, with weights of ours or of the original's authors.

        Args:
            name: one of :func:`centernet_d2.model_zoo.available`, or the path of a file.
            weights: file to load, or a short name; by default those of the config, as short names have some.
            device: by default what the config says.
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
        """Detect in one image, or in each of a list.

        Args:
            images: a path, an image of Pillow's of any mode, or an array of uint8, uint16 or floats in 0..255:
                (H, W) grey, (H, W, 3) BGR, (H, W, 4) BGR with transparency, as OpenCV reads them. Or a list of these,
                of any sizes.
            inputs: what the properties of the model want to know of all these images beside their pixels
                (:attr:`CenterNet.input_keys`), by name.

        Returns:
            ``{"instances": Instances}``, on the CPU and in pixels of the image (turned upright by its EXIF data), for
            one image; a list of these for a list.

        Raises:
            OSError: a file cannot be read.
            TypeError: the model has no such input.
            ValueError: an array is no image, or an input not what it should be.
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
        """One batch, with further inputs of each image or none; see :meth:`CenterNet.inference` for what comes out."""
        inputs = inputs or [{}] * len(images)
        known = self.network.input_keys
        if unknown := sorted({key for own in inputs for key in own} - set(known)):
            what = f"inputs of images are {', '.join(known)}" if known else "no input but the images"
            raise TypeError(f"this model does not know {', '.join(unknown)}: {what}")
        batch = [{"image": self._load(image), **own} for image, own in zip(images, inputs, strict=True)]
        results = self.model.inference(batch, keep_heatmap=keep_heatmap)
        return [{**result, "instances": result["instances"].to("cpu")} for result in results]

    @property
    def network(self) -> CenterNet:
        """The model itself, without test-time augmentation."""
        # @configurable has no types, and takes them from isinstance too.
        return cast(CenterNet, self.model.model if isinstance(self.model, CenterNetWithTTA) else self.model)

    def _load(self, image: Image) -> Tensor:
        """(3, H, W) uint8 in the model's order of colours."""
        if isinstance(image, (str, Path)):
            bgr = read_image(image)
        elif isinstance(image, Pillow.Image):
            bgr = pillow_to_rgb(image)[..., ::-1]
        else:
            bgr = as_color_bytes(image)
        pixels = bgr if self.model.input_format == "BGR" else bgr[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def to_coco(self, instances: Instances, image_id: int) -> list[dict[str, Any]]:
        """:func:`centernet_d2.evaluation.coco.to_coco` with the category ids of the model's data set."""
        return to_coco(instances, image_id, self.network.properties, self.category_ids)

    @property
    def class_names(self) -> list[str] | None:
        return self.metadata.get("thing_classes")

    @property
    def category_ids(self) -> list[int] | None:
        """The data set's id of each class."""
        ids = self.metadata.get("thing_dataset_id_to_contiguous_id")
        return sorted(ids, key=ids.get) if ids else None
