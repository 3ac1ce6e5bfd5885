"""Small models for each task, and ground truth for all of them."""

import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling import Box3DHead, KeypointHead
from centernet_d2.modeling.heads import Box3DProperty, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import Boxes3D
from support.models import stub_heads, stub_model

JOINTS = 3
COMMON = {"in_channels": 4, "head_conv": 0}
TASKS = ("boxes", "smooth boxes", "pose", "space", "log space", "space by slots")


def task_model(task, **options):
    """Build a CenterNet for a task with fixed weights and classes 0, 1, 2."""
    torch.manual_seed(0)
    slots = {"loss_slots": 2} if task == "space by slots" else {}
    box = {"loss": "smooth_l1"} if task == "smooth boxes" else {}
    heads = stub_heads(box={**box, **slots}, **slots)
    if task == "pose":
        prop = KeypointProperty(schema=KeypointSchema(mirror=(1, 0, 2)))
        heads["KeypointHead"] = KeypointHead(prop=prop, **COMMON)
    if "space" in task:
        depth_loss = "log" if task == "log space" else "l1"
        heads["Box3DHead"] = Box3DHead(prop=Box3DProperty(), depth_loss=depth_loss, **slots, **COMMON)
    return stub_model(heads, **options)


def objects(boxes, size, seed=0):
    """Return ground truth for all tasks: the given XYXY boxes, and random values for all other fields."""
    random = torch.Generator().manual_seed(seed)
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    gt = Instances(size, gt_boxes=Boxes(boxes))
    gt.gt_classes = torch.randint(0, 3, (count,), generator=random)
    joints = (
        boxes[:, None, :2] + torch.rand(count, JOINTS, 2, generator=random) * (boxes[:, 2:] - boxes[:, :2])[:, None]
    )
    gt.gt_keypoints = torch.cat([joints, torch.randint(0, 3, (count, JOINTS, 1), generator=random)], dim=2)
    gt.gt_boxes3d = Boxes3D(1 + torch.rand(count, 7, generator=random))
    gt.gt_depth = 60 * torch.rand(count, generator=random) - 2  # Some objects are behind the camera.
    gt.gt_alpha = 6.28 * torch.rand(count, generator=random) - 3.14
    gt.gt_focal = torch.full((count,), 100.0)
    gt.gt_space, gt.gt_metric = torch.ones(count), torch.ones(count)
    return gt


def random_objects(count, size, seed=0):
    """Return :func:`objects` with random boxes of all sizes."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random).sort(dim=1).values * torch.tensor(size[::-1])
    return objects(corners.flatten(1), size, seed)


def training_input(gt, seed=0):
    """Return a random image with ground truth, in the format of the dataset mapper."""
    pixels = torch.randint(
        0, 256, (3, *gt.image_size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return {"image": pixels, "instances": gt}
