"""Predictor that detects objects in arrays, Pillow images or image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model
from PIL import Image as Pillow
from torch import Tensor, nn

from .checkpoint import CenterNetCheckpointer, find_weights, load_source
from .config.keys import check_keys
from .config.loading import check_device, override
from .data.catalog import dataset_metadata, from_plain, suggested_threshold
from .evaluation.coco import to_coco
from .imaging.reading import pillow_to_rgb, read_image, to_uint8_color
from .imaging.visualization import draw_heatmap, draw_instances
from .layers.folding import fold_batch_norms
from .modeling import CenterNet, CenterNetWithTTA

__all__ = ["Predictor", "Result", "VideoSession"]

Image = np.ndarray | Pillow.Image | str | Path

# Score threshold of models whose checkpoint does not suggest one.
THRESHOLD = 0.3


class Predictor:
    """Model with preprocessing, for single images and lists of images.

    It is called like DefaultPredictor of Detectron2. Example::

        predictor = Predictor("output/cells")
        result = predictor("photo.jpg")
        result.save("result.jpg")

    Attributes:
        model: model in evaluation mode, possibly with test-time augmentation.
        cfg: config of the model; None if the source is a model.
        metadata: class names and category IDs, as in Detectron2's MetadataCatalog.
        threshold: default score threshold.
        batch_size: maximum number of images in memory.
    """

    def __init__(
        self,
        source: str | Path | CfgNode | CenterNet | CenterNetWithTTA,
        *,
        device: str | None = None,
        overrides: Sequence[object] = (),
        batch_size: int = 4,
        metadata: Metadata | None = None,
    ) -> None:
        """
        Args:
            source: the folder of a run; a checkpoint; a config file or its name, with MODEL.WEIGHTS; the name of
                released weights; a config; or a model.
            device: device of the model; by default the device of the config (the GPU, if available) or of the model.
            overrides: alternating config keys and values; not for a model.
            batch_size: number of images in memory; images with the same canvas size are processed as one batch.
            metadata: class names and category IDs; by default from the source.

        Raises:
            FileNotFoundError: the source does not exist or cannot be downloaded.
            ValueError: the source has no weights or no config, weights and config do not match, an override is invalid,
                the device is a GPU that is not available, or the backbone does not support TEST.FOLD_NORMS.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        own: Metadata = Metadata()
        saved: object = None
        self.cfg: CfgNode | None = None
        model: nn.Module
        if isinstance(source, nn.Module):
            if overrides:
                raise ValueError("overrides change a config, but the source is a model")
            model = source if device is None else source.to(device)
        else:
            cfg = load_source(source) if isinstance(source, (str, Path)) else source.clone()
            override(cfg, [*overrides, *(("MODEL.DEVICE", device) if device else ())])
            model, own, saved = _build(cfg, batch_size)
            self.cfg = cfg
        self.model = cast("CenterNet | CenterNetWithTTA", model.eval())
        self.metadata = metadata or own
        self.threshold = suggested_threshold(saved, THRESHOLD)
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg: CfgNode, *, batch_size: int = 4) -> Predictor:
        """Build a predictor from a config with MODEL.WEIGHTS.

        With TEST.AUG.ENABLED, the model uses test-time augmentation. Class names and category IDs come from the
        datasets of the config or, if these are not available, from the metadata of the weights file.
        """
        return cls(cfg, batch_size=batch_size)

    def __call__(
        self, images: Image | list[Image] | tuple[Image, ...], *, threshold: float | None = None, **inputs: Any
    ) -> Result | list[Result]:
        """Detect objects in one image, or in each image of a list.

        Args:
            images: a path; a Pillow image of any mode; an array of uint8, uint16 or float in 0..255 with shape (H, W)
                gray, (H, W, 3) BGR or (H, W, 4) BGRA, as read by OpenCV; or a list of these, of any sizes.
            threshold: minimum score, 0 to 1; by default :attr:`threshold`.
            inputs: additional inputs of all images, by the keys in :attr:`CenterNet.input_keys`.

        Returns:
            One :class:`Result`; for a list of images, a list of results.

        Raises:
            OSError: a file cannot be read.
            TypeError: the model does not have one of the inputs.
            ValueError: an array is not an image, or the threshold or an input is invalid.
        """
        threshold = self.threshold if threshold is None else threshold
        if not isinstance(images, (list, tuple)):
            return self.detect([images], [inputs], threshold=threshold)[0]
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        batches = (self.detect(part, [inputs] * len(part), threshold=threshold) for part in parts)
        return [result for batch in batches for result in batch]

    @torch.no_grad()
    def detect(
        self,
        images: Sequence[Image],
        inputs: Sequence[Mapping[str, Any]] | None = None,
        *,
        threshold: float = 0.0,
        keep_heatmap: bool = False,
    ) -> list[Result]:
        """Detect objects in one batch of images.

        Args:
            images: see :meth:`__call__`.
            inputs: additional inputs of each image.
            threshold: minimum score, 0 to 1.
            keep_heatmap: see :meth:`CenterNet.inference`; :meth:`Result.draw` overlays the heatmap.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}, but must be from 0 to 1")
        inputs = inputs or [{}] * len(images)
        known = self.network.input_keys
        if unknown := sorted({key for own in inputs for key in own} - set(known)):
            expected = f"inputs of this model: {', '.join(known)}" if known else "this model has no additional inputs"
            raise TypeError(f"unknown inputs {', '.join(unknown)}; {expected}")
        batch = [{"image": self._load(image), **own} for image, own in zip(images, inputs, strict=True)]
        outputs = self.model.inference(batch, keep_heatmap=keep_heatmap)
        results = []
        for image, own, output in zip(images, inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            kept = instances[instances.scores >= threshold] if threshold else instances
            results.append(Result({**output, "instances": kept}, self, image, own))
        return results

    def video(self) -> VideoSession:
        """Return a session that is called with the frames of one video, in order."""
        return VideoSession(self)

    def export(self, folder: str | Path, *, images: Sequence[str | Path] = (), **options: Any) -> dict[str, Any]:
        """Export the model to an ONNX or OpenVINO file.

        The folder also contains ``detect.py``, which runs the file without torch.

        Args:
            folder: output folder, created if needed.
            images: images for verification and calibration; by default images of the datasets of the config.
            options: `file_format`, `form`, `precision` and others, see :func:`centernet_d2.export.export_model`.

        Returns:
            The report, which is also saved as ``export.json``.
        """
        from .export import export_model  # Requires additional packages.

        records = [{"file_name": str(path)} for path in images]
        known = {"cfg": self.cfg, "metadata": self.metadata, "threshold": self.threshold}
        return export_model(self.model, folder, images=records, **known, **options)

    @property
    def network(self) -> CenterNet:
        """Model without test-time augmentation."""
        # @configurable is untyped, and removes the type narrowing of isinstance.
        return cast(CenterNet, self.model.model if isinstance(self.model, CenterNetWithTTA) else self.model)

    def _load(self, image: Image) -> Tensor:
        """Return an image as (3, H, W) uint8 in the channel order of the model."""
        pixels = _read_bgr(image)
        if self.model.input_format == "RGB":
            pixels = pixels[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes; None if unknown."""
        return self.metadata.get("thing_classes")

    @property
    def category_ids(self) -> list[int] | None:
        """Category ID of each class in the dataset; None if unknown."""
        ids = self.metadata.get("thing_dataset_id_to_contiguous_id")
        return sorted(ids, key=ids.get) if ids else None


