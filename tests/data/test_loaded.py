import json
import sys
from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from centernet_d2.data.loaded import load_coco_content, load_dataset


@pytest.fixture(scope="module")
def opened():
    """Numbers of openings of files, by their paths."""
    counts: Counter = Counter()
    # An audit hook sees every way to open a file; it cannot be removed.
    sys.addaudithook(lambda event, args: counts.update([str(args[0])]) if event == "open" else None)
    return counts


def test_annotation_files_are_parsed_once_in_a_training_with_two_evaluations(
    load_script, arguments, shapes_folder, opened
):
    files = {name: shapes_folder / "shapes" / "annotations" / f"{name}.json" for name in ("train", "val")}
    before = {name: path.read_bytes() for name, path in files.items()}
    opened.clear()
    load_script("train_net.py").main(arguments(SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=1))
    assert {name: opened[str(path)] for name, path in files.items()} == {"train": 1, "val": 1}
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_the_function_of_a_data_set_is_called_once_until_another_one_is_registered():
    calls = []

    def load(value):
        calls.append(value)
        return [{"file_name": "a.png", "image_id": value, "height": 4, "width": 5, "annotations": []}]

    DatasetCatalog.register("mine", lambda: load(1))
    MetadataCatalog.get("mine").set(thing_classes=["a"])
    first = load_dataset("mine")
    first[0]["image_id"] = "changed"
    assert load_dataset("mine")[0]["image_id"] == 1
    assert calls == [1]
    assert load_coco_content("mine")["images"] == load_coco_content("mine")["images"]
    assert calls == [1, 1]
    DatasetCatalog.remove("mine")
    DatasetCatalog.register("mine", lambda: load(2))
    assert load_dataset("mine")[0]["image_id"] == 2
    assert load_coco_content("mine")["images"][0]["id"] == 2
    with pytest.raises(KeyError):
        load_dataset("unknown")


def test_files_of_data_sets_registered_in_python_are_parsed_once_for_images_and_once_for_evaluations(
    shapes_folder, opened
):
    path = shapes_folder / "shapes" / "annotations" / "val.json"
    register_coco_instances("theirs", {}, str(path), str(path.parent))
    opened.clear()
    for _ in range(2):
        assert len(load_dataset("theirs")) == 3
        assert load_coco_content("theirs") == json.loads(path.read_text())
    assert opened[str(path)] == 2 + 2  # The test itself opens it twice.
