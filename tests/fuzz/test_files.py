"""Damaged files are either read, or raise one clear error."""

import io
import json
import logging
import math
import os
import re

import pytest
import torch
from detectron2.data import MetadataCatalog
from hypothesis import strategies as st

from centernet_d2 import load_config
from centernet_d2.checkpoint import CenterNetCheckpointer, load_file
from centernet_d2.data.coco import CocoDataset
from centernet_d2.readers import coco_content, discover_dataset
from centernet_d2.readers.coco import read_files
from centernet_d2.readers.kitti import TYPES, parse_object, read_objects
from centernet_d2.readers.records import Report
from centernet_d2.readers.tree import decode
from centernet_d2.readers.voc import read_annotation
from centernet_d2.structures.calibration import read_camera
from centernet_d2.utils.parsing import parse_json, parse_xml, parse_yaml
from centernet_d2.utils.text import printable
from support.folders import SIZE, WRITERS
from support.fuzz import fuzzed, try_inputs
from support.models import stub_model


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


NUMBERS = st.one_of(
    st.integers(-3, 200).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.sampled_from(["", "1e400", "-1e400", "nan", "inf", "0x1F", "1_000", "١٢", "--1", "1,5", "9" * 400]),
    st.text(max_size=5),
)


def damaged(content):
    """Return a strategy of bytes that are truncated, or have flipped, inserted or removed bytes."""
    size = len(content)
    place = st.integers(0, max(size - 1, 0))
    change = st.one_of(
        st.tuples(st.just("cut"), place, st.just(b"")),
        st.tuples(st.just("flip"), place, st.integers(0, 7).map(lambda bit: bytes([1 << bit]))),
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("drop"), place, st.binary(min_size=1, max_size=8)),
    )

    def apply(changes):
        data = bytearray(content)
        for kind, at, what in changes:
            at = min(at, max(len(data) - 1, 0))
            if kind == "cut":
                del data[at:]
            elif kind == "flip" and data:
                data[at] ^= what[0]
            elif kind == "put":
                data[at:at] = what
            elif kind == "drop":
                del data[at : at + len(what)]
        return bytes(data)

    return st.lists(change, min_size=1, max_size=4).map(apply)


LABEL = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
CAMERA = "P0: 1 0 0 0 0 1 0 0 0 0 1 0\nP2: 721.5 0 609.6 44.9 0 721.5 172.9 0.2 0 0 1 0.003\n"
# A valid line with some replaced fields, or with another number of fields.
LINES = st.tuples(
    st.sampled_from([*TYPES, "Bus", ""]),
    st.dictionaries(st.integers(1, 15), NUMBERS, max_size=2),
    st.sampled_from([15, 15, 15, 14, 16]),
).map(lambda row: " ".join([row[0], *(row[1].get(i, text) for i, text in enumerate(LABEL.split()[1:], 1))][: row[2]]))


@fuzzed(100)
def test_kitti_lines(inputs):
    def body(line):
        obj = parse_object(line, "here")
        assert obj.kind in TYPES
        values = (obj.truncation, obj.alpha, *obj.box, *obj.dimensions, *obj.location, obj.rotation_y)
        assert len(values) == 13
        assert all(map(math.isfinite, values))

    tried, refused = try_inputs(inputs, st.one_of(LINES, st.text(max_size=40)), body, names="here")
    assert 0 < refused < tried


@fuzzed(100)
def test_kitti_files(inputs, tmp_path):
    path = tmp_path / "000000.txt"
    text = f"{LABEL}\n" * 3

    def body(data):
        for content, read in zip(data, (read_objects, read_camera), strict=True):
            path.write_bytes(content)
            result = read(path)
            if read is read_camera:
                assert torch.tensor(result).isfinite().all()
            else:  # No line is skipped silently.
                lines = content.decode("utf-8", "replace").splitlines()
                assert len(result) == sum(bool(line.strip()) for line in lines)

    try_inputs(inputs, st.tuples(damaged(text.encode()), damaged(CAMERA.encode())), body, names=path.name)


COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)],
    "annotations": [
        {"id": i, "image_id": 1 + i % 2, "category_id": 3, "bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0}
        for i in (1, 2, 3)
    ],
    "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
}
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("../../../a.png")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)
PLACES = [(key,) for key in COCO] + [(key, i) for key in COCO for i in (0, 1)]
PLACES += [(key, i, name) for key in COCO for i in (0, 1) for name in [*COCO[key][0], "keypoints", "ignore", "tilt"]]


def replaced(changes):
    content = json.loads(json.dumps(COCO))
    for place, value in changes:
        node = content
        for step in place[:-1]:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if isinstance(node, dict) or (
                isinstance(node, list) and isinstance(place[-1], int) and place[-1] < len(node)
            ):
                node[place[-1]] = value
    return json.dumps(content).encode()


# Report reasons of skipped entries.
SKIPPED = re.compile("skipped|labels without an image|one class")


@fuzzed(100)
def test_coco_files(inputs, tmp_path):
    path = tmp_path / "a.json"

    def body(content):
        path.write_bytes(content)
        MetadataCatalog.pop("fuzzed", None)  # The class names of a dataset cannot change in a process.
        dicts = CocoDataset("fuzzed", str(path), str(tmp_path / "images"))()
        report = Report()
        (file,) = read_files([path], report)
        lists = json.loads(decode(content))
        # Every missing entry is counted.
        skipped = sum(count for reason, count in report.counts.items() if SKIPPED.search(reason))
        assert sum(len(lists[key]) for key in COCO) <= sum(len(getattr(file, key)) for key in COCO) + skipped
        assert len(dicts) == len(file.images)
        assert sum(len(image["annotations"]) for image in dicts) == len(file.annotations)
        for image in dicts:
            assert image.get("height", 1) > 0
            assert image.get("width", 1) > 0
            for annotation in image["annotations"]:
                assert 0 <= annotation["category_id"] < len(file.categories)
                assert all(map(math.isfinite, [*annotation["bbox"], *annotation.get("keypoints", ())]))

    changes = st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3).map(replaced)
    tried, refused = try_inputs(inputs, st.one_of(changes, damaged(json.dumps(COCO).encode())), body, names=path.name)
    assert 0 < refused < tried


VOC = """<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax>
</bndbox></object></annotation>"""


@fuzzed(100)
def test_voc_files(inputs, tmp_path):
    path = tmp_path / "a.xml"

    def body(content):
        path.write_bytes(content)
        name, size, objects, broken = read_annotation(path)
        assert isinstance(name, str)
        assert size is None or min(size) > 0
        # Every object is returned or reported as broken.
        assert all(obj.label for obj in objects)
        assert len(objects) + len(broken) == content.count(b"<object>")

    fields = st.tuples(*[NUMBERS] * 6).map(
        lambda n: VOC.replace(">60<", f">{n[0]}<").replace(">3</x", f">{n[1]}</x").replace(">30<", f">{n[2]}<").encode()
    )
    tried, refused = try_inputs(inputs, st.one_of(damaged(VOC.encode()), fields), body, names=path.name)
    assert 0 < refused < tried


LABELS = {
    "yolo": ("train/labels/b.txt", "data.yaml"),
    "coco": ("train/_annotations.coco.json",),
    "labelme": ("train/b.json",),
    "csv": ("train.csv",),
    "voc": ("Annotations/b.xml", "ImageSets/Main/train.txt"),
}


