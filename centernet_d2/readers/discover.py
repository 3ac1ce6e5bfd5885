"""Layout detection, and discovery of the splits and classes of a dataset."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ..utils.memory import paused_collection
from . import coco, kitti, labelme, voc, yolo
from . import csv as table
from .records import DiscoveredDataset, LabeledImage, LabeledObject, ParsedDataset, Report, Split, tolerance, unique
from .sizes import fit_to_image
from .splits import assign_splits, check_overlap
from .tree import Tree, read_text
from .unsupported import Format, recognize

__all__ = ["discover_dataset", "discover_voc_lists"]

# Coordinates may be rounded up to the next pixel; boxes are clipped only if they exceed the image by more, in pixels.
_TOLERANCE = 1.0


@paused_collection()
def discover_dataset(
    path: str | Path,
    val: str | Path | None = None,
    *,
    seed: int = 0,
    val_share: float = 0.2,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
) -> DiscoveredDataset:
    """Read a dataset in any supported layout.

    Args:
        path: a folder; or a COCO .json, a YOLO data.yaml or a .csv next to its images.
        val: another folder or file for validation, which replaces the validation split of `path`.
        seed, val_share: seed and fraction of the random validation split, used if the dataset defines no split.
        layout: a key of LAYOUTS, for folders with several layouts; default: detect the layout.
        classes: names of the classes to keep, in this order; default: all.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: the layout is unknown, or several layouts contradict each other; a split is empty or shares images
            with train; a class of `classes` does not exist; or a file is damaged.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"the fraction of validation images is {val_share}, but must be between 0 and 1")
    report = Report()
    parsed = read_layout(path, layout, report)
    roots = {"train": parsed.root, "val": parsed.root, "test": parsed.root}
    if val is None:
        assigned, rule = assign_splits(parsed.groups, parsed.root, share=val_share, seed=seed, report=report)
    else:
        other = read_layout(val, layout, report)
        assigned, rule = _pick_two(parsed, other, report)
        roots["val"] = other.root
        parsed = _with_classes_of(parsed, other)
    if classes is not None:
        parsed, assigned = _choose_classes(parsed, assigned, classes, report)
    _check_objects(assigned, roots, report)
    for name in sorted(assigned.keys() - {"train"}):
        check_overlap(assigned["train"], assigned[name], name, report)
    count_classes(assigned, parsed.classes, report)
    splits = {}
    for name, images in assigned.items():
        source = other if val is not None and name == "val" else parsed
        listed = source.lists.get(name, "") if images is source.groups.get(name) else ""
        splits[name] = Split(name, tuple(images), roots[name], listed)
    names, ids = tuple(parsed.classes), tuple(parsed.class_ids)
    return DiscoveredDataset(parsed.layout, Path(path), splits, names, ids, parsed.keypoints, rule, report)


