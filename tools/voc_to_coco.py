#!/usr/bin/env python
"""Turn a folder in the Pascal VOC layout into COCO annotation files, one per image list.

    python tools/voc_to_coco.py VOC_FOLDER --output FOLDER [--splits train val test] [--classes a b c]

reads VOC_FOLDER/{Annotations/*.xml, ImageSets/Main/*.txt} and writes FOLDER/<split>.json. Images stay where they are.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from centernet_d2 import command_line


def read_annotation(path: Path) -> dict:
    """One XML file -> its image's file name and size, and its objects.

    VOC boxes are 1-based and inclusive; ours start at 0 and end where the last pixel ends, as Detectron2 reads VOC.

    Raises:
        ValueError: the file is damaged or an element is missing; the message names the file.
    """
    try:
        root = ET.parse(path).getroot()
        objects = []
        for element in root.iter("object"):
            x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                raise ValueError("a coordinate is no finite number")
            objects.append(
                {
                    "name": element.findtext("name").strip(),
                    "bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1],
                    "empty": x2 <= x1 or y2 <= y1,
                    "difficult": int(element.findtext("difficult", "0")),
                }
            )
        size = {name: int(root.findtext(f"size/{name}")) for name in ("height", "width")}
        return {"file_name": root.findtext("filename").strip(), **size, "objects": objects}
    except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a Pascal VOC annotation: {error}") from error


def find_classes(folder: Path) -> list[str]:
    """All class names of a folder, sorted."""
    files = sorted((folder / "Annotations").glob("*.xml"))
    return sorted({item["name"] for path in files for item in read_annotation(path)["objects"]})


def read_list(path: Path) -> list[str]:
    """Image names of a list; in lists per class, those that have the class (a second column that is not -1)."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [row[0] for row in rows if row[1:] != ["-1"]]


def convert(folder: Path, split: str, classes: list[str]) -> tuple[dict, Counter]:
    """One image list -> COCO content, and how many objects were left out, by reason.

    Raises:
        FileNotFoundError: the list or an annotation does not exist.
        ValueError: an annotation is damaged.
    """
    names = read_list(folder / "ImageSets" / "Main" / f"{split}.txt")
    images, annotations, left_out = [], [], Counter()
    for image_id, name in enumerate(tqdm(names, desc=split, leave=False), start=1):
        content = read_annotation(folder / "Annotations" / f"{name}.xml")
        objects = content.pop("objects")
        images.append({"id": image_id, **content})
        for item in objects:
            if item["empty"]:
                left_out["without area"] += 1
            elif item["name"] not in classes:
                left_out[f"of class {item['name']}"] += 1
            else:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": classes.index(item["name"]) + 1,
                        "bbox": item["bbox"],
                        "area": item["bbox"][2] * item["bbox"][3],
                        "iscrowd": 0,
                        "difficult": item["difficult"],
                    }
                )
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, left_out


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the VOC folder")
    parser.add_argument("--output", type=Path, required=True, help="where the .json files go")
    parser.add_argument("--splits", nargs="+", help="image lists (default: all in ImageSets/Main)")
    parser.add_argument("--classes", nargs="+", help="class names in order (default: all found, sorted)")
    return command_line.run(parser, convert_folder, argv)


def convert_folder(args: argparse.Namespace) -> None:
    """Convert the image lists that a command line names."""
    lists = args.folder / "ImageSets" / "Main"
    # Lists per class, such as cat_train.txt, are only converted on request.
    splits = args.splits or sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)
    if not splits:
        raise FileNotFoundError(f"there are no image lists in {lists}")
    classes = args.classes or find_classes(args.folder)
    args.output.mkdir(parents=True, exist_ok=True)
    for split in splits:
        target = args.output / f"{split}.json"
        if target.exists():
            raise FileExistsError(f"{target} exists already; nothing is overwritten")
        content, left_out = convert(args.folder, split, classes)
        target.write_text(json.dumps(content))
        reasons = "".join(f", {count} {reason} left out" for reason, count in left_out.items())
        print(f"{target}: {len(content['images'])} images, {len(content['annotations'])} objects{reasons}")


if __name__ == "__main__":
    sys.exit(main())