@fuzzed(20)
@pytest.mark.parametrize(("layout", "file"), [(name, file) for name, files in LABELS.items() for file in files])
def test_dataset_folders(inputs, layout, file, tmp_path):
    root = WRITERS[layout](tmp_path / "data")
    whole = (root / file).read_bytes()

    def body(content):
        (root / file).write_bytes(content)
        found = discover_dataset(root)
        for split in found.splits.values():
            for image in split.images:
                assert image.path.is_file()
                assert (image.width, image.height) == SIZE
                for obj in image.objects:
                    assert obj.label in found.class_names
                    x1, y1, x2, y2 = obj.box
                    # Coordinates may be rounded up to the next pixel.
                    assert -1 <= x1 < x2 <= image.width + 1
                    assert -1 <= y1 < y2 <= image.height + 1

    try_inputs(inputs, damaged(whole), body, names=str(tmp_path))


def saved(**content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def damaged_directory(content):
    """Return a strategy of zip files whose directory, at the end of the file, is damaged."""
    start = content.index(b"PK\x01\x02")
    return damaged(content[start:]).map(lambda directory: content[:start] + directory)


@fuzzed(50)
def test_checkpoints(inputs, tmp_path):
    path = tmp_path / "a.pth"
    torch.manual_seed(0)
    model = stub_model()
    whole = saved(model=model.state_dict(), iteration=7, optimizer={"state": {}, "param_groups": [{"lr": 0.1}]})
    bare = saved(**model.state_dict())

    def body(content):
        path.write_bytes(content)
        data = load_file(path)
        weights = data.get("model", data)
        assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point())
        CenterNetCheckpointer(stub_model()).load(str(path))

    contents = st.one_of(damaged(whole), damaged(bare), damaged_directory(whole), st.binary(max_size=64))
    tried, refused = try_inputs(inputs, contents, body, names=path.name)
    assert 0 < refused < tried


# Values that are valid, but too large, too deep or of a type that a reader does not expect.
HOSTILE = st.one_of(
    JUNK,
    st.sampled_from([10**400, -(10**400), math.inf, math.nan, 2**63, True, "1e999", "\x1b]0;a\x07", "\udcff", "\0"]),
    st.integers(1, 3000).map(lambda depth: json.loads("[" * min(depth, 300) + "]" * min(depth, 300))),
)


def hostile(content):
    """Return a strategy of JSON files in which values at any depth are replaced, or keys are repeated."""
    places = []

    def collect(node, place):
        places.append(place)
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            collect(value, (*place, key))

    collect(content, ())

    def apply(changes):
        copy, repeated = json.loads(json.dumps(content)), None
        for place, value, repeat in changes:
            node = copy
            try:
                for step in place[:-1]:
                    node = node[step]
                if place:
                    node[place[-1]] = value
                    repeated = place[-1] if repeat else repeated
            except (IndexError, KeyError, TypeError):
                continue
        text = json.dumps(copy)
        return text.replace(f'"{repeated}":', f'"{repeated}": 0, "{repeated}":', 1) if repeated else text

    one = st.tuples(st.sampled_from(places), HOSTILE, st.sampled_from([False] * 9 + [True]))
    return st.lists(one, min_size=1, max_size=3).map(apply)


@fuzzed(40)
@pytest.mark.parametrize("layout", ["coco", "labelme"])
def test_hostile_json(inputs, layout, tmp_path):
    root = WRITERS[layout](tmp_path / "data")
    path = root / LABELS[layout][0]

    def body(text):
        path.write_text(text)
        found = discover_dataset(root)
        "\n".join(found.lines()).encode()
        for split in found.splits.values():
            json.dumps(coco_content(found, split), allow_nan=False)

    tried, refused = try_inputs(inputs, hostile(json.loads(path.read_text())), body, names=str(tmp_path))
    assert refused < tried


# Fragments of YAML with anchors, aliases, merge keys, tags, numbers and repeated keys.
YAML_PARTS = (
    *("&a ", "*a", "<<: *a\n", "- ", "[", "]", "{", "}", "a: ", "names: ", "? ", "\n", "\n  ", ", ", "x", "~", "|\n"),
    *("!!python/name:os.system ", "1e999", "9" * 200, "1:" * 80, "0x1f", "2020-99-99", "'", '"\\e]0;"', "\t", "#", "é"),
    *("_BASE_: ", "VERSION: ", "SOLVER: ", "train: ", "kpt_shape: ", "nc: ", "[" * 150, "- " * 150, "\x1b", "\0"),
)
YAML = st.lists(st.sampled_from(YAML_PARTS), max_size=12).map("".join)


