#!/usr/bin/env python
"""Detect objects with an exported model: python detect.py model.onnx photo.jpg [--threshold 0.3] [--json]

Requires numpy, Pillow, and onnxruntime (model.onnx) or openvino (model.xml). In Python::

    detections = Detector("model.onnx")("photo.jpg")
    print(detections.boxes, detections.scores, detections.class_names)
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMAT = 1


class Detections:
    """Detections in one image, by descending score.

    Attributes:
        outputs: arrays with one row per detection, by name; they are attributes, too: ``boxes`` (x1, y1, x2, y2 in
            pixels of the image), ``scores``, ``classes`` (from 0), and further outputs such as ``keypoints``.
        class_names: one name per detection.
    """

    def __init__(self, outputs, metadata):
        self.outputs, self.metadata = outputs, metadata
        self.__dict__.update(outputs)
        names = metadata["class_names"]
        self.class_names = [names[index] if names else str(index) for index in outputs["classes"]]

    def __len__(self):
        return len(self.outputs["scores"])

    def to_coco(self, image_id=0):
        """Return one dict per detection in COCO results format."""
        ids, keys, entries = self.metadata["category_ids"], self.metadata["json_keys"], []
        for row in range(len(self)):
            values = {name: x[row].ravel().tolist() if x.ndim > 1 else x[row].item() for name, x in self.outputs.items()}
            score, index = values.pop("scores"), values.pop("classes")
            entry = {"image_id": image_id, "category_id": ids[index] if ids else index, "score": score}
            if "boxes" in values:
                x1, y1, x2, y2 = values.pop("boxes")
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            entries.append({**entry, **{keys.get(name, name): value for name, value in values.items()}})
        return entries

    def to_supervision(self):
        """Return ``supervision.Detections``."""
        from supervision import Detections as Target

        names = {"class_name": np.array(self.class_names, dtype=str)}
        return Target(xyxy=self.boxes, confidence=self.scores, class_id=self.classes, data=names)


class Detector:
    """Model in a file.

    Args:
        path: ``model.onnx`` or ``model.xml``.
        options: arguments of ``onnxruntime.InferenceSession`` or ``openvino.Core.compile_model``.
    """

    def __init__(self, path, **options):
        if not Path(path).is_file():
            raise FileNotFoundError(f"the model {path} does not exist")
        try:
            self._run, text = (open_openvino if Path(path).suffix == ".xml" else open_onnx)(str(path), options)
            self.metadata = json.loads(text)
        except ImportError:
            raise
        except Exception as error:  # Runtimes raise exceptions of their own.
            raise ValueError(f"{path} is damaged, or not a file of centernet-export: {error}") from error
        if self.metadata["format"] != FORMAT:
            raise ValueError(f"{path} has format {self.metadata['format']}: use the detect.py that was exported with it")

    def __call__(self, images, threshold=None, **inputs):
        """Detect objects in an image, or in each image of a list.

        Args:
            images: a path; a Pillow image; an array of uint8, uint16 or float in 0..255, with shape (H, W) gray,
                (H, W, 3) BGR or (H, W, 4) BGRA, as read by OpenCV; or a list of these.
            threshold: minimum score; by default the threshold in the file.
            inputs: further inputs of the model, such as ``camera``.
        """
        if isinstance(images, (list, tuple)):
            return [self(image, threshold, **inputs) for image in images]
        if self.metadata["form"] != "image":
            raise ValueError("the model was exported with --form canvas: call run()")
        inputs = {**self.metadata["inputs"], **inputs}
        if missing := [name for name, value in inputs.items() if value is None]:
            raise ValueError(f"the model needs {', '.join(missing)}")
        if unknown := inputs.keys() - self.metadata["inputs"].keys():
            raise ValueError(f"the model has no input {', '.join(sorted(unknown))}")
        pixels = to_bgr(images)[..., :: 1 if self.metadata["color"] == "BGR" else -1]
        values = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
        outputs = self.run({"image": np.ascontiguousarray(pixels), **values})
        minimum = self.metadata["threshold"] if threshold is None else threshold
        kept = (outputs["scores"] >= minimum) & (outputs["scores"] > 0)
        return Detections({name: x[kept] for name, x in outputs.items()}, self.metadata)

    def run(self, inputs):
        """Return the outputs of the model by name, for inputs by name."""
        multiple, sides = self.metadata["canvas"]["multiple"], inputs.get("canvases", np.zeros(())).shape[2:]
        if any(side % multiple for side in sides):
            raise ValueError(f"the canvases are {sides[0]} x {sides[1]}, but must be multiples of {multiple}")
        return dict(zip(self.metadata["outputs"], self._run(inputs), strict=True))


def open_onnx(path, options):
    """Return a function from inputs to outputs, and the metadata."""
    import onnxruntime

    known = [x for x in ("CUDAExecutionProvider", "CPUExecutionProvider") if x in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(path, **{"providers": known, **options})
    return lambda inputs: session.run(None, inputs), session.get_modelmeta().custom_metadata_map["centernet_d2"]


def open_openvino(path, options):
    """Return a function from inputs to outputs, and the metadata."""
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.Core().compile_model(model, **{"device_name": "CPU", **options})
    return lambda inputs: [x.copy() for x in compiled(inputs).values()], model.get_rt_info("centernet_d2").astype(str)


def to_bgr(image):
    """Return an image as (H, W, 3) uint8 BGR."""
    if isinstance(image, (str, Path)):
        with Image.open(image) as file:
            return to_bgr(file)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        is_deep = image.mode.startswith(("I", "F"))
        image = np.asarray(image).astype(np.uint16) if is_deep else np.asarray(image.convert("RGB"))[..., ::-1]
    image = image / 257 if image.dtype == np.uint16 else image
    image = image if image.ndim == 3 else image[..., None]
    return np.broadcast_to(np.round(image[..., :3]).astype(np.uint8), (*image.shape[:2], 3))


def main():
    """Run the command line; return the exit code."""
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
        return
    for name, own in found.items():
        for label, score, box in zip(own.class_names, own.scores, own.boxes, strict=True):
            print(f"{name}: {label} {score:.2f} {box.round(1).tolist()}")


if __name__ == "__main__":
    main()
