#!/usr/bin/env python
"""Detect objects with an exported model.

    python detect.py model.onnx photo.jpg [MORE ...] [--threshold 0.3] [--json]

Requires numpy, Pillow, and onnxruntime (model.onnx) or openvino (model.xml). In Python::

    detections = Detector("model.onnx")("photo.jpg")
    print(detections.boxes, detections.scores, detections.class_names)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMAT = 1


class Detections:
    """Detections in one image, by descending score.

    Attributes:
        boxes: (N, 4) float, x1, y1, x2, y2 in pixels of the image.
        scores, classes: (N,) scores, and indices of the classes from 0.
        class_names: name of the class of each detection.
        outputs: all arrays by name; further outputs of the model, such as ``keypoints``, are attributes, too.
    """

    def __init__(self, outputs: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        self.outputs = outputs
        self.metadata = metadata
        names = metadata["class_names"]
        self.class_names = [names[one] if names else str(one) for one in outputs["classes"]]

    def __getattr__(self, name: str) -> np.ndarray:
        if name != "outputs" and name in self.outputs:
            return self.outputs[name]
        raise AttributeError(f"detections have no {name!r}")

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int | str = 1) -> list[dict[str, Any]]:
        """Return one dict per detection in COCO results format."""
        ids, keys = self.metadata["category_ids"], self.metadata["json_keys"]
        entries: list[dict[str, Any]] = []
        for row in range(len(self)):
            values = {name: x[row].ravel().tolist() if x.ndim > 1 else x[row].item() for name, x in self.outputs.items()}
            score, index = values.pop("score" + "s"), values.pop("classes")
            entry = {"image_id": image_id, "category_id": ids[index] if ids else index, "score": score}
            if box := values.pop("boxes", None):
                entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entries.append({**entry, **{keys.get(name, name): value for name, value in values.items()}})
        return entries

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``."""
        import supervision

        data = {"class_name": np.array(self.class_names, dtype=str)}
        return supervision.Detections(xyxy=self.boxes, confidence=self.scores, class_id=self.classes, data=data)


class Detector:
    """Model in a file, called with images.

    Args:
        path: ``model.onnx`` or ``model.xml``.
        options: arguments of ``onnxruntime.InferenceSession`` or of ``openvino.Core.compile_model``.

    Raises:
        ValueError: the file is damaged or was not written by centernet-export.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"the model {path} does not exist")
        try:
            self._run, text = (open_openvino if Path(path).suffix == ".xml" else open_onnx)(str(path), options)
        except ImportError as error:
            raise ImportError(f"{path} requires the package {error.name}: pip install {error.name}") from error
        except Exception as error:  # Runtimes raise exceptions of their own.
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{path} is damaged or is not an exported model; export it again ({reason})") from error
        self.metadata = json.loads(text) if text else {}
        if self.metadata.get("format") != FORMAT:
            raise ValueError(f"{path} has no metadata of format {FORMAT}: use the detect.py next to the model")

    def __call__(self, images: Any, threshold: float | None = None, **inputs: Any) -> Any:
        """Detect objects in an image, or in each image of a list.

        Args:
            images: a path; a Pillow image; an array of uint8, uint16 or float in 0..255, with shape (H, W) gray,
                (H, W, 3) BGR or (H, W, 4) BGRA as read by OpenCV; or a list of these.
            threshold: detections have a higher score (default: the threshold in the file).
            inputs: further inputs of the model, such as ``camera``.

        Returns:
            :class:`Detections`, or a list of them.
        """
        if isinstance(images, (list, tuple)):
            return [self(image, threshold, **inputs) for image in images]
        if self.metadata["form"] != "image":
            raise ValueError("this model was exported with --form canvas: call run(), or export it with --form image")
        defaults = self.metadata["inputs"]
        if wrong := inputs.keys() - defaults.keys() or [k for k, x in {**defaults, **inputs}.items() if x is None]:
            raise ValueError(f"unknown or missing inputs {', '.join(wrong)}; inputs: {', '.join(defaults) or 'none'}")
        pixels = load_rgb(images)[..., :: -1 if self.metadata["color"] == "BGR" else 1]
        feeds = {name: np.asarray(value, dtype=np.float64) for name, value in {**defaults, **inputs}.items()}
        outputs = self.run({"image": np.ascontiguousarray(pixels), **feeds})
        kept = outputs["scores"] > max(0, self.metadata["threshold"] if threshold is None else threshold)
        return Detections({name: output[kept] for name, output in outputs.items()}, self.metadata)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model on its inputs by name; return its outputs by name."""
        multiple, size = self.metadata["canvas"]["multiple"], feeds["canvases"].shape[-2:] if "canvases" in feeds else ()
        if any(side % multiple for side in size):
            raise ValueError(f"canvases are {size[0]} x {size[1]}, but their sides must be multiples of {multiple}")
        return dict(zip(self.metadata["outputs"], self._run(feeds), strict=True))


def open_onnx(path: str, options: dict[str, Any]) -> tuple[Any, str | None]:
    """Return a function from inputs to outputs, and the metadata, of an ONNX file."""
    import onnxruntime

    known = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in known if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(path, **{"providers": providers, **options})
    return lambda feeds: session.run(None, feeds), session.get_modelmeta().custom_metadata_map.get("centernet_d2")


def open_openvino(path: str, options: dict[str, Any]) -> tuple[Any, str | None]:
    """Return a function from inputs to outputs, and the metadata, of an OpenVINO file."""
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.Core().compile_model(model, **{"device_name": "CPU", **options})
    text = model.get_rt_info("centernet_d2").astype(str) if model.has_rt_info("centernet_d2") else None
    return lambda feeds: [compiled(feeds)[index] for index in range(len(compiled.outputs))], text


def load_rgb(image: Any) -> np.ndarray:
    """Return a path, Pillow image or array as (H, W, 3) uint8 RGB."""
    if isinstance(image, (str, Path)):
        with Image.open(image) as file:
            return load_rgb(file)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        deep = image.mode.startswith(("I", "F"))
        image = np.asarray(image if deep else image.convert("RGB"))[..., None if deep else slice(None, None, -1)]
        image = image.astype(np.uint16) if deep else image
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == np.uint16:
        image = np.round(image / 257)
    return np.broadcast_to(np.round(image[..., 2::-1]).astype(np.uint8), (*image.shape[:2], 3))


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--json", action="store_true", help="print COCO results instead of a table")
    args = parser.parse_args()
    try:
        detector = Detector(args.model)
        found = {name: detector(name, args.threshold) for name in args.images}
    except (OSError, ValueError, ImportError) as error:
        print(f"detect.py: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps([{**x, "file_name": name} for name, own in found.items() for x in own.to_coco(name)], indent=1))
    for name, own in () if args.json else found.items():
        for label, score, box in zip(own.class_names, own.scores, own.boxes, strict=True):
            print(f"{name}: {label} {score:.2f} at {box.round(1).tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
