"""Metadata in checkpoints: class and keypoint names are available without the dataset."""

import json

import pytest
import torch
from detectron2.data import Metadata

from centernet_d2 import Predictor, load_config
from centernet_d2 import predictor as predictor_module
from centernet_d2.checkpoint import CenterNetCheckpointer, load_file
from centernet_d2.cli import convert as convert_cli
from centernet_d2.cli import detect as demo
from centernet_d2.data.catalog import dataset_metadata, from_plain, to_plain
from centernet_d2.modeling import CenterNet
from centernet_d2.modeling.heads import BoxProperty, KeypointProperty, KeypointSchema, Property
from support.models import stub_model, widen_boxes
from synthetic.kites import FLIP_MAP, KEYPOINTS

KITES = "Shapes/centernet_HG_kites.yaml"
SMALL = ["MODEL.HOURGLASS.WIDTHS", [16, 16, 16], "MODEL.HOURGLASS.COUNTS", [1, 1, 1], "MODEL.CENTERNET.HEAD_CONV", 16]
NAMELESS = ["MODEL.CENTERNET.KEYPOINTS.NAMES", [], "MODEL.CENTERNET.KEYPOINTS.FLIP_MAP", []]
NAMELESS += ["MODEL.CENTERNET.KEYPOINTS.SKELETON", [], "MODEL.DEVICE", "cpu", *SMALL]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Checkpoint of a training on kites, without its dataset."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    torch.manual_seed(0)
    model = CenterNet(load_config(KITES, ["MODEL.DEVICE", "cpu", *SMALL]))
    widen_boxes(model.heads["BoxHead"])
    metadata = Metadata(thing_classes=["kite"], thing_dataset_id_to_contiguous_id={7: 0})
    saver = CenterNetCheckpointer(model, str(tmp_path), metadata=to_plain(metadata, model.properties))
    saver.save("model", iteration=3)
    return str(tmp_path / "model.pth")


def test_checkpoint_restores_names_and_ids(checkpoint):
    kept = load_file(checkpoint)["metadata"]
    assert (kept["thing_classes"], kept["category_ids"]) == (["kite"], [7])
    predictor = Predictor.from_config(load_config(KITES, ["MODEL.WEIGHTS", checkpoint, *NAMELESS]))
    assert (predictor.class_names, predictor.category_ids) == (["kite"], [7])
    head, prop = predictor.network.heads["KeypointHead"], predictor.network.properties[2]
    assert prop.metadata() == {key: kept[key] for key in prop.metadata()}
    assert prop.metadata()["keypoint_names"] == list(KEYPOINTS)
    assert len(prop.metadata()["keypoint_connection_rules"]) == 4
    # Flipped images swap left and right.
    assert head.schema.mirror == KeypointSchema.from_names(KEYPOINTS, FLIP_MAP).mirror == (0, 2, 1, 3)
    result = predictor(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy(), threshold=0)
    assert {row["category_id"] for row in result.to_coco(1)} == {7}


def test_config_overrides_checkpoint_metadata(checkpoint):
    names = ["MODEL.CENTERNET.KEYPOINTS.NAMES", ["a", "b", "c", "d"], "MODEL.CENTERNET.CLASS_NAMES", ["bird"]]
    predictor = Predictor.from_config(load_config(KITES, [*NAMELESS, *names, "MODEL.WEIGHTS", checkpoint]))
    assert (predictor.class_names, predictor.category_ids) == (["bird"], None)
    assert predictor.network.properties[2].schema.names == ("a", "b", "c", "d")


def test_detect_command_uses_checkpoint_metadata(checkpoint, tmp_path, monkeypatch, capsys):
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    drawn = []
    draw = predictor_module.draw_instances
    monkeypatch.setattr(predictor_module, "draw_instances", lambda *args: drawn.append(args) or draw(*args))
    files = [tmp_path / "a.png", "--output", tmp_path / "b.png", "--json", tmp_path / "r.json", "--threshold", 0]
    options = ["--config-file", KITES, "--weights", checkpoint, "--opts", *NAMELESS]
    assert demo.main([str(part) for part in (*files, *options)]) == 0, capsys.readouterr().err
    assert {entry["category_id"] for entry in json.loads((tmp_path / "r.json").read_text())} == {7}
    ((_, _, class_names, _, properties, _),) = drawn
    assert class_names == ["kite"]
    assert properties[2].metadata()["keypoint_names"] == list(KEYPOINTS)


def test_converted_files_keep_metadata(checkpoint, tmp_path, load_script):
    main = convert_cli.main
    config = tmp_path / "small.yaml"
    config.write_text(load_config(KITES, SMALL).dump())
    theirs, ours = (str(tmp_path / name) for name in ("theirs.pth", "ours.pth"))
    assert main([checkpoint, theirs, "--config", str(config)]) == 0
    assert main([theirs, ours, "--config", str(config)]) == 0
    for path in (theirs, ours):
        predictor = Predictor.from_config(load_config(KITES, ["MODEL.WEIGHTS", path, *NAMELESS]))
        assert (predictor.class_names, predictor.category_ids) == (["kite"], [7])


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {},
        {"thing_classes": ["a"], "category_ids": [1, 2]},
        {"thing_classes": [1, 2, 3], "category_ids": [1, 1, 2]},
        {"thing_classes": "abc", "category_ids": [[1], [2], [3]]},
    ],
)
def test_invalid_checkpoint_metadata_are_ignored(kept):
    metadata = from_plain(kept, 3)
    assert metadata.get("thing_classes") is metadata.get("thing_dataset_id_to_contiguous_id") is None


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"keypoint_names": ["a"]},
        {"keypoint_names": 5},
        {"keypoint_names": [1, 2]},
        {"keypoint_names": ["a", "a"]},
        {"keypoint_names": ["a", "b"], "keypoint_flip_map": [("a", "c")]},
        {"keypoint_names": ["a", "b"], "keypoint_connection_rules": [3]},
        {"keypoint_names": ["a", "b"], "keypoint_flip_map": [([], [])]},
    ],
)
def test_invalid_keypoint_metadata_are_ignored(kept):
    prop = KeypointProperty(schema=KeypointSchema((0, 1)))
    prop.use_metadata(kept)
    assert prop.schema == KeypointSchema((0, 1))


class Odd(Property):
    name = "odd"

    def metadata(self):
        return {"odd": {"tensor": torch.zeros(1)}}


def test_unserializable_metadata_raise():
    with pytest.raises(
        ValueError, match="must be None, bool, int, float, str, or lists, tuples and dicts of them: change odd"
    ):
        CenterNetCheckpointer(stub_model(), metadata=to_plain(Metadata(), [BoxProperty(), Odd()]))


def test_to_plain_and_from_plain_are_inverse():
    cfg = load_config("COCO-Detection/centernet_R_18_1x.yaml")
    kept = to_plain(dataset_metadata(cfg), [])
    assert from_plain(kept, 80).thing_classes == dataset_metadata(cfg).thing_classes
    ids = from_plain(kept, 80).thing_dataset_id_to_contiguous_id
    assert ids == dataset_metadata(cfg).thing_dataset_id_to_contiguous_id