def discover_voc_lists(
    path: str | Path, lists: Sequence[str] | None = None, classes: Sequence[str] | None = None
) -> DiscoveredDataset:
    """Read a Pascal VOC folder with one split per image list.

    The lists may share images.

    Args:
        path: the folder.
        lists: names of files in ``ImageSets/Main``; default: all except lists per class, such as cat_train.
        classes: names of the classes to keep, in this order; default: all, sorted.

    Raises:
        FileNotFoundError: the folder or a list does not exist.
        ValueError: the folder is not a Pascal VOC folder, a list has no objects, or a class does not exist.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"the folder {path} does not exist")
    report = Report()
    tree = Tree(Path(path), report)
    files = voc.find(tree)
    if not files:
        raise ValueError(describe_unknown(tree, [voc]))
    folder = tree.root / "ImageSets" / "Main"
    names = lists or sorted(f.stem for f in folder.glob("*.txt") if "_" not in f.stem and read_text(f).strip())
    if not names:
        raise FileNotFoundError(f"{folder} contains no image lists")
    parsed = voc.read(tree, files, names)
    chosen = {name: clean_images(images, tree) for name, images in parsed.groups.items() if name}
    if classes is not None:
        parsed, chosen = _choose_classes(parsed, chosen, classes, report)
    inner = tree.root / "JPEGImages"
    paths = [image.path for images in chosen.values() for image in images]
    root = inner if all(path.is_relative_to(inner) for path in paths) else tree.root
    _check_objects(chosen, dict.fromkeys(chosen, tree.root), report)
    splits = {name: Split(name, tuple(images), root) for name, images in chosen.items()}
    ids = tuple(parsed.class_ids)
    return DiscoveredDataset(
        parsed.layout, Path(path), splits, tuple(parsed.classes), ids, None, "splits: image lists", report
    )


def _pick_two(parsed: ParsedDataset, other: ParsedDataset, report: Report) -> tuple[dict[str, list[LabeledImage]], str]:
    """Take train from one dataset and val from another."""
    assigned = {}
    for name, source, order in (("train", parsed, ("train", "trainval", None)), ("val", other, ("val", "test", None))):
        groups = {split: images for split, images in source.groups.items() if images}
        chosen = next((split for split in order if split in groups), next(iter(groups)) if len(groups) == 1 else None)
        if chosen not in groups:
            raise ValueError(
                f"{source.root} has no split for {name}; it contains: {', '.join(map(str, groups)) or 'no images'}"
                f"{report.indented()}"
            )
        unused = [str(split) for split in groups if split not in (chosen, "trainval")]
        if unused:
            report.note(f"unused splits of {source.root}: {', '.join(unused)}")
        assigned[name] = groups[chosen]
    return assigned, "splits: train and val from separate sources"


def _with_classes_of(parsed: ParsedDataset, other: ParsedDataset) -> ParsedDataset:
    """Add the classes of another dataset."""
    if (parsed.layout == kitti.LAYOUT) != (other.layout == kitti.LAYOUT):
        raise ValueError(
            f"{parsed.root} is {parsed.layout}, but {other.root} is {other.layout}; KITTI cannot be mixed with others"
        )
    points, others = ((r.keypoints.names if r.keypoints else ()) for r in (parsed, other))
    if points != others:
        raise ValueError(
            f"the keypoints of {parsed.root} are {', '.join(points) or 'none'}, but the keypoints of {other.root} are "
            f"{', '.join(others) or 'none'}"
        )
    names, ids = unique([*parsed.classes, *other.classes]), list(parsed.class_ids)
    first = max(ids, default=0) + 1
    ids += range(first, first + len(names) - len(ids))
    return replace(parsed, classes=names, class_ids=ids)


def _choose_classes(
    parsed: ParsedDataset, assigned: dict[str, list[LabeledImage]], classes: Sequence[str], report: Report
) -> tuple[ParsedDataset, dict[str, list[LabeledImage]]]:
    if parsed.layout == kitti.LAYOUT:
        raise ValueError(f"the classes of KITTI are fixed: {', '.join(kitti.CLASSES)}; do not choose classes")
    by_case = {name.casefold(): name for name in parsed.classes}
    known, kept_names = set(parsed.classes), set(classes)
    for name in classes:
        if name not in known:
            close = by_case.get(name.casefold()) or next(iter(difflib.get_close_matches(name, parsed.classes, 1)), None)
            hint = f"; did you mean {close}?" if close else ""
            raise ValueError(f"{parsed.root} has no class {name}, only {', '.join(parsed.classes)}{hint}")
    if len(set(classes)) != len(classes):
        raise ValueError(f"the chosen classes contain a class twice: {', '.join(classes)}")
    chosen: dict[str, list[LabeledImage]] = {}
    for split, images in assigned.items():
        chosen[split] = []
        for image in images:
            kept = tuple(obj for obj in image.objects if obj.label in kept_names)
            for obj in image.objects:
                if obj.label not in kept_names:
                    report.count(f"objects of class {obj.label}, skipped", obj.source)
            chosen[split].append(replace(image, objects=kept))
    # Training sorts classes by category id, so a custom order needs new ids.
    return replace(parsed, classes=list(classes), class_ids=list(range(1, len(classes) + 1))), chosen


def _check_objects(assigned: dict[str, list[LabeledImage]], roots: dict[str, Path], report: Report) -> None:
    """
    Raises:
        ValueError: a split has no objects; the message contains the report.
    """
    for name, images in assigned.items():
        if not any(image.objects for image in images):
            where = f"the split {name} of {roots[name]}"
            raise ValueError(f"{where} is empty: {len(images)} images, no objects{report.indented()}")


# Layout names of the public interface -> reader, in order of preference.
LAYOUTS = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "csv": table, "kitti": kitti}

# Largest difference in pixels between equal boxes of two layouts.
_PIXELS = 2.0


def read_layout(path: str | Path, layout: str | None, report: Report) -> ParsedDataset:
    """Read a folder or file and validate its boxes, without assigning splits.

    Args:
        path: a folder, or a COCO .json, a YOLO data.yaml or a .csv.
        layout: a key of LAYOUTS, or None to detect the layout.
        report: receives counts and notes.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: the layout is unknown, or several layouts contradict each other.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"unknown layout '{layout}'; use one of {', '.join(LAYOUTS)}")
    if "://" in str(path):
        raise ValueError(f"{path} is a URL; download the dataset and pass its folder")
    path = Path(os.path.abspath(os.path.expanduser(path)))
    if not path.exists():
        raise FileNotFoundError(f"the dataset {path} does not exist")
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is neither a regular file nor a folder")
    if path.is_file():
        return _read_file(path, report)
    tree = Tree(path, report)
    names = [layout] if layout else list(LAYOUTS)
    detected = {name: files for name in names if (files := LAYOUTS[name].find(tree))}
    if not detected:
        raise ValueError(describe_unknown(tree, [LAYOUTS[name] for name in names]))
    candidates = []
    for name, files in detected.items():
        # One report per reader, so that only the counts of the chosen layout are reported.
        own_tree = Tree(path, Report()) if len(detected) > 1 else tree
        candidates.append((_finish(LAYOUTS[name].read(own_tree, files), own_tree), own_tree))
    parsed, own_tree = _choose_layout(candidates, tree)
    if own_tree is not tree:
        report.add(own_tree.report)
    return parsed


