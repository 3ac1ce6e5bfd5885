import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from centernet_d2 import load_config, model_zoo
from centernet_d2.evaluation.build import check_evaluation, main_metric
from conftest import ROOT


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.05], "TEST.KEYPOINT_OKS_SIGMAS has 1 values, but there are 4 keypoints"),
        ([], "TEST.KEYPOINT_OKS_SIGMAS is empty, which selects the sigmas of COCO's 17 keypoints, but there are 4"),
        ([0.05] * 4, None),
    ],
)
def test_sigmas_must_match_the_number_of_keypoints(sigmas, message):
    DatasetCatalog.register("some", list)
    MetadataCatalog.get("some").evaluator_type = "coco"
    cfg = load_config(ROOT / "configs" / "Shapes" / "centernet_HG_kites.yaml", ["TEST.KEYPOINT_OKS_SIGMAS", sigmas])
    if message is None:
        check_evaluation(cfg, "some")
    else:
        with pytest.raises(ValueError, match=message):
            check_evaluation(cfg, "some")
    # Sigmas are required for keypoints only.
    cfg.MODEL.CENTERNET.HEADS = ["CenterHead", "BoxHead"]
    check_evaluation(cfg, "some")


@pytest.mark.parametrize(
    ("config", "kind", "classes", "metric"),
    [
        ("Shapes/centernet_R_18_shapes.yaml", "coco", ["box"], "bbox/AP"),
        ("COCO-Keypoints/centernet_R_18_1x.yaml", "coco", ["person"], "keypoints/AP"),
        ("PascalVOC-Detection/centernet_R_18_384.yaml", "pascal_voc", ["car"], "bbox/AP50"),
        ("KITTI-3D/centernet_3d_R_18.yaml", "kitti", ["Pedestrian", "Car"], "bev/Car_moderate_R40@0.7"),
        ("KITTI-3D/centernet_3d_R_18.yaml", "kitti", ["Cyclist"], "bev/Cyclist_moderate_R40@0.5"),
    ],
)
def test_main_metric_of_every_evaluator_type(config, kind, classes, metric):
    MetadataCatalog.get("mine").set(evaluator_type=kind, thing_classes=classes)
    cfg = load_config(model_zoo.get_config_file(config), ["DATASETS.TEST", ("mine",)])
    assert main_metric(cfg) == metric
    cfg.DATASETS.TEST = ("mine", "other")
    assert main_metric(cfg) == f"mine/{metric}"


def register(name, records):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(evaluator_type="coco", thing_classes=["box"])


def test_images_with_more_objects_than_detections_are_reported(caplog):
    objects = [{"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0}]
    record = {"file_name": "a.png", "image_id": 1, "height": 9, "width": 9}
    register("dense", [{**record, "annotations": objects * count} for count in (100, 540)])
    cfg = load_config(ROOT / "configs" / "Shapes" / "centernet_R_18_shapes.yaml")
    check_evaluation(cfg, "dense")
    assert "1 of 2 images have more than 100 objects, up to 540 (a.png)" in caplog.text
    assert "TEST.DETECTIONS_PER_IMAGE" in caplog.text
    caplog.clear()
    cfg.TEST.DETECTIONS_PER_IMAGE = 600
    check_evaluation(cfg, "dense")
    assert not caplog.text


@pytest.mark.parametrize("key", ["image_id", "height", "width"])
def test_records_without_keys_of_the_evaluation_raise(key):
    record = {"file_name": "a.png", "image_id": 1, "height": 9, "width": 9, "annotations": []}
    del record[key]
    register("short", [record])
    cfg = load_config(ROOT / "configs" / "Shapes" / "centernet_R_18_shapes.yaml")
    with pytest.raises(ValueError, match=rf"short: record 0 \(a.png\) has no {key}, which the evaluation requires"):
        check_evaluation(cfg, "short")
