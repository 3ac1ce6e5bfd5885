"""The result of an image does not depend on the others of its batch: every task, with and without augmentation."""

import pytest
import torch

from centernet_d2.modeling import Box3DHead, CenterNetWithTTA, KeypointHead
from centernet_d2.modeling.heads import Box3DProperty, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import pinhole_camera
from support.detections import same_detections
from support.models import stub_heads, stub_model

SCHEMA = KeypointSchema(mirror=(1, 0, 2))
SIZES = [(60, 90), (33, 70), (60, 90), (120, 50), (60, 90)]


def build(task):
    torch.manual_seed(0)
    # Boxes clipped to the same nothing would tie where scales are merged, and any of them may then win.
    heads = stub_heads(box={"clip": False})
    if task == "pose":
        heads["KeypointHead"] = KeypointHead(prop=KeypointProperty(schema=SCHEMA), in_channels=4, head_conv=0)
    if task == "space":
        heads["Box3DHead"] = Box3DHead(prop=Box3DProperty(reference_focal=60.0), in_channels=4, head_conv=0)
    model = stub_model(heads, max_detections=20).eval()
    for branch in (branch for head in heads.values() for stack in head.stacks for branch in stack.values()):
        torch.nn.init.normal_(branch[-1].weight)  # maps that differ from cell to cell
    for name in ("heatmap", "keypoint_heatmap"):
        lower_on_black(model, name)
    return model


@torch.no_grad()
def lower_on_black(model, name):
    """Canvases are full of black cells, whose equal peaks would tie for the last places."""
    maps = model.compute_maps(model.preprocessor.normalize(torch.zeros(1, 3, 64, 64)))[0]
    if name in maps:
        (last,) = (stack[name][-1] for head in model.heads.values() for stack in head.stacks if name in stack)
        last.bias -= maps[name][0, :, 8, 8] + 6


@pytest.mark.parametrize(
    ("task", "scales", "field"),
    [
        *(("boxes", scales, "pred_boxes") for scales in (None, (1.0,), (0.5, 1.5))),
        *(("pose", scales, "pred_keypoints") for scales in (None, (1.0,), (0.5, 1.5))),
        *(("space", scales, "pred_boxes3d") for scales in (None, (1.0,))),
    ],
)
def test_a_batch_gives_what_single_images_give(task, scales, field):
    model = build(task)
    if scales:
        model = CenterNetWithTTA(model=model, scales=scales, batch_size=3)
    inputs = []
    for seed, size in enumerate(SIZES):
        pixels = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        inputs.append({"image": pixels, "camera": pinhole_camera(50.0 + 10 * seed, size)})
    with torch.no_grad():
        for together, single in zip(model(inputs), inputs, strict=True):
            found, alone = together["instances"], model([single])[0]["instances"]
            assert found.has(field)
            assert len(alone) >= 20
            assert same_detections(found, alone)
