"""LazyConfigs in configs/lazy, trained and evaluated like lazyconfig_train_net.py of Detectron2."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format

from centernet_d2 import load_config, model_zoo
from centernet_d2.checkpoint import load_file
from centernet_d2.data import CenterNetDatasetMapper, register_datasets
from centernet_d2.data.augmentations import KittiWindow
from centernet_d2.evaluation import KITTIEvaluator
from centernet_d2.modeling import Box3DHead, CenterNet, CenterNetWithTTA, DLABackbone
from centernet_d2.modeling.heads import Box3DProperty
from synthetic.kites import FLIP_MAP, KEYPOINTS, write_kites
from synthetic.shapes import write_shapes

R_18, HOURGLASS = "lazy/centernet_R_18_1x.py", "lazy/centernet_HG_people_small.py"


def evaluate(cfg, model):
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
    print_csv_format(results)
    return results


def train(cfg):
    """Train like lazyconfig_train_net.py in one process; return the last results."""
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = SimpleTrainer(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    results = []
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, lambda: results.append(evaluate(cfg, model)) or results[-1]),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    trainer.train(0, cfg.train.max_iter)
    return results[-1]


def tiny(name, out, dataset, *overrides):
    """Return a config of the model zoo for three iterations on a small dataset."""
    common = [
        f"train.output_dir={out}", "train.max_iter=3", "train.eval_period=0", "train.device=cpu",
        f"dataloader.train.dataset.names=[{dataset}]", f"dataloader.test.dataset.names=[{dataset}]",
        "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
    ]  # fmt: skip
    return LazyConfig.apply_overrides(model_zoo.get_config(name), [*common, *overrides])


def test_train_boxes_with_resnet(tmp_path):
    write_shapes(tmp_path / "shapes", train=4, val=1, size=64)
    register_datasets([("lazy", str(tmp_path / "shapes/annotations/train.json"), str(tmp_path / "shapes/train"))])
    cfg = tiny(R_18, tmp_path / "out", "lazy", "dataloader.num_classes=5", "model.backbone.channels=[16,16,16]")
    cfg.model.heads[0].num_classes = 5
    for head in cfg.model.heads:
        head.in_channels = 16
    cfg.dataloader.train.mapper.augmentations[1].size = [64, 64]
    results = train(cfg)
    assert {"AP", "AP50"} <= set(results["bbox"])
    saved = load_file(tmp_path / "out" / "model_final.pth")
    assert saved["iteration"] == 2
    assert {name.split(".")[1] for name in saved["model"] if name.startswith("heads.")} == {"CenterHead", "BoxHead"}


def test_train_keypoints_with_hourglass(tmp_path):
    write_kites(tmp_path / "kites", images=3)
    register_datasets([("lazy", str(tmp_path / "kites/annotations.json"), str(tmp_path / "kites/images"))])
    cfg = tiny(HOURGLASS, tmp_path / "out", "lazy", "model.fixed_size=[64,64]", "model.backbone.widths=[16,16,16]")
    cfg.model.backbone.counts = [1, 1, 1]
    for head in cfg.model.heads:
        head.in_channels = 16
    kite = {"names": list(KEYPOINTS), "flip_map": [list(pair) for pair in FLIP_MAP]}
    for prop in (cfg.model.heads[2].prop, cfg.dataloader.properties[2]):
        prop.schema.update(kite)
    cfg.dataloader.evaluator.evaluators[0].kpt_oks_sigmas = [0.05] * 4
    results = train(cfg)
    assert {"bbox", "keypoints"} <= set(results)


def test_lazy_config_matches_yaml_config():
    lazy, cfg = (
        model_zoo.get_config(R_18),
        load_config("COCO-Detection/centernet_R_18_1x.yaml", ["MODEL.DEVICE", "cpu"]),
    )
    torch.manual_seed(0)
    from_lazy = instantiate(lazy.model)
    torch.manual_seed(0)
    from_yaml = CenterNet(cfg)
    tensors = [dict(model.named_parameters()) | dict(model.named_buffers()) for model in (from_lazy, from_yaml)]
    assert list(tensors[0]) == list(tensors[1])
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    assert settings(from_lazy) == settings(from_yaml)
    for head, other in zip(from_lazy.heads.values(), from_yaml.heads.values(), strict=True):
        assert settings(head) == settings(other)
    mappers = [instantiate(lazy.dataloader.train.mapper), CenterNetDatasetMapper(cfg, True)]
    steps = [[(type(step), settings(step)) for step in mapper.augmentations.augs] for mapper in mappers]
    assert steps[0] == steps[1]
    solver = cfg.SOLVER
    assert (lazy.optimizer.lr, lazy.dataloader.train.total_batch_size) == (solver.BASE_LR, solver.IMS_PER_BATCH)
    assert lazy.train.max_iter == solver.MAX_ITER
    drops = [milestone / 140 * solver.MAX_ITER for milestone in lazy.lr_multiplier.milestones]
    assert drops == pytest.approx(solver.STEPS)


def settings(module):
    """Return the attributes of an object that are plain values."""
    plain = (bool, int, float, str, tuple, type(None))
    return {name: value for name, value in vars(module).items() if isinstance(value, plain) and name[0] != "_"}


def test_classes_can_be_instantiated_without_config(tmp_path):
    """Instantiate classes that configs/lazy does not use."""
    cfg = model_zoo.get_config(R_18)
    cfg.model.backbone = L(DLABackbone)(channels=[4, 4, 4, 8, 8, 8], tree_depths=[1, 1, 1, 1])
    box3d = L(Box3DHead)(prop=L(Box3DProperty)(reference_focal=700.0), in_channels=4, head_conv=0, stride=4)
    cfg.model.heads = [*cfg.model.heads, box3d]
    for head in cfg.model.heads:
        head.in_channels = 4
    augmented = instantiate(L(CenterNetWithTTA)(model=cfg.model, flip=True, scales=[1.0], batch_size=2)).eval()
    assert augmented.scales == (1.0,)
    with torch.no_grad():
        (result,) = augmented([{"image": torch.zeros(3, 32, 64), "camera": torch.eye(3, 4)}])
    assert len(result["instances"].pred_boxes3d) == len(result["instances"])
    window = instantiate(L(KittiWindow)(size=[32, 64], shift=0.1, scale=0.1, prob=0.5))
    assert window.size == (32, 64)
    MetadataCatalog.get("nowhere").thing_classes = ["Car"]
    evaluator = instantiate(L(KITTIEvaluator)(dataset_name="nowhere", output_dir=str(tmp_path), rules="kit"))
    assert isinstance(evaluator, KITTIEvaluator)


def test_lazy_configs_are_not_loaded_as_yaml(tmp_path):
    with pytest.raises(ValueError, match=r"centernet_R_18_1x.py is a LazyConfig; use a YAML file"):
        load_config(R_18)
    LazyConfig.save(model_zoo.get_config(HOURGLASS), str(tmp_path / "saved.yaml"))
    assert instantiate(LazyConfig.load(str(tmp_path / "saved.yaml")).model).heads["KeypointHead"].schema.names
