"""Files that somebody damaged: they are read, or one clear error says what is wrong."""

import io
import json
import logging
import math
import re

import pytest
import torch
from detectron2.data import MetadataCatalog
from hypothesis import strategies as st

from centernet_d2.checkpoint import CenterNetCheckpointer, load_file
from centernet_d2.data.coco import CocoDataset
from centernet_d2.readers import find_data
from centernet_d2.readers.coco import read_files
from centernet_d2.readers.kitti import TYPES, parse_object, read_objects
from centernet_d2.readers.records import Report
from centernet_d2.readers.tree import decode
from centernet_d2.readers.voc import read_annotation
from centernet_d2.structures.calibration import read_camera
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
    """Bytes with some cut off at the end, changed, left out or put in."""
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
# A line as it should be, with some other fields, or with as many of them as there are.
LINES = st.tuples(
    st.sampled_from([*TYPES, "Bus", ""]),
    st.dictionaries(st.integers(1, 15), NUMBERS, max_size=2),
    st.sampled_from([15, 15, 15, 14, 16]),
).map(lambda row: " ".join([row[0], *(row[1].get(i, text) for i, text in enumerate(LABEL.split()[1:], 1))][: row[2]]))


@fuzzed(100)
def test_lines_of_kitti(inputs):
    def body(line):
        thing = parse_object(line, "here")
        assert thing.kind in TYPES
        values = (thing.truncation, thing.alpha, *thing.box, *thing.dimensions, *thing.location, thing.rotation_y)
        assert len(values) == 13
        assert all(map(math.isfinite, values))

    tried, refused = try_inputs(inputs, st.one_of(LINES, st.text(max_size=40)), body, names="here")
    assert 0 < refused < tried


@fuzzed(100)
def test_files_of_kitti(inputs, tmp_path):
    path = tmp_path / "000000.txt"
    text = f"{LABEL}\n" * 3

    def body(data):
        for content, read in zip(data, (read_objects, read_camera), strict=True):
            path.write_bytes(content)
            result = read(path)
            if read is read_camera:
                assert torch.tensor(result).isfinite().all()
            else:  # No line is left out in silence.
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


# Reasons of the report for entries that are not used.
SKIPPED = re.compile("left out|labels without an image|one class")


@fuzzed(100)
def test_coco_files(inputs, tmp_path):
    path = tmp_path / "a.json"

    def body(content):
        path.write_bytes(content)
        MetadataCatalog.pop("fuzzed", None)  # Names of classes do not change in a process.
        dicts = CocoDataset("fuzzed", str(path), str(tmp_path / "images"))()
        report = Report()
        (file,) = read_files([path], report)
        lists = json.loads(decode(content))
        # An entry that is not there is counted.
        left_out = sum(count for reason, count in report.counts.items() if SKIPPED.search(reason))
        assert sum(len(lists[key]) for key in COCO) <= sum(len(getattr(file, key)) for key in COCO) + left_out
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
        # An object is there, or named as broken.
        assert all(thing.label for thing in objects)
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
def test_folders_of_own_data(inputs, layout, file, tmp_path):
    root = WRITERS[layout](tmp_path / "data")
    whole = (root / file).read_bytes()

    def body(content):
        (root / file).write_bytes(content)
        found = find_data(root)
        for split in found.splits.values():
            for image in split.images:
                assert image.path.is_file()
                assert (image.width, image.height) == SIZE
                for thing in image.objects:
                    assert thing.label in found.class_names
                    x1, y1, x2, y2 = thing.box
                    # Labels may round up to the next pixel.
                    assert -1 <= x1 < x2 <= image.width + 1
                    assert -1 <= y1 < y2 <= image.height + 1

    try_inputs(inputs, damaged(whole), body, names=str(tmp_path))


def saved(**content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


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

    contents = st.one_of(damaged(whole), damaged(bare), st.binary(max_size=64))
    tried, refused = try_inputs(inputs, contents, body, names=path.name)
    assert 0 < refused < tried
