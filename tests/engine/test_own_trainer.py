"""Custom trainers: the code in docs/python.md, and class checks of the model."""

import re

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.structures import Boxes, Instances

from centernet_d2 import load_config
from centernet_d2.data import register_from_config
from conftest import ROOT
from support.models import stub_model


@pytest.fixture
def config(arguments):
    def make(**overrides):
        args = arguments(**overrides)
        cfg = load_config(args.config_file, args.opts)
        register_from_config(cfg)
        return cfg

    return make


def test_code_of_docs_python_md_trains_and_evaluates(config, tmp_path):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class MyTrainer" in block)
    names = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    cfg = config(SOLVER__MAX_ITER=2, SOLVER__OPTIMIZER="AdamW")
    trainer = names["MyTrainer"](cfg)
    assert type(trainer.optimizer) is torch.optim.AdamW
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == 2
    assert "AP" in trainer._last_eval_results["bbox"]
    assert (tmp_path / "out" / "inference" / "shapes_val" / "coco_instances_results.json").exists()


def test_unknown_class_from_detectron2_mapper_raises_in_the_first_batch(config):
    cfg = config(
        MODEL__CENTERNET__NUM_CLASSES=1, DATASETS__TEST="()", INPUT__MIN_SIZE_TRAIN="(64,)", SOLVER__IMS_PER_BATCH=6
    )
    trainer = DefaultTrainer(cfg)
    with pytest.raises(ValueError, match=r"train/.*png has an object of class \d, but the model has classes 0..0: set"):
        trainer.train()
    assert trainer.iter == 0


@pytest.mark.parametrize(
    ("classes", "ignore"), [([0, 3], None), ([-1, 0], None), ([-1, -1], [True, False]), ([-2], [True])]
)
def test_model_raises_for_unknown_class(classes, ignore):
    batch = [{"image": torch.zeros(3, 32, 32), "instances": objects(classes, ignore)}]
    wrong = 3 if 3 in classes else min(classes)
    with pytest.raises(ValueError, match=f"an image has an object of class {wrong}, but the model has classes 0..2"):
        stub_model().train()(batch)


def test_ignore_regions_may_apply_to_all_classes():
    batch = [{"image": torch.zeros(3, 32, 32), "instances": objects([-1, 2], [True, False])}]
    batch += [{"image": torch.zeros(3, 32, 32), "instances": objects([])}]
    assert all(loss.isfinite() for loss in stub_model().train()(batch).values())


def objects(classes, ignore=None):
    instances = Instances((32, 32))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20]]).expand(len(classes), 4).clone())
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if ignore is not None:
        instances.gt_ignore = torch.tensor(ignore)
    return instances