@fuzzed(100)
def test_yaml(inputs, tmp_path):
    path = tmp_path / "a.yaml"

    def body(text):
        path.write_text(text, encoding="utf-8")
        for strings in (False, True):
            try:
                parse_yaml(text, strings=strings)
            except ValueError as error:
                if len(str(error)) > 1000:
                    raise RuntimeError("long error message") from error
        load_config(path)

    try_inputs(inputs, YAML, body, names=path.name)


@fuzzed(40)
def test_descriptions(inputs, tmp_path):
    root = WRITERS["yolo"](tmp_path / "data")
    path = root / "data.yaml"
    whole = path.read_text()
    lines = st.tuples(st.sampled_from(["names", "nc", "kpt_shape", "kpt_names", "flip_idx", "train", "path"]), YAML)

    def body(line):
        path.write_text(f"{whole}{line[0]}: {line[1]}\n" if line[0] not in whole else f"{line[0]}: {line[1]}\n{whole}")
        found = discover_dataset(root)
        assert len(found.class_names) == 3
        "\n".join(found.lines()).encode()

    try_inputs(inputs, lines, body, names=str(tmp_path))


@fuzzed(100)
def test_markup(inputs):
    entities = ["<!DOCTYPE a [", "<!ENTITY x 'y'>", "]>", "&x;", "&#0;", "&amp;"]
    parts = ["<a>", "</a>", "<a b='c'>", "<?xml version='1.0'?>", "<a>" * 150, "x", "\0", "<!--", "-->", "<![CDATA["]
    texts = st.lists(st.sampled_from([*parts, *entities]), max_size=10)

    def body(text):
        root = parse_xml(text)
        assert root.tag == "a"

    def attempt(text):
        try:
            body(text)
        except ValueError as error:
            raise ValueError(f"here: {error}") from error

    try_inputs(inputs, texts.map("".join), attempt, names="here")


@fuzzed(100)
def test_json(inputs):
    def body(text):
        try:
            parse_json(text)
        except ValueError as error:
            raise ValueError(f"here: {error}") from error

    parts = st.sampled_from(
        ['{"a": ', "{", "}", "[", "]", ",", "NaN", "-Infinity", "1e999", "9" * 5000, '"a"', "[" * 5000]
    )
    try_inputs(inputs, st.lists(parts, max_size=10).map("".join), body, names="here")


# Names of files: bytes except for / and NUL, so also control characters and invalid UTF-8.
NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_") + b".jpg")


@fuzzed(20)
def test_names_of_files(inputs, tmp_path):
    root = WRITERS["yolo"](tmp_path / "data")
    images = root / "train" / "images"
    whole = (images / "a.jpg").read_bytes()

    def body(entry):
        name, kind = os.fsdecode(entry[0]), entry[1]
        path = images / name
        if path.exists() or path.is_symlink():
            return
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "file":
            path.write_bytes(whole)
        else:
            path.symlink_to({"loop": path.name, "device": "/dev/zero", "folder": root}[kind])
        try:
            found = discover_dataset(root)
        finally:
            path.unlink()
        lines = found.lines()
        assert printable("\n".join(lines), lines=True) == "\n".join(lines)
        read = json.loads(json.dumps(coco_content(found, found.splits["train"])))["images"]
        listed = os.fsencode(f"train/images/{name}") in {os.fsencode(image["file_name"]) for image in read}
        assert listed == (kind == "file" and not name.startswith("."))

    kinds = st.sampled_from(["file", "file", "pipe", "loop", "device", "folder"])
    try_inputs(inputs, st.tuples(NAMES, kinds), body, names=str(tmp_path))