class VideoSession:
    """State of one video, see :meth:`Property.start_video`.

    Example::

        video = predictor.video()
        results = [video(frame) for frame in frames]
    """

    def __init__(self, predictor: Predictor) -> None:
        """
        Args:
            predictor: predictor that detects the objects in each frame.
        """
        self._predictor = predictor
        started = [prop.start_video() for prop in predictor.network.properties]
        self._steps = [step for step in started if step is not None]

    def __call__(self, frame: Image, *, threshold: float | None = None, **inputs: Any) -> Result:
        """Detect objects in the next frame, see :meth:`Predictor.__call__`."""
        threshold = self._predictor.threshold if threshold is None else threshold
        return self.update(self._predictor.detect([frame], [inputs], threshold=threshold))[0]

    def update(self, results: Sequence[Result]) -> Sequence[Result]:
        """Add the fields of a video to the results of the next frames, in order."""
        for result in results:
            for step in self._steps:
                result["instances"] = step(result["instances"])
        return results


class Result(dict[str, Any]):
    """Detections in one image, a dict as returned by Detectron2's predictor.

    ``instances`` (:class:`detectron2.structures.Instances` on the CPU) are in pixels of the image after its EXIF
    orientation is applied, by descending score. With `keep_heatmap`, the dict also contains ``heatmap`` and
    ``geometry``, see :meth:`CenterNet.inference`.
    """

    def __init__(
        self, output: Mapping[str, Any], predictor: Predictor, image: Image, inputs: Mapping[str, Any]
    ) -> None:
        """
        Args:
            output: output of the model.
            predictor: predictor that detected the objects.
            image: the image, as passed to the predictor; it is read again for drawing.
            inputs: additional inputs of the image.
        """
        super().__init__(output)
        self._predictor = predictor
        self._image = image
        self._inputs = inputs

    @property
    def class_names(self) -> list[str]:
        """Class name of each detection; the class index if names are unknown."""
        names, classes = self._predictor.class_names, self["instances"].pred_classes.tolist()
        return [names[index] if names else str(index) for index in classes]

    def draw(self, *, threshold: float = 0.0) -> Pillow.Image:
        """Draw the detections on a copy of the image.

        Args:
            threshold: detections with a lower score are not drawn.

        Returns:
            An RGB image; it is wider than the original if properties draw panels next to it.
        """
        rgb = np.ascontiguousarray(_read_bgr(self._image)[..., ::-1])
        if "heatmap" in self:
            rgb = draw_heatmap(rgb, self["heatmap"], self["geometry"].to_image)
        instances = self["instances"]
        properties, names = self._predictor.network.properties, self._predictor.class_names
        shown = instances[instances.scores >= threshold]
        return Pillow.fromarray(draw_instances(rgb, shown, names, 0.0, properties, self._inputs))

    def save(self, path: str | Path, *, threshold: float = 0.0) -> None:
        """Save the output of :meth:`draw`; the suffix of the file selects its format.

        Raises:
            OSError, ValueError: the file cannot be written, or the format is unknown.
        """
        self.draw(threshold=threshold).save(path)

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Convert the detections to COCO results with the category IDs of the dataset.

        See :func:`centernet_d2.evaluation.coco.to_coco`.
        """
        predictor = self._predictor
        return to_coco(self["instances"], image_id, predictor.network.properties, predictor.category_ids)


def _build(cfg: CfgNode, batch_size: int) -> tuple[nn.Module, Metadata, object]:
    """Build the model of a config with its weights.

    Returns:
        The model, its class names and category IDs, and the metadata of the weights file.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty, but detection requires weights: set MODEL.WEIGHTS")
    find_weights(cfg.MODEL.WEIGHTS)
    check_keys(cfg)
    check_device(cfg.MODEL.DEVICE)
    cfg.defrost()
    if cfg.TEST.PRECISION == "auto":
        cfg.TEST.PRECISION = fast_precision(cfg.MODEL.DEVICE)
    model = build_model(cfg).eval()
    saved = CenterNetCheckpointer(model).load(cfg.MODEL.WEIGHTS).get("metadata")
    if cfg.TEST.FOLD_NORMS:
        with suppress(ValueError) if cfg.TEST.FOLD_NORMS == "auto" else nullcontext():
            model.backbone = fold_batch_norms(model.backbone)
    metadata = dataset_metadata(cfg)
    if metadata.get("thing_classes") is None:
        metadata = from_plain(saved, model.num_classes)
    for prop in model.properties:
        prop.use_metadata(saved if isinstance(saved, dict) else {})
    if cfg.TEST.AUG.ENABLED:
        model = CenterNetWithTTA(cfg, model, batch_size=batch_size)
    return model, metadata, saved


def fast_precision(device: str) -> str:
    """Return the fastest safe precision of inference on a device.

    It is bfloat16 on a CPU with instructions for it, and float32 otherwise: on a GPU, half precision is slower for
    single images of most networks (docs/benchmarks.md).
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # Another operating system.
        flags = []
    fast = torch.device(device).type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)
    return "bfloat16" if fast else "float32"


def _read_bgr(image: Image) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR."""
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Pillow.Image):
        return pillow_to_rgb(image)[..., ::-1]
    return to_uint8_color(image)
