# Small hourglass for boxes and keypoints of COCO people, from scratch: ../Base-HG-small.yaml as a LazyConfig.
from detectron2.config import LazyCall as L
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_FLIP_MAP, COCO_PERSON_KEYPOINT_NAMES

from centernet_d2.data.augmentations import ColorJitter, RandomMirror, ShiftScaleWindow
from centernet_d2.modeling import BoxHead, CenterHead, Hourglass, KeypointHead
from centernet_d2.modeling.heads import BoxProperty, CenterProperty, KeypointProperty, KeypointSchema

from .common.centernet import dataloader, lr_multiplier, model, optimizer, train

_keypoints = L(KeypointProperty)(
    schema=L(KeypointSchema.from_names)(names=COCO_PERSON_KEYPOINT_NAMES, flip_map=COCO_PERSON_KEYPOINT_FLIP_MAP)
)

model.backbone = L(Hourglass)(stacks=1, widths=[64, 64, 96, 128], counts=[1, 1, 1, 2])
model.heads = [
    L(CenterHead)(num_classes=1, in_channels=64, head_conv=64),
    L(BoxHead)(num_classes=1, in_channels=64, head_conv=64),
    L(KeypointHead)(prop=_keypoints, in_channels=64, head_conv=64, stride=4),
]
model.test_resolution = "fixed"
model.fixed_size = [192, 256]

dataloader.num_classes = 1
dataloader.properties = [L(CenterProperty)(), L(BoxProperty)(), _keypoints]
dataloader.train.dataset.names = ["keypoints_coco_2017_train"]
dataloader.train.mapper.augmentations = [
    L(RandomMirror)(),
    L(ShiftScaleWindow)(size="${model.fixed_size}", shift=0.05, scale=0.2),
    L(ColorJitter)(strength=0.2, lighting=0.0),
]
dataloader.train.total_batch_size = 8
dataloader.test.dataset.names = ["keypoints_coco_2017_val"]

optimizer.lr = 1e-3
train.output_dir = "./output/lazy_HG_people_small"
train.max_iter = 2400
train.checkpointer.period = 2400
train.eval_period = 2400
lr_multiplier.milestones = [1800, 2200]
lr_multiplier.num_updates = 2400
