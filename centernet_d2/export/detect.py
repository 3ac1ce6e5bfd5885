"""Detector in one file: python detect.py model.onnx photo.jpg [--json]

Requires numpy, Pillow, and onnxruntime (model.onnx) or openvino (model.xml). In Python:
detections = Detector("model.onnx")("photo.jpg"); print(detections.boxes, detections.scores, detections.class_names)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMAT = 1
Arrays = dict[str, np.ndarray]


class Detections:
    """Detections in one image, by descending score; all outputs are attributes."""

    boxes: np.ndarray  # (N, 4): x1, y1, x2, y2 in pixels of the image
    scores: np.ndarray  # (N,)
    classes: np.ndarray  # (N,), from 0

    def __init__(self, outputs: Arrays, metadata: dict[str, Any]) -> None:
        self.outputs, self.metadata = outputs, metadata
        self.__dict__.update(outputs)
        names = metadata["class_names"]
        self.class_names = [names[index] if names else str(index) for index in outputs["classes"]]

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return one dict per detection in COCO results format."""
        ids, keys, entries = self.metadata["category_ids"], self.metadata["json_keys"], []
        for row, index in enumerate(self.classes.tolist()):
            rest = {name: x[row].ravel().tolist() if x.ndim > 1 else x[row].item() for name, x in self.outputs.items()}
            entry = {"image_id": image_id, "category_id": ids[index] if ids else index, "score": rest.pop("scores")}
            if box := rest.pop("boxes", None):
                entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entries.append(entry | {keys.get(name, name): x for name, x in rest.items() if name != "classes"})
        return entries

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``."""
        from supervision import Detections as Target

        data = {"class_name": np.array(self.class_names, dtype=str)}
        return Target(xyxy=self.boxes, confidence=self.scores, class_id=self.classes, data=data)


class Detector:
    """Model in a file; `options` are for InferenceSession or compile_model."""

    def __init__(self, path: str | Path, **options: Any) -> None:
        Path(path).open().close()  # Raises FileNotFoundError.
        try:
            self._run, text = open_model(str(path), options)
            self.metadata = json.loads(text)
        except ImportError:
            raise
        except Exception as error:  # Runtimes raise exceptions of their own.
            raise ValueError(f"{path} is damaged, or not a file of centernet-export: {error}") from error
        if self.metadata["format"] != FORMAT:
            raise ValueError(f"{path} has format {self.metadata['format']}: use the detect.py of its export")

    def __call__(self, images: Any, threshold: float | None = None, **inputs: Any) -> Any:
        """Return the detections in an image, or in each image of a list.

        An image is a path, a Pillow image or an array of uint8, uint16 or float in 0..255, with shape (H, W) gray,
        (H, W, 3) BGR or (H, W, 4) BGRA. The default threshold is in the file. Models for 3-D boxes have a ``camera``.
        """
        if isinstance(images, (list, tuple)):
            return [self(image, threshold, **inputs) for image in images]
        if self.metadata["form"] != "image":
            raise ValueError("the model was exported with --form canvas: call run()")
        known = self.metadata["inputs"]
        given = {**known, **inputs}
        if wrong := [name for name, value in given.items() if name not in known or value is None]:
            raise ValueError(f"unknown or missing inputs: {', '.join(wrong)} (inputs: {', '.join(known) or 'none'})")
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
        image = to_bgr(images)[..., :: 1 if self.metadata["color"] == "BGR" else -1]
        outputs = self.run({"image": np.ascontiguousarray(image), **arrays})
        minimum = self.metadata["threshold"] if threshold is None else threshold
        kept = (outputs["scores"] >= minimum) & (outputs["scores"] > 0)
        return Detections({name: x[kept] for name, x in outputs.items()}, self.metadata)

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs of the model by name, for inputs by name."""
        multiple, sides = self.metadata["canvas"]["multiple"], inputs.get("canvases", np.zeros(())).shape[2:]
        if any(side % multiple for side in sides):
            raise ValueError(f"the canvases are {sides[0]} x {sides[1]}, but must be multiples of {multiple}")
        return dict(zip(self.metadata["outputs"], self._run(inputs), strict=True))


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Arrays], list[np.ndarray]], str]:
    """Return a function from inputs to outputs, and the metadata of a file."""
    if not path.endswith(".xml"):
        import onnxruntime as ort

        known = [x for x in ("CUDAExecutionProvider", "CPUExecutionProvider") if x in ort.get_available_providers()]
        session = ort.InferenceSession(path, **{"providers": known, **options})
        return partial(session.run, None), session.get_modelmeta().custom_metadata_map["centernet_d2"]
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.Core().compile_model(model, **{"device_name": "CPU", **options})
    return lambda inputs: [x.copy() for x in compiled(inputs).values()], model.get_rt_info("centernet_d2").astype(str)


def to_bgr(image: Any) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR."""
    if isinstance(image, (str, Path)):
        image = Image.open(image)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        is_deep = image.mode.startswith(("I", "F"))
        image = np.asarray(image).astype(np.uint16) if is_deep else np.asarray(image.convert("RGB"))[..., ::-1]
    image = np.round(image / 257 if image.dtype == np.uint16 else image).reshape(*image.shape[:2], -1)
    return np.broadcast_to(image[..., :3].astype(np.uint8), (*image.shape[:2], 3))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--json", action="store_true", help="print COCO results")
    args = parser.parse_args()
    try:
        found = dict(zip(args.images, Detector(args.model)(args.images, args.threshold), strict=True))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"detect.py: {error}")
    if args.json:
        print(json.dumps([entry for name, own in found.items() for entry in own.to_coco(name)], indent=1))
    for name, own in () if args.json else found.items():
        for label, score, box in zip(own.class_names, own.scores, own.boxes, strict=True):
            print(f"{name}: {label} {score:.2f} {[round(x, 1) for x in box.tolist()]}")


if __name__ == "__main__":
    main()
