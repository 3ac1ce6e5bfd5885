import cv2
import numpy as np
import torch
from detectron2.structures import BoxMode

from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.imaging.geometry import Geometry, affine_matrix, invert_affine
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling.heads import CenterProperty, KeypointHead, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.points import HALF_PIXEL, DenseTarget
from support.models import stub_heads, stub_model

from . import synthetic
from .comparison import checks
from .losses import compare_gradient, compare_loss, sparse_target
from .targets import COCO_PIXELS, compare_pixels, instances_of

# Left-right pairs of the COCO keypoints, all except the nose.
PAIRS = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]
NAMES = {"heatmap": "hm", "size": "wh", "offset": "reg"}
JOINT_NAMES = {"keypoint_displacement": "hps", "keypoint_heatmap": "hm_hp", "keypoint_offset": "hp_offset"}


def keypoint_property(joints):
    names = [str(index) for index in range(joints)]
    pairs = [(str(a), str(b)) for a, b in PAIRS if b < joints]
    return KeypointProperty(schema=KeypointSchema.from_names(names, pairs))


def pose_heads(joints, offset=True, **options):
    common = {"in_channels": 4, "head_conv": 0}
    return {
        **stub_heads(num_classes=1, offset=offset),
        "KeypointHead": KeypointHead(prop=keypoint_property(joints), **{"constant_score": True, **options}, **common),
    }


def build_model(maps, **options):
    """Build a model with the heads of maps with names of the reference implementation."""
    joints = maps["hps"].shape[1] // 2
    joint_offset = {"offset": "hp_offset" in maps}
    common = {"in_channels": 4, "head_conv": 0}
    heads = stub_heads(num_classes=1, offset="reg" in maps, box={"clip": False})
    heads["KeypointHead"] = KeypointHead(
        prop=keypoint_property(joints), refine="hm_hp" in maps, constant_score=True, **joint_offset, **common
    )
    return stub_model(heads, **options)


def read(path):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}


def rows_of(fields):
    """Return rows of the reference implementation: box, score, joints, class."""
    joints = fields["keypoints"][..., :2].flatten(2)
    return torch.cat([fields["boxes"], fields["scores"][..., None], joints, fields["classes"][..., None]], dim=2)


@checks("decode/multi_pose_*")
def check_decode(path, comparison, tmp_path):
    data = read(path)
    model = build_model(data, max_detections=int(data["K"]))
    maps = {ours: data.get(original) for ours, original in {**NAMES, **JOINT_NAMES}.items()}
    fields = model.decode(maps)
    comparison.close("dets", rows_of(fields), data.get("dets"), atol=1e-4)
    if "snapped" in data:
        without = {name: array for name, array in data.items() if name not in ("hm_hp", "hp_offset")}
        regressed = build_model(without, max_detections=int(data["K"])).decode(maps)["keypoints"]
        moved = (fields["keypoints"] - regressed).abs().amax(dim=3) > 0
        comparison.equal("snapped", moved, data["snapped"].bool())


@checks("decode/fliptest_multi_pose*")
def check_flip(path, comparison, tmp_path):
    data = read(path)
    model = build_model(data, max_detections=int(data["K"]))
    maps = {ours: data[original] for ours, original in {**NAMES, **JOINT_NAMES}.items() if original in data}
    averaged = {}
    for head in model.heads.values():
        for name, back in head.unflip({name: tensor[1:] for name, tensor in maps.items()}).items():
            if name in maps:
                averaged[name] = maps[name][:1] if back is None else (maps[name][:1] + back) / 2
    for ours, original in {**NAMES, **JOINT_NAMES}.items():
        comparison.close(f"out_{original}", averaged.get(ours, 0), data.get(f"out_{original}"), atol=1e-5)
    comparison.close("dets", rows_of(model.decode(averaged)), data.get("dets"), atol=1e-4)


