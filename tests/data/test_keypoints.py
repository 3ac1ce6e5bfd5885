import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from centernet_d2.config import add_centernet_config
from centernet_d2.data.keypoints import KeypointSchema, check_keypoints, has_keypoints, keypoint_schema


@pytest.fixture
def cfg():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.DATASETS.KEYPOINT_NAMES = ["nose", "left", "right"]
    cfg.DATASETS.KEYPOINT_FLIP_MAP = [["left", "right"]]
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * 3
    return cfg


def image(*keypoints):
    return [{"file_name": "a.png", "annotations": [{"bbox": [0, 0, 1, 1]}, *({"keypoints": k} for k in keypoints)]}]


def test_names_and_pairs_give_the_mirror(cfg):
    assert keypoint_schema(cfg).mirror == (0, 2, 1)
    assert len(keypoint_schema(cfg)) == 3


def test_without_names_the_metadata_tells(cfg):
    cfg.DATASETS.KEYPOINT_NAMES = []
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    assert keypoint_schema(cfg).mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert MetadataCatalog.get("keypoints_coco_2017_train").keypoint_names[0] == "nose"

    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("keypoints_coco_2017_val",)
    assert keypoint_schema(cfg).mirror[1] == 2


def test_without_any_names_a_mirror_swaps_nothing(cfg):
    cfg.DATASETS.KEYPOINT_NAMES = []
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


def test_good_data_pass(cfg):
    check_keypoints(cfg, image([1, 1, 2, 0, 0, 0, 5, 5, 1], None, [], np.array([1.5, 1, 2, 0, 0, 0, 5, 5, 1])))


def test_null_and_empty_are_no_keypoints():
    assert [has_keypoints(x) for x in ({}, {"keypoints": None}, {"keypoints": []}, {"keypoints": [0, 0, 0]})] == [
        False, False, False, True
    ]  # fmt: skip


@pytest.mark.parametrize("sigmas", [[0.05], []])
def test_sigmas_must_fit(cfg, sigmas):
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    with pytest.raises(ValueError, match="TEST.KEYPOINT_OKS_SIGMAS"):
        check_keypoints(cfg, image())


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        ([1, 1, 2, 1, 1, 2], r"a\.png, annotation 1 of this image: an annotation has 2 keypoints, but .* is 3"),
        ([1, 1, 2, 0, 0, 3, 5, 5, 1], r"a\.png, annotation 1 of this image: a visibility is not 0, 1 or 2"),
        ([1, 1, 2, 0, 0, -1, 5, 5, 1], "a visibility is not 0, 1 or 2"),
        ([1, 1, float("nan"), 0, 0, 0, 5, 5, 1], "a visibility is not 0, 1 or 2"),
        ([1, float("nan"), 2, 0, 0, 0, 5, 5, 1], r"a\.png, annotation 1 of this image: a coordinate of the keypoints"),
        ([1, 1, 2, float("inf"), 0, 0, 5, 5, 1], "a coordinate of the keypoints .* is not a finite number of at most"),
        ([1, 1, 2, 0, 0, 0, 1e300, 5, 1], "a coordinate of the keypoints"),
        ([1, 1, 2, 0, 0, 0, "5", 5, 1], "a coordinate of the keypoints"),
        (7, "annotation 1 of this image: "),
    ],
)
def test_wrong_annotations_are_named(cfg, keypoints, message):
    with pytest.raises(ValueError, match=message):
        check_keypoints(cfg, image(keypoints))
