"""Writes what was found as files that data sets are registered from; images stay where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .coco import MADE_BY
from .kitti import LAYOUT as KITTI
from .records import FoundData, LabeledImage, Split
from .tree import relative_name

__all__ = ["coco_content", "write_coco"]


def write_coco(found: FoundData, folder: str | Path) -> dict[str, Path]:
    """Write one file per split: COCO's JSON, or for KITTI a list of its frames, as DATASETS.REGISTER_KITTI takes them.

    Image names are relative to ``found.splits[name].root``, or absolute if they are elsewhere. The same data give the
    same bytes. A file that is there with this content stays; nothing else is overwritten.

    Args:
        found: the data.
        folder: where to; made if needed.

    Returns:
        Split -> file.

    Raises:
        FileExistsError: a file of this name is there with another content.
    """
    folder = Path(folder)
    texts = {}
    for name, split in found.splits.items():
        if found.layout == KITTI:
            texts[folder / f"{name}.txt"] = "".join(f"{image.path.stem}\n" for image in split.images)
        else:
            texts[folder / f"{name}.json"] = json.dumps(coco_content(found, split))
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise FileExistsError(
                f"{path} holds other data; nothing is overwritten: remove it or choose another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        if not path.exists():
            _write(path, text)
    return dict(zip(found.splits, texts, strict=True))


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(text.encode())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def coco_content(found: FoundData, split: Split) -> dict:
    """A split as the content of a COCO file. Ids of images and categories are those of the data if they have some."""
    ids = [image.image_id for image in split.images]
    if None in ids or len(set(ids)) != len(ids):
        ids = list(range(1, len(ids) + 1))
    category = dict(zip(found.class_names, found.class_ids, strict=True))
    images: list[dict] = []
    annotations: list[dict] = []
    for number, image in zip(ids, split.images, strict=True):
        name = relative_name(image.path, split.root)
        images.append({**image.own, "id": number, "file_name": name, "width": image.width, "height": image.height})
        for thing in _annotations(image, category):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **thing})
    info = {"contributor": MADE_BY, "description": f"{found.layout} in {found.path}; {found.split_rule}"}
    return {"info": info, "images": images, "annotations": annotations, "categories": _categories(found)}


def _annotations(image: LabeledImage, category: dict[str, int]) -> list[dict]:
    annotations: list[dict] = []
    for thing in image.objects:
        x1, y1, x2, y2 = thing.box
        box = [x1, y1, x2 - x1, y2 - y1]
        area = thing.area if thing.area is not None else box[2] * box[3]
        item: dict = {**thing.own, "category_id": category[thing.label], "bbox": box, "area": area}
        item["iscrowd"] = int(thing.crowd)
        if thing.difficult:
            item["difficult"] = 1
        if thing.keypoints is not None:
            item["keypoints"] = list(thing.keypoints)
            item["num_keypoints"] = sum(visible > 0 for visible in thing.keypoints[2::3])
        annotations.append(item)
    return annotations


def _categories(found: FoundData) -> list[dict]:
    categories = [{"id": i, "name": name} for i, name in zip(found.class_ids, found.class_names, strict=True)]
    if found.keypoints:
        names = list(found.keypoints.names)
        lines = [[names.index(a) + 1, names.index(b) + 1] for a, b in found.keypoints.skeleton]
        categories = [{**item, "keypoints": names, "skeleton": lines} for item in categories]
    return categories
