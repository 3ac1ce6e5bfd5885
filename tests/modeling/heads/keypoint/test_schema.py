import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from centernet_d2.config.keys import add_centernet_config
from centernet_d2.modeling.heads.keypoint.schema import KeypointSchema, keypoint_schema


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.MODEL.CENTERNET.KEYPOINTS.NAMES = ["nose", "left", "right"]
    cfg.MODEL.CENTERNET.KEYPOINTS.FLIP_MAP = [["left", "right"]]
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    return cfg


def test_names_and_flip_map_define_mirror(cfg):
    assert keypoint_schema(cfg).mirror == (0, 2, 1)
    assert len(keypoint_schema(cfg)) == 3


def test_names_default_to_dataset_metadata(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.NAMES = []
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    assert keypoint_schema(cfg).mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert MetadataCatalog.get("keypoints_coco_2017_train").keypoint_names[0] == "nose"

    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("keypoints_coco_2017_val",)
    assert keypoint_schema(cfg).mirror[1] == 2


def test_without_names_flipping_swaps_nothing(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.NAMES = []
    assert keypoint_schema(cfg).mirror == (0, 1, 2)


def test_datasets_with_different_keypoints_raise(cfg):
    DatasetCatalog.register("other", list)
    MetadataCatalog.get("other").keypoint_names = ["nose", "right", "left"]
    cfg.DATASETS.TEST = ("other",)
    with pytest.raises(ValueError, match="the keypoints of 'other' are nose, right, left, but expected nose, left"):
        keypoint_schema(cfg)


@pytest.mark.parametrize("flip_map", [[["a"]], [["a", "b"], ["b", "c"]], [["a", "a"]]])
def test_flip_map_must_be_disjoint_pairs(flip_map):
    with pytest.raises(ValueError, match="must consist of disjoint pairs of names"):
        KeypointSchema.from_names(["a", "b", "c"], flip_map)
    with pytest.raises(ValueError, match="keypoint names are not unique: a, b, a"):
        KeypointSchema.from_names(["a", "b", "a"], [])


def test_flip_map_with_unknown_keypoint_raises():
    with pytest.raises(ValueError, match="flip map contains tail, but the keypoints are nose, left"):
        KeypointSchema.from_names(["nose", "left"], [("left", "tail")])


def test_number_of_keypoints_must_match_names(cfg):
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 4
    with pytest.raises(ValueError, match="NUM_KEYPOINTS is 4, but the dataset has 3 keypoints: nose, left, right"):
        keypoint_schema(cfg)


def test_skeleton_lines_are_colored():
    schema = KeypointSchema.from_names(["a", "b", "c"], [["a", "b"]], [["a", "b"], ["b", "c"]])
    metadata = schema.metadata()
    assert metadata["keypoint_names"] == ["a", "b", "c"]
    assert metadata["keypoint_flip_map"] == [("a", "b")]
    rules = metadata["keypoint_connection_rules"]
    assert [rule[:2] for rule in rules] == [("a", "b"), ("b", "c")]
    assert rules[0][2] != rules[1][2]
    assert KeypointSchema((0, 1)).metadata() == {}
    for wrong in (["a", "nose"], ["a"]):
        with pytest.raises(ValueError, match=r"the skeleton contains .*, which is not a pair of keypoint names \(a, b"):
            KeypointSchema.from_names(["a", "b", "c"], [], [wrong])


def test_metadata_round_trip(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.SKELETON = [["nose", "left"]]
    DatasetCatalog.register("same", list)
    MetadataCatalog.get("same").set(**keypoint_schema(cfg).metadata())
    expected = keypoint_schema(cfg)
    node = cfg.MODEL.CENTERNET.KEYPOINTS
    node.NAMES, node.FLIP_MAP, node.SKELETON, cfg.DATASETS.TEST = [], [], [], ("same",)
    assert keypoint_schema(cfg) == expected
    assert expected.lines == (("nose", "left"),)