def _read_file(path: Path, report: Report) -> ParsedDataset:
    readers = {".json": coco, ".yaml": yolo, ".yml": yolo, ".csv": table}
    reader = readers.get(path.suffix.lower())
    if reader is coco and coco.json_kind(path) == "labelme":
        reader = None
    known = next(iter(recognize([path])), None)
    if known is not None and (reader is not coco or coco.json_kind(path) != "coco"):
        raise ValueError(_unsupported(str(path), known))
    if reader is None:
        raise ValueError(f"{path} is not a dataset; pass its folder, a COCO .json, a data.yaml or a .csv")
    tree = Tree(yolo.root_of(path) if reader is yolo else path.parent, report)
    if reader is not yolo and (path.parent.name.lower() in ("annotations", "labels") or not tree.images):
        tree = Tree(path.parent.parent, report)
    if reader is table and path not in table.find(tree):
        raise ValueError(f"{path}: {table.HEADER_REQUIREMENT}")
    labels = [label for label in yolo.find(tree) if label.suffix.lower() == ".txt"] if reader is yolo else []
    return _finish(reader.read(tree, [path, *labels]), tree)


def _finish(parsed: ParsedDataset, tree: Tree) -> ParsedDataset:
    joint = {"trainval"} if {"train", "val"} <= set(parsed.groups) else set()  # The union of both.
    groups = {split: clean_images(images, tree) for split, images in parsed.groups.items() if split not in joint}
    for split in tree.empty_splits():
        groups.setdefault(split, [])
    complete = {split: name for split, name in parsed.lists.items() if len(groups[split]) == len(parsed.groups[split])}
    return replace(parsed, groups=groups, lists=complete)


def describe_unknown(tree: Tree, readers: Sequence[ModuleType]) -> str:
    """Return an error message with the supported layouts and the content of a folder."""
    kinds: dict[str, int] = {}
    for file in tree.files:
        kinds[file.suffix.lower() or "no suffix"] = kinds.get(file.suffix.lower() or "no suffix", 0) + 1
    content = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:8])
    names = sorted({file.relative_to(tree.root).parts[0] for file in tree.files})
    lines = [f"{tree.root} has no supported layout"]
    lines += [_unsupported(tree.name(file), known) for known, file in recognize(tree.files).items()]
    lines.append("Supported layouts:")
    lines += [f"  {reader.LAYOUT}: {reader.EXPECTED_FILES}" for reader in readers]
    lines.append(f"The folder contains: {content or 'no files'}" + (f" ({', '.join(names[:8])})" if names else ""))
    lines += [f"{tree.name(file)}: {table.HEADER_REQUIREMENT}" for file in table.headerless(tree)[:1]]
    broken = [file for file in tree.with_suffix(".json") if coco.json_kind(file) == "broken"]
    lines += [_json_error(file, tree.name(file)) for file in broken[:3]]
    return "\n".join(lines) + tree.report.indented()


def _unsupported(name: str, known: Format) -> str:
    return f"{name} is {known.name}, which is not read: {known.remedy} (docs/formats.md)"


def _json_error(path: Path, name: str) -> str:
    try:
        read_text(path)
    except (OSError, ValueError) as error:
        return str(error)
    return f"{name} is not a valid JSON file"


def _choose_layout(candidates: list[tuple[ParsedDataset, Tree]], tree: Tree) -> tuple[ParsedDataset, Tree]:
    """Return the layout that defines most splits, provided that all layouts contain the same objects."""
    labeled = [pair for pair in candidates if any(image.objects for image in pair[0].images)]
    if len(labeled) < 2:
        return (labeled or candidates)[0]
    chosen = max(labeled, key=lambda pair: len(set(pair[0].groups) - {None}))
    for other in labeled:
        if other is chosen:
            continue
        difference = _difference(chosen[0], other[0])
        if difference:
            raise ValueError(
                f"{tree.root} has two contradictory layouts, {chosen[0].layout} and {other[0].layout}: {difference}. "
                "Pass the file or subfolder of the layout to use"
            )
        chosen[1].report.note(f"{chosen[0].layout} labels are used; the {other[0].layout} labels are the same")
    return chosen


