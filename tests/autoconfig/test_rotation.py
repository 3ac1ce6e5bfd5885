import re
from pathlib import Path

import numpy as np
import pytest

from centernet_d2.autoconfig.rotation import rotation_veto
from centernet_d2.readers import LabeledImage, LabeledObject, discover_dataset


def images(count=40, per_image=5, *, wide=1.0, low=0.0, perspective=0.0, label="cell"):
    """Return images of 400 x 300 with random boxes; the options make their statistics anisotropic."""
    random = np.random.default_rng(0)
    result = []
    for index in range(count):
        objects = []
        for _ in range(per_image):
            x, y = random.uniform(60, 340), random.uniform(50, 250)
            side = 20 + random.uniform(0, 20) + perspective * y
            half = side / 2 * wide * np.exp(random.normal(0, 0.2)), side / 2
            y += low * (250 - y)
            objects.append(LabeledObject(label, (x - half[0], y - half[1], x + half[0], y + half[1])))
        result.append(LabeledImage(Path(f"{index}.jpg"), tuple(objects), 400, 300))
    return result


def test_no_veto_for_arbitrary_orientation():
    assert rotation_veto(images()) == ""
    assert rotation_veto(images(20, label="a") + images(20, label="b")) == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"wide": 1.3}, "cell: 3.% wider than tall"),
        ({"wide": 0.7}, "cell: 4.% taller than wide"),
        ({"low": 0.4}, "objects are low"),
        ({"perspective": 0.2}, "the size of objects depends"),
        ({"count": 10}, "too few boxes"),
    ],
)
def test_veto_for_a_vertical_direction(options, reason):
    assert re.match(reason, rotation_veto(images(**options)))


def test_veto_for_one_upright_class():
    assert rotation_veto(images() + images(wide=0.6, label="person")).startswith("person: 6")


def test_boxes_at_the_border_and_rare_classes_are_ignored():
    cut = LabeledObject("cell", (0, 100, 200, 110))
    edges = [LabeledImage(image.path, (*image.objects, cut), 400, 300) for image in images()]
    assert rotation_veto(edges) == ""
    # Five tall boxes among two hundred.
    assert rotation_veto(images() + images(1, wide=0.3, label="pin")) == ""
    many = [image for kind in range(20) for image in images(2, label=str(kind))]
    assert rotation_veto(many).startswith("too few boxes")


@pytest.mark.parametrize("empty", [[], [LabeledImage(Path("a.jpg"), (), 400, 300)]])
def test_veto_without_objects(empty):
    assert rotation_veto(empty).startswith("too few boxes")


@pytest.mark.parametrize("name", ["bccd", "coco128", "keypoints_mouse", "keypoints_coco", "kitti_sample"])
def test_veto_for_real_datasets_except_blood_cells(name, shared):
    veto = rotation_veto(discover_dataset(shared / "data" / name).splits["train"].images)
    assert (veto == "") == (name == "bccd")
