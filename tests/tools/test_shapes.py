import json

import cv2
import numpy as np

from synthetic.shapes import SHAPES, draw_shapes, write_shapes


def test_same_seed_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        write_shapes(tmp_path / name, train=4, val=2, size=64)
    for file in ("annotations/train.json", "annotations/val.json", "train/00003.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_annotations_have_several_classes_sizes_and_empty_images(tmp_path):
    write_shapes(tmp_path, train=60, val=1, size=64)
    content = json.loads((tmp_path / "annotations" / "train.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(SHAPES)
    assert {x["category_id"] for x in content["annotations"]} == {10, 20, 30, 40, 50}
    assert len({(image["height"], image["width"]) for image in content["images"]}) > 4
    with_objects = {x["image_id"] for x in content["annotations"]}
    assert 0 < len(with_objects) < 60
    for image in content["images"][:5]:
        assert cv2.imread(str(tmp_path / "train" / image["file_name"])).shape[:2] == (image["height"], image["width"])


def test_boxes_are_inside_the_image_and_contain_the_object():
    rng = np.random.default_rng(1)
    for _ in range(20):
        image, objects = draw_shapes(rng, (64, 80), max_objects=1)
        for _, (x1, y1, x2, y2) in objects:
            assert 0 <= x1 < x2 <= 79
            assert 0 <= y1 < y2 <= 63
            # The object has the most saturated colors of the image.
            saturated = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1] > 130
            inside = np.zeros_like(saturated)
            inside[int(y1) : int(y2) + 2, int(x1) : int(x2) + 2] = True
            assert saturated[inside].mean() > 0.25
            assert saturated[~inside].mean() < 0.1
