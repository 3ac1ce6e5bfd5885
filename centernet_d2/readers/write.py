"""Writer of annotation files for dataset registration; images are not copied."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .coco import CONTRIBUTOR
from .kitti import LAYOUT as KITTI
from .records import DiscoveredDataset, LabeledImage, Split
from .tree import relative_name

__all__ = ["coco_content", "write_coco"]


def write_coco(dataset: DiscoveredDataset, folder: str | Path) -> dict[str, Path]:
    """Write one file per split: a COCO file, or a list of frames for KITTI.

    The files are suitable for DATASETS.REGISTER and DATASETS.REGISTER_KITTI. Image names are relative to
    ``dataset.splits[name].root``, or absolute for images outside of it. The output is deterministic. Existing files
    are never overwritten; an existing file with the same content is kept.

    Args:
        dataset: dataset to write.
        folder: output folder, created if needed.

    Returns:
        Split -> file.

    Raises:
        FileExistsError: a file exists with other content.
    """
    folder = Path(folder)
    texts = {}
    for name, split in dataset.splits.items():
        if dataset.layout == KITTI:
            texts[folder / f"{name}.txt"] = "".join(f"{image.path.stem}\n" for image in split.images)
        else:
            texts[folder / f"{name}.json"] = json.dumps(coco_content(dataset, split), allow_nan=False)
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode(errors="surrogateescape"):
            raise FileExistsError(
                f"{path} exists with other content and is not overwritten; remove it or choose another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        if not path.exists():
            _write(path, text)
    return dict(zip(dataset.splits, texts, strict=True))


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(text.encode(errors="surrogateescape"))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def coco_content(dataset: DiscoveredDataset, split: Split) -> dict:
    """Convert a split to the content of a COCO file.

    Ids of images and categories are kept if the dataset defines unique ids.
    """
    ids = [image.image_id for image in split.images]
    if None in ids or len(set(ids)) != len(ids):
        ids = list(range(1, len(ids) + 1))
    category = dict(zip(dataset.class_names, dataset.class_ids, strict=True))
    images: list[dict] = []
    annotations: list[dict] = []
    for number, image in zip(ids, split.images, strict=True):
        name = relative_name(image.path, split.root)
        images.append({**image.extra, "id": number, "file_name": name, "width": image.width, "height": image.height})
        for annotation in _annotations(image, category):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    info = {"contributor": CONTRIBUTOR, "description": f"{dataset.layout} in {dataset.path}; {dataset.split_rule}"}
    return {"info": info, "images": images, "annotations": annotations, "categories": _categories(dataset)}


def _annotations(image: LabeledImage, category: dict[str, int]) -> list[dict]:
    annotations: list[dict] = []
    for obj in image.objects:
        x1, y1, x2, y2 = obj.box
        box = [x1, y1, x2 - x1, y2 - y1]
        area = obj.area if obj.area is not None else box[2] * box[3]
        item: dict = {**obj.extra, "category_id": category[obj.label], "bbox": box, "area": area}
        item["iscrowd"] = int(obj.crowd)
        if obj.difficult:
            item["difficult"] = 1
        if obj.keypoints is not None:
            item["keypoints"] = list(obj.keypoints)
            item["num_keypoints"] = sum(visible > 0 for visible in obj.keypoints[2::3])
        annotations.append(item)
    return annotations


def _categories(dataset: DiscoveredDataset) -> list[dict]:
    categories = [{"id": i, "name": name} for i, name in zip(dataset.class_ids, dataset.class_names, strict=True)]
    if dataset.keypoints:
        names = list(dataset.keypoints.names)
        lines = [[names.index(a) + 1, names.index(b) + 1] for a, b in dataset.keypoints.skeleton]
        categories = [{**item, "keypoints": names, "skeleton": lines} for item in categories]
    return categories
