import random

import numpy as np
import pytest
import torch
from PIL import Image

from centernet_d2.config import load_config
from centernet_d2.data import register_from_config
from centernet_d2.data.stream import seeded
from centernet_d2.evaluation import figures
from centernet_d2.evaluation.figures import (
    augmented_sheet,
    labeled_sheet,
    prediction_sheet,
    preview_records,
)
from centernet_d2.modeling import CenterNet
from synthetic.boxes import write_boxes_on_ground
from synthetic.kites import write_kites
from synthetic.shapes import SHAPES, write_shapes

SMALL = ["MODEL.DEVICE", "cpu", "MODEL.CENTERNET.HEAD_CONV", "8", "INPUT.AFFINE.SIZE", "[64,64]"]
WRITERS = {
    "Shapes/centernet_HG_shapes.yaml": lambda root: write_shapes(root / "shapes", train=3, val=1, size=64),
    "Shapes/centernet_HG_kites.yaml": lambda root: [
        write_kites(root / "kites" / split, images=3) for split in ("train", "val")
    ],
    "Shapes/centernet_3d_HG_boxes.yaml": lambda root: write_boxes_on_ground(root / "boxes", {"train": 2, "val": 1}),
}


def states():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        torch.get_rng_state().tolist(),
    )


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path / "shapes", train=5, val=1, size=64)
    cfg = load_config("Shapes/centernet_HG_shapes.yaml", SMALL)
    register_from_config(cfg)
    return cfg


def random_numbers(seed, error=None):
    with seeded(seed):
        if error is not None:
            raise error
        return random.random(), np.random.rand(), torch.rand(1).item()


def test_generators_are_seeded_and_restored():
    before = states()
    assert random_numbers(3) == random_numbers(3) != random_numbers(4)
    with pytest.raises(ValueError, match="drawn"):
        random_numbers(3, ValueError("drawn"))
    assert states() == before


@pytest.mark.parametrize("name", WRITERS)
def test_sheets_of_each_task_preserve_the_generators(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    WRITERS[name](tmp_path)
    cfg = load_config(name, SMALL)
    register_from_config(cfg)
    model = CenterNet(cfg)
    before = states()
    records = preview_records(cfg, cfg.DATASETS.TRAIN)
    sheets = [labeled_sheet(cfg, records), augmented_sheet(cfg, records), prediction_sheet(cfg, model, records[:1])]
    assert states() == before
    assert model.training
    for sheet in sheets:
        assert (sheet.shape[1:], sheet.dtype) == ((1600, 3), np.uint8)
        assert sheet.std() > 10


def test_augmentations_depend_on_the_seed_only(shapes):
    records = preview_records(shapes, shapes.DATASETS.TRAIN, 2)
    first = augmented_sheet(shapes, records, 1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert np.array_equal(augmented_sheet(shapes, records, 1), first)
    assert not np.array_equal(augmented_sheet(shapes, records, 2), first)


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (99, [0, 1, 2, 3, 4])])
def test_preview_is_evenly_spaced(shapes, count, expected):
    names = [record["file_name"] for record in preview_records(shapes, shapes.DATASETS.TRAIN, 99)]
    chosen = preview_records(shapes, shapes.DATASETS.TRAIN, count)
    assert [names.index(record["file_name"]) for record in chosen] == expected


def test_images_without_objects_and_damaged_images(shapes, tmp_path):
    Image.new("L", (70, 20)).save(tmp_path / "empty.png")
    (tmp_path / "damaged.jpg").write_bytes(b"no image")
    empty, damaged = (
        {"file_name": str(tmp_path / name), "annotations": [], "height": 20, "width": 70}
        for name in ("empty.png", "damaged.jpg")
    )
    for sheet in (labeled_sheet, augmented_sheet):
        assert np.array_equal(sheet(shapes, [empty, damaged]), sheet(shapes, [empty]))
    drawn = prediction_sheet(shapes, CenterNet(shapes), [empty, damaged])
    assert drawn.shape[0] < 300
    assert labeled_sheet(shapes, [damaged]).shape[0] == labeled_sheet(shapes, []).shape[0]


def test_legend_contains_the_drawn_classes(shapes, monkeypatch):
    legends = []
    monkeypatch.setattr(figures, "build_sheet", lambda *_, legend, **__: legends.append(list(legend)))
    records = preview_records(shapes, shapes.DATASETS.TRAIN, 1)
    labeled_sheet(shapes, records)
    categories = sorted({x["category_id"] for x in records[0]["annotations"]})
    assert legends == [[list(SHAPES)[index] for index in categories]]