@checks("loss/full_multi_pose*")
def check_loss(path, comparison, tmp_path):
    data = read(path)
    suffixes = [name.removeprefix("out_hps") for name in data if name.startswith("out_hps")]
    names = {**NAMES, **JOINT_NAMES}
    names = {ours: original for ours, original in names.items() if f"out_{original}{suffixes[0]}" in data}
    outputs = {
        f"{short}{s}": data[f"out_{short}{s}"].clone().requires_grad_() for s in suffixes for short in names.values()
    }
    stacks = [{short: outputs[f"{short}{s}"] for short in names.values()} for s in suffixes]
    model = build_model(stacks[0])
    width = data["batch_hm"].shape[3]
    index = data["batch_ind"]
    targets = {
        "heatmap": DenseTarget(data["batch_hm"]),
        "size": sparse_target(index, data["batch_wh"], data["batch_reg_mask"], width),
        "keypoint_displacement": sparse_target(index, data["batch_hps"], data["batch_hps_mask"], width),
    }
    if "offset" in names:
        targets["offset"] = sparse_target(index, data["batch_reg"], data["batch_reg_mask"], width)
    if "keypoint_heatmap" in names:
        targets["keypoint_heatmap"] = DenseTarget(data["batch_hm_hp"])
    if "keypoint_offset" in names:
        targets["keypoint_offset"] = sparse_target(
            data["batch_hp_ind"], data["batch_hp_offset"], data["batch_hp_mask"], width
        )
    losses = {}
    for stack in stacks:
        maps = {ours: stack[short] for ours, short in names.items()}
        for name, loss in ((n, x) for head in model.heads.values() for n, x in head.losses(maps, targets).items()):
            losses[name] = losses.get(name, 0) + loss / len(stacks)
    total = sum(losses.values())
    compare_loss(comparison, "stat_loss", total, data.get("stat_loss"))
    for ours, recorded, factor in (
        ("loss_heatmap", "hm", 1),
        ("loss_size", "wh", 0.1),
        ("loss_offset", "off", 1),
        ("loss_keypoint_displacement", "hp", 1),
        ("loss_keypoint_heatmap", "hm_hp", 1),
        ("loss_keypoint_offset", "hp_offset", 1),
    ):
        compare_loss(
            comparison,
            f"stat_{recorded}_loss",
            losses.get(ours, torch.zeros(())) / factor,
            data.get(f"stat_{recorded}_loss"),
        )
    for name, gradient in zip(outputs, torch.autograd.grad(total, list(outputs.values())), strict=True):
        compare_gradient(comparison, f"grad_{name}", gradient, data.get(f"grad_{name}"))


@checks("targets/multi_pose_*")
def check_targets(path, comparison, tmp_path):
    data = dict(np.load(path))
    joints = data["ann_keypoints"].shape[1] // 3
    annotations = [
        {
            "bbox": box.tolist(),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 0,
            # Half-pixel shift of Detectron2.
            "keypoints": (points.reshape(-1, 3) + np.array([HALF_PIXEL, HALF_PIXEL, 0])).flatten().tolist(),
        }
        for box, points in zip(data["ann_bbox_xywh"], data["ann_keypoints"].astype(np.float64), strict=True)
    ][: len(data["t_ind"])]
    model = stub_model(pose_heads(joints), **COCO_PIXELS)
    height, width = (int(size) for size in data["image_hw"])
    output = tuple(int(size) for size in data["input_hw"])
    degrees = float(data.get("rot_deg", 0))
    window = affine_matrix(data["c"], data["s"][0], output, degrees)
    upright = affine_matrix(data["c"], data["s"][0], output)
    affine = AffineTransform(window, (height, width), output, upright if degrees else None)
    transforms = [MirrorTransform(width)] * bool(data["flipped"]) + [affine]

    box_transforms = [*transforms[:-1], AffineTransform(upright, (height, width), output)]
    instances = instances_of(annotations, box_transforms, output)
    prop = keypoint_property(joints)
    for name, value in prop.annotate({"annotations": annotations}, transforms, output).items():
        instances.set(name, value)
    if degrees:
        instances.gt_weight = torch.zeros(len(instances))
        instances.gt_blind = torch.ones(len(instances), dtype=torch.bool)
    compare_pose_targets(comparison, "", model, instances, data)

    file_name = str(tmp_path / "image.png")
    cv2.imwrite(file_name, synthetic.image(height, width, int(data["image_k"])))
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=transforms,
        image_format="BGR",
        num_classes=1,
        properties=[CenterProperty(), prop],
    )
    sample = mapper({"file_name": file_name, "height": height, "width": width, "annotations": annotations})
    compare_pose_targets(comparison, "pipeline ", model, sample["instances"], data)
    if "input" in data:
        model.backbone.divisibility = 1
        ours = model.preprocessor.training_batch([sample]).tensor[0].numpy()
        compare_pixels(comparison, "input", ours, data["input"], COCO_PIXELS)


