"""Evaluation of a tiny Pascal VOC dataset with Detectron2's evaluator."""

import cv2
import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_pascal_voc

from centernet_d2 import load_config
from centernet_d2.engine import Trainer

XML = """<annotation><filename>{0}.jpg</filename><size><width>80</width><height>60</height></size>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object></annotation>"""


@pytest.fixture
def tiny_voc(tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["000001", "000002", "000003"]
    for name in names:
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.jpg"), np.zeros((60, 80, 3), dtype=np.uint8))
        (tmp_path / "Annotations" / f"{name}.xml").write_text(XML.format(name))
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names))
    register_pascal_voc("tiny_voc", str(tmp_path), "test", 2007)
    MetadataCatalog.get("tiny_voc").evaluator_type = "pascal_voc"
    return "tiny_voc"


def test_voc_evaluation_at_fixed_resolution(tiny_voc, arguments, load_script, tmp_path):
    main = load_script("train_net.py").main
    options = {"DATASETS__REGISTER": "[]", "DATASETS__TRAIN": "('tiny_voc',)", "DATASETS__TEST": "('tiny_voc',)"}
    results = main(arguments(MODEL__CENTERNET__NUM_CLASSES=20, MODEL__CENTERNET__TEST_RESOLUTION="fixed", **options))
    assert set(results["bbox"]) == {"AP", "AP50", "AP75"}


def test_unknown_evaluator_type_raises(arguments):
    args = arguments()
    with pytest.raises(ValueError, match="has evaluator_type None, but must have one of coco, pascal_voc, kitti"):
        Trainer.build_evaluator(load_config(args.config_file, args.opts), "unregistered_shapes")
