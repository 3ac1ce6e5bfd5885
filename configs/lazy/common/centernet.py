# Common parts of the LazyConfigs: the reference recipe for COCO with a ResNet-18, equal to Base-CenterNet.yaml and
# COCO-Detection/centernet_R_18_1x.yaml. Names and arguments are the same as in the classes.
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluators
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf

from centernet_d2.data import CenterNetDatasetMapper, load_checked
from centernet_d2.data.augmentations import ColorJitter, RandomMirror, RandomWindow
from centernet_d2.evaluation import ErrorEvaluator, PointCOCOEvaluator
from centernet_d2.modeling import BoxHead, CenterHead, CenterNet, ResNetUpConv
from centernet_d2.modeling.heads import BoxProperty, CenterProperty

model = L(CenterNet)(
    backbone=L(ResNetUpConv)(depth=18, channels=[256, 128, 64], deformable=True),
    heads=[
        L(CenterHead)(num_classes=80, in_channels=64, head_conv=64, init="small", stride=4),
        L(BoxHead)(num_classes="${..0.num_classes}", in_channels=64, head_conv=64, init="small"),
    ],
    pixel_mean=[104.0136177, 114.0342201, 119.91659325],
    pixel_std=[73.6027614, 69.8908182, 70.91507925],
    input_format="BGR",
    max_detections=100,
    score_threshold=0.0,
    test_resolution="keep",
)

dataloader = OmegaConf.create({"num_classes": 80})
# Properties of the heads above: they read, validate and evaluate annotations.
dataloader.properties = [L(CenterProperty)(), L(BoxProperty)()]
dataloader.train = L(build_detection_train_loader)(
    # Validates all annotations and image headers before the training starts.
    dataset=L(load_checked)(names=["coco_2017_train"], num_classes="${...num_classes}", properties="${...properties}"),
    mapper=L(CenterNetDatasetMapper)(
        is_train=True,
        augmentations=[
            L(RandomMirror)(),
            L(RandomWindow)(size=[512, 512], scales=[0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]),
            L(ColorJitter)(strength=0.4, lighting=0.1),
        ],
        defer_color=True,
        image_format="BGR",
        num_classes="${...num_classes}",
        properties="${...properties}",
    ),
    total_batch_size=114,
    aspect_ratio_grouping=False,
    num_workers=4,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(load_checked)(names=["coco_2017_val"], num_classes="${...num_classes}", properties="${...properties}"),
    mapper=L(CenterNetDatasetMapper)(
        is_train=False, augmentations=[], image_format="BGR", num_classes="${...num_classes}"
    ),
    num_workers=4,
)
dataloader.evaluator = L(DatasetEvaluators)(
    evaluators=[
        L(PointCOCOEvaluator)(
            dataset_name="${....test.dataset.names.0}", properties="${....properties}", max_dets_per_image=100
        ),
        L(ErrorEvaluator)(dataset_name="${..0.dataset_name}", properties="${....properties}"),
    ]
)

optimizer = L(torch.optim.Adam)(
    # The training script sets params.model.
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay=0.0, weight_decay_norm=0.0),
    lr=5e-4,
)

# Drops after 90/140 and 120/140 of the training, independent of train.max_iter.
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[90, 120], num_updates=140)

# Options of Detectron2's tools/lazyconfig_train_net.py.
train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 145180,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
    "checkpointer": {"period": 5185, "max_to_keep": 100},
    "eval_period": 20740,
    "log_period": 20,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
}
