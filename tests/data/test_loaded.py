import json
import sys
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from centernet_d2.data.loaded import load_coco_content, load_dataset


@pytest.fixture(scope="module")
def opened():
    """Number of times that each file was opened, by path."""
    counts: Counter = Counter()
    # An audit hook reports all opened files; it cannot be removed.
    sys.addaudithook(lambda event, args: counts.update([str(args[0])]) if event == "open" else None)
    return counts


def test_training_parses_annotation_files_once(load_script, arguments, shapes_folder, opened):
    files = {name: shapes_folder / "shapes" / "annotations" / f"{name}.json" for name in ("train", "val")}
    before = {name: path.read_bytes() for name, path in files.items()}
    opened.clear()
    load_script("train_net.py").main(arguments(SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=1))
    assert {name: opened[str(path)] for name, path in files.items()} == {"train": 1, "val": 1}
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_dataset_function_is_called_once_per_registration():
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


def test_file_of_builtin_format_is_parsed_once_per_use(shapes_folder, opened):
    path = shapes_folder / "shapes" / "annotations" / "val.json"
    register_coco_instances("theirs", {}, str(path), str(path.parent))
    opened.clear()
    for _ in range(2):
        assert len(load_dataset("theirs")) == 3
        assert load_coco_content("theirs") == json.loads(path.read_text())
    assert opened[str(path)] == 2 + 2  # The test opens the file twice.


def test_numpy_values_become_python_values():
    annotation = {"bbox": np.float32([1, 2, 3, 4]), "bbox_mode": 0, "category_id": np.int64(0), "own": np.zeros(2)}
    annotation["keypoints"] = np.float32([[1, 2, 2]])
    record = {"file_name": "a.png", "image_id": np.int64(7), "height": np.int32(4), "width": 5}
    DatasetCatalog.register("arrays", lambda: [{**record, "annotations": [dict(annotation)]}])
    MetadataCatalog.get("arrays").set(thing_classes=["a"])
    (loaded,) = load_dataset("arrays")
    (own,) = loaded["annotations"]
    assert (own["bbox"], own["keypoints"]) == ([1, 2, 3, 4], [1, 2, 2])
    assert {type(own["category_id"]), type(loaded["image_id"]), type(loaded["height"])} == {int}
    assert isinstance(own["own"], np.ndarray)
    assert json.dumps(load_coco_content("arrays")["images"]) == json.dumps(
        [{"id": 7, "width": 5, "height": 4, "file_name": "a.png"}]
    )