def _difference(first: ParsedDataset, second: ParsedDataset) -> str:
    """Describe the first image whose objects or splits differ; return "" if all images are equal."""
    one, other = ({i.path: (split, i) for split, group in r.groups.items() for i in group} for r in (first, second))
    for path in sorted({*one, *other}):
        (split, image), (other_split, image_2) = (side.get(path, (None, LabeledImage(path))) for side in (one, other))
        if not _same_objects(image, image_2):
            counts = f"{len(image.objects)} and {len(image_2.objects)} objects"
            differ = len(image.objects) == len(image_2.objects)
            return f"{path.name} has {counts}" + (", which differ" if differ else "")
        if None not in (split, other_split) and split != other_split:
            return f"{path.name} is in {split} and in {other_split}"
    return ""


def _same_objects(first: LabeledImage, second: LabeledImage) -> bool:
    remaining = list(second.objects)
    for obj in first.objects:
        for index, other in enumerate(remaining):
            near = all(abs(a - b) <= _PIXELS for a, b in zip(obj.box, other.box, strict=True))
            if near and obj.label == other.label:
                del remaining[index]
                break
        else:
            return False
    return not remaining


def clean_images(images: Sequence[LabeledImage], tree: Tree) -> list[LabeledImage]:
    """Return the readable images with their upright size and valid objects.

    :func:`fit_to_image` converts the labels. The report counts invalid images and objects. Boxes that exceed their
    image by more than a pixel are clipped. Boxes that are not finite, have no area or are outside their image are
    skipped. Images without objects are kept.
    :class:`LabeledObject` describes the stricter rule for boxes that are corners.
    """
    tree.measure(image.path for image in images)
    cleaned = []
    for image in images:
        header, name = tree.headers[image.path], tree.name(image.path)
        if isinstance(header, OSError):
            reason = str(header).partition(f"{image.path}: ")[2] or str(header)
            kind = "truncated" if "truncated" in reason else "unreadable"
            tree.report.count(f"{kind} images, skipped", f"{name} ({reason})")
            continue
        fitted = fit_to_image(image, header, name, tree.report)
        if fitted is None:
            continue
        size = fitted.width, fitted.height
        objects = [_clean_object(obj, size, obj.source or name, tree.report) for obj in fitted.objects]
        kept = tuple(obj for obj in objects if obj is not None)
        if not image.objects:
            tree.report.count("images without labels, kept as background", name)
        elif not kept:
            tree.report.count("images without valid labels, kept as background", name)
        cleaned.append(replace(fitted, objects=kept))
    return cleaned


def _clean_object(obj: LabeledObject, size: tuple[int, int], where: str, report: Report) -> LabeledObject | None:
    x1, y1, x2, y2 = obj.box
    if not all(math.isfinite(value) for value in obj.box):
        report.count("non-finite boxes, skipped", where)
        return None
    if obj.corners and (x2 < x1 or y2 < y1):
        report.count("boxes with exchanged corners, repaired", where)
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        obj = replace(obj, box=(x1, y1, x2, y2))
    if x2 <= x1 or y2 <= y1:
        report.count("boxes without area, skipped", where)
        return None
    if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
        report.count("boxes outside their image, skipped", where)
        return None
    excess = max(max(-x1, x2 - size[0]) / tolerance(size[0]), max(-y1, y2 - size[1]) / tolerance(size[1]))
    if obj.corners and excess > 1:
        report.count(
            "boxes that exceed their image by more than 2 pixels and 1 % (of another image size?), skipped", where
        )
        return None
    if min(x1, y1) < -_TOLERANCE or x2 > size[0] + _TOLERANCE or y2 > size[1] + _TOLERANCE:
        report.count("boxes partly outside their image, clipped", where)
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
        obj = replace(obj, box=box)
    if obj.keypoints is not None and not all(math.isfinite(value) for value in obj.keypoints):
        report.count("objects with non-finite keypoints, kept without keypoints", where)
        obj = replace(obj, keypoints=(0.0,) * len(obj.keypoints))
    return obj


def count_classes(splits: Mapping[str, Sequence[LabeledImage]], classes: Sequence[str], report: Report) -> None:
    """Count classes without objects and class names that differ only in case."""
    used = {name: {obj.label for image in images for obj in image.objects} for name, images in splits.items()}
    everywhere = set().union(*used.values())
    first: dict[str, str] = {}
    for name in classes:
        if name not in everywhere:
            report.count("classes without objects", name)
        elif name not in used["train"]:
            report.count("classes without objects in train", name)
        other = first.setdefault(name.casefold(), name)
        if other != name:
            report.count("pairs of classes that differ only in case", f"{other} and {name}")