def compare_pose_targets(comparison, prefix, model, instances, data):
    map_size = tuple(int(size) // model.stride for size in data["input_hw"])
    points = model.build_points([instances], map_size)
    targets = {name: t for head in model.heads.values() for name, t in head.targets([instances], points).items()}
    used = points.valid
    comparison.close(f"{prefix}t_hm", targets["heatmap"].value[0], data.get("t_hm"), atol=1e-6)
    comparison.close(f"{prefix}t_hm_hp", targets["keypoint_heatmap"].value[0], data.get("t_hm_hp"), atol=1e-6)

    index = points.cells[:, 1] * map_size[1] + points.cells[:, 0]
    displacement, offset = targets["keypoint_displacement"], targets["keypoint_offset"]
    # In the reference implementation, rows of objects without area are empty, rows of people without joints are not.
    filled = (data["t_wh"] > 0).all(axis=1)
    recorded = dict(data)
    if data.get("rot_deg"):  # The reference implementation sets values of rotated people, but masks them.
        recorded["t_hps"] = np.where(filled[:, None], data["t_hps"] * data["t_hps_mask"], data["t_hps"])
    for name, value in {
        "t_ind": index,
        "t_reg_mask": points.weight,
        "t_wh": targets["size"].value,
        "t_reg": targets["offset"].value,
        "t_hps": displacement.value * displacement.weight,
        "t_hps_mask": displacement.weight,
    }.items():
        compare_filled(comparison, prefix + name, value[used], recorded.get(name), filled)

    joints = instances.gt_keypoints.shape[1]
    chosen = used.repeat_interleave(joints)
    known = offset.weight[chosen, :1] > 0
    joint_index = offset.cells[chosen, 1] * map_size[1] + offset.cells[chosen, 0]
    filled = filled.repeat(joints)
    for name, value in {
        "t_hp_mask": known[:, 0],
        "t_hp_ind": joint_index * known[:, 0],
        "t_hp_offset": offset.value[chosen] * known,
    }.items():
        compare_filled(comparison, prefix + name, value, data.get(name), filled)
    compare_ground_truth(comparison, prefix, points, instances.gt_keypoints / model.stride, data.get("gt_det"))


def compare_filled(comparison, name, ours, recorded, filled):
    if recorded is not None:
        comparison.close(name, ours.double(), recorded[filled], atol=1e-5)
        comparison.equal(f"{name} (empty rows)", recorded[~filled], np.zeros_like(recorded[~filled]))


def compare_ground_truth(comparison, prefix, points, keypoints, recorded):
    if recorded is None:
        return
    used = points.valid
    half, centers = (points.boxes[used, 2:] - points.boxes[used, :2]) / 2, points.centers[used]
    rows = torch.cat([centers - half, centers + half, torch.ones(len(half), 1)], dim=1)
    comparison.close(f"{prefix}gt_det boxes", rows, recorded[:, :5], atol=1e-4)
    # Positions of unlabeled joints are undefined; the reference implementation does not reset them.
    labeled = keypoints[used][..., 2:] > 0
    joints = recorded[:, 5:-1].reshape(len(rows), -1, 2)
    ours = torch.where(labeled, keypoints[used][..., :2], torch.from_numpy(joints))
    comparison.close(f"{prefix}gt_det joints", ours, joints, atol=1e-4)
    comparison.close(f"{prefix}gt_det class", points.classes[used], recorded[:, -1])


@checks("post/multi_pose_*")
def check_post(path, comparison, tmp_path):
    data = dict(np.load(path))
    width, height = (int(size) for size in data["out_wh"])
    to_image = invert_affine(affine_matrix(data["c"], data["s"][0], (height, width)))
    dets = torch.from_numpy(data["dets"][0])
    joints = dets[:, 5:-1].unflatten(1, (-1, 2))
    fields = {
        "boxes": dets[:, :4],
        "scores": dets[:, 4],
        "keypoints": torch.cat([joints, torch.ones_like(joints[..., :1])], dim=2),
    }
    heads = pose_heads(joints.shape[1])
    heads["BoxHead"].clip = False
    for name, matrix in (("post", to_image), ("post_scaled", to_image / float(data.get("test_scale", 1)))):
        geometry = Geometry((1, 1), (1, 1), torch.from_numpy(matrix))
        boxes = heads["BoxHead"].to_image(fields, geometry)["pred_boxes"]
        joints = heads["KeypointHead"].to_image(fields, geometry)["pred_keypoints"][..., :2]
        rows = torch.cat([boxes, fields["scores"][:, None], joints.flatten(1)], dim=1)
        comparison.close(name, rows, data.get(name), atol=1e-3)
