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


def test_names_and_pairs_give_the_mirror(cfg):
    assert keypoint_schema(cfg).mirror == (0, 2, 1)
    assert len(keypoint_schema(cfg)) == 3


def test_without_names_the_metadata_tells(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.NAMES = []
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    assert keypoint_schema(cfg).mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert MetadataCatalog.get("keypoints_coco_2017_train").keypoint_names[0] == "nose"

    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("keypoints_coco_2017_val",)
    assert keypoint_schema(cfg).mirror[1] == 2


def test_without_any_names_a_mirror_swaps_nothing(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.NAMES = []
    assert keypoint_schema(cfg).mirror == (0, 1, 2)


def test_data_sets_with_other_keypoints_are_errors(cfg):
    DatasetCatalog.register("other", list)
    MetadataCatalog.get("other").keypoint_names = ["nose", "right", "left"]
    cfg.DATASETS.TEST = ("other",)
    with pytest.raises(ValueError, match="the keypoints of 'other' are nose, right, left, but others are nose, left"):
        keypoint_schema(cfg)


@pytest.mark.parametrize("flip_map", [[["a"]], [["a", "b"], ["b", "c"]], [["a", "a"]]])
def test_flip_maps_are_pairs_that_share_no_name(flip_map):
    with pytest.raises(ValueError, match="not made of pairs that share no name"):
        KeypointSchema.from_names(["a", "b", "c"], flip_map)
    with pytest.raises(ValueError, match="keypoints share a name: a, b, a"):
        KeypointSchema.from_names(["a", "b", "a"], [])


def test_flip_maps_of_unknown_keypoints_are_errors():
    with pytest.raises(ValueError, match="flip map names tail, but the keypoints are nose, left"):
        KeypointSchema.from_names(["nose", "left"], [("left", "tail")])


def test_the_number_of_keypoints_must_be_that_of_the_names(cfg):
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 4
    with pytest.raises(ValueError, match="NUM_KEYPOINTS is 4, but the data set has 3 keypoints: nose, left, right"):
        keypoint_schema(cfg)


def test_a_skeleton_becomes_colored_lines():
    schema = KeypointSchema.from_names(["a", "b", "c"], [["a", "b"]], [["a", "b"], ["b", "c"]])
    metadata = schema.metadata()
    assert metadata["keypoint_names"] == ["a", "b", "c"]
    assert metadata["keypoint_flip_map"] == [("a", "b")]
    rules = metadata["keypoint_connection_rules"]
    assert [rule[:2] for rule in rules] == [("a", "b"), ("b", "c")]
    assert rules[0][2] != rules[1][2]
    assert KeypointSchema((0, 1)).metadata() == {}
    for wrong in (["a", "nose"], ["a"]):
        with pytest.raises(ValueError, match=r"the skeleton has .*, which is not a pair of keypoint names \(a, b"):
            KeypointSchema.from_names(["a", "b", "c"], [], [wrong])


def test_names_and_lines_are_those_of_the_metadata_that_they_become(cfg):
    cfg.MODEL.CENTERNET.KEYPOINTS.SKELETON = [["nose", "left"]]
    DatasetCatalog.register("same", list)
    MetadataCatalog.get("same").set(**keypoint_schema(cfg).metadata())
    expected = keypoint_schema(cfg)
    node = cfg.MODEL.CENTERNET.KEYPOINTS
    node.NAMES, node.FLIP_MAP, node.SKELETON, cfg.DATASETS.TEST = [], [], [], ("same",)
    assert keypoint_schema(cfg) == expected
    assert expected.lines == (("nose", "left"),)
