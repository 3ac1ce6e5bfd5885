"""Checks of monocular 3-D boxes; checks of the geometry functions are in boxes3d.py."""

import cv2
import numpy as np
import torch
from detectron2.structures import BoxMode

from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.kitti import CLASSES, EXCLUDED, KITTI_TYPES
from centernet_d2.imaging.geometry import Geometry, affine_matrix, apply_affine, invert_affine
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling.heads import Box3DHead, Box3DProperty
from centernet_d2.modeling.heads.box3d.head import encode_orientation, orientation_bins, raw_to_depth
from centernet_d2.modeling.losses import orientation_loss, regression_loss
from centernet_d2.structures.boxes3d import Boxes3D
from centernet_d2.structures.points import DenseTarget
from support.models import stub_heads, stub_model

from . import synthetic
from .comparison import checks
from .losses import compare_gradient, compare_loss, sparse_target
from .pose import compare_filled, read
from .targets import VOC_PIXELS, compare_pixels, instances_of

# Category ids 1..9 of the reference implementation.
KINDS = ("Pedestrian", "Car", "Cyclist", "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare")
NAMES = {"heatmap": "hm", "size": "wh", "offset": "reg"}
NAMES_3D = {"depth": "dep", "orientation": "rot", "dimensions": "dim"}


def ddd_model(classes=3, slots=50, ignore="center", boxes=True, offset=True, **options):
    common = {"in_channels": 4, "head_conv": 0}
    heads = stub_heads(
        num_classes=classes,
        offset=offset,
        ignore_regions=ignore,
        loss_slots=slots,
        box={"clip": False, "size_as_point": True, "loss_slots": slots},
    )
    if not boxes:
        del heads["BoxHead"]
    heads["Box3DHead"] = Box3DHead(loss_slots=slots, **common)
    return stub_model(heads, radius_round_up=False, **options)


@checks("decode/ddd_*")
def check_decode(path, comparison, tmp_path):
    data = read(path)
    model = ddd_model(len(data["hm"][0]), boxes="wh" in data, offset="reg" in data, max_detections=int(data["K"]))
    maps = {ours: data.get(original) for ours, original in {**NAMES, **NAMES_3D}.items()}
    fields = model.decode(maps)
    columns = [fields["centers"], fields["scores"][..., None], fields["orientation"], fields["depth"][..., None]]
    columns.append(fields["dimensions"])
    if "wh" in data:
        columns.append(fields["boxes"][..., 2:] - fields["boxes"][..., :2])
    columns.append(fields["classes"][..., None])
    comparison.close("dets", torch.cat(columns, dim=2), data.get("dets"), atol=1e-4)


@checks("decode/depth_transform*")
def check_depth(path, comparison, tmp_path):
    data = read(path)
    # Relative tolerance, because a float32 sigmoid has few significant digits for large depths.
    comparison.close("depth", raw_to_depth(data["raw"]), data.get("depth"), atol=1e-4, rtol=1e-5)
    head = Box3DHead(in_channels=4, head_conv=0)
    maps = {name: data["raw"].reshape(1, 1, 1, -1) for name in head.maps}
    activated = head.activate(maps)
    comparison.close("depth map", activated["depth"].flatten(), data.get("depth"), atol=1e-4, rtol=1e-5)


@checks("loss/binrot*")
def check_orientation_loss(path, comparison, tmp_path):
    data = read(path)
    output = data["output"].clone().requires_grad_()
    encoded = encode_orientation(data["rotbin"].float(), data["rotres"].float())
    target = sparse_target(data["ind"], encoded, data["mask"], output.shape[3])
    loss = orientation_loss(target.gather(output), target.value, target.weight[:, 0], data["ind"].numel())
    (gradient,) = torch.autograd.grad(loss, output)
    compare_loss(comparison, "loss", loss, data.get("loss"))
    compare_gradient(comparison, "grad", gradient, data.get("grad"))
    if "alpha" in data:
        known = data["mask"].bool()
        for name, ours in zip(("rotbin", "rotres"), orientation_bins(data["alpha"][known]), strict=True):
            comparison.close(name, ours, data[name][known], atol=1e-5)


@checks("loss/depth_l1*")
def check_depth_loss(path, comparison, tmp_path):
    data = read(path)
    raw = data["raw"].clone().requires_grad_()
    target = sparse_target(data["ind"], data["target"], data["mask"], raw.shape[3])
    slots = data["ind"].numel()
    loss = regression_loss(raw_to_depth(target.gather(raw)), target.value, target.weight, slots=slots)
    (gradient,) = torch.autograd.grad(loss, raw)
    compare_loss(comparison, "loss", loss, data.get("loss"))
    compare_gradient(comparison, "grad_raw", gradient, data.get("grad_raw"))


@checks("loss/full_ddd*")
def check_loss(path, comparison, tmp_path):
    data = read(path)
    names = {ours: original for ours, original in {**NAMES, **NAMES_3D}.items() if f"out_{original}" in data}
    index, width = data["batch_ind"], data["batch_hm"].shape[3]
    model = ddd_model(data["batch_hm"].shape[1], index.shape[1], boxes="size" in names, offset="offset" in names)
    orientation = encode_orientation(data["batch_rotbin"].float(), data["batch_rotres"].float())
    targets = {"heatmap": DenseTarget(data["batch_hm"])}
    for name, value, mask in (
        ("size", data.get("batch_wh"), "rot_mask"),
        ("offset", data.get("batch_reg"), "rot_mask"),
        ("depth", data["batch_dep"], "reg_mask"),
        ("dimensions", data["batch_dim"], "reg_mask"),
        ("orientation", orientation, "rot_mask"),
    ):
        if value is not None:
            targets[name] = sparse_target(index, value, data[f"batch_{mask}"], width)
    outputs = {original: data[f"out_{original}"].clone().requires_grad_() for original in names.values()}
    maps = {ours: outputs[original] for ours, original in names.items()}
    losses = {name: x for head in model.heads.values() for name, x in head.losses(maps, targets).items()}
    total = sum(losses.values())
    compare_loss(comparison, "stat_loss", total, data.get("stat_loss"))
    for ours, recorded, factor in (
        ("loss_heatmap", "hm", 1),
        ("loss_size", "wh", 0.1),
        ("loss_offset", "off", 1),
        ("loss_depth", "dep", 1),
        ("loss_dimensions", "dim", 1),
        ("loss_orientation", "rot", 1),
    ):
        ours = losses.get(ours, torch.zeros(())) / factor
        compare_loss(comparison, f"stat_{recorded}_loss", ours, data.get(f"stat_{recorded}_loss"))
    for name, gradient in zip(outputs, torch.autograd.grad(total, list(outputs.values())), strict=True):
        compare_gradient(comparison, f"grad_{name}", gradient, data.get(f"grad_{name}"))


def annotations_of(data):
    """Convert recorded objects to the format of :func:`load_kitti_3d`. Only the depth of locations is recorded."""
    annotations = []
    for index, number in enumerate(data["ann_category_id"]):
        kind = KINDS[int(number) - 1]
        x, y, width, height = data["ann_bbox_xywh"][index]
        # The reference implementation rounds corners to float32 before it transforms them.
        corners = np.array([x, y, x + width, y + height], dtype=np.float32)
        annotations.append(
            {
                "bbox": corners.tolist(),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": KITTI_TYPES[kind],
                "ignore": kind not in CLASSES,
                "alpha": float(data["ann_alpha"][index]),
                "depth": float(data["ann_depth"][index]),
                "dimensions": data["ann_dim"][index].tolist(),
                "location": [0.0, 0.0, float(data["ann_depth"][index])],
                "rotation_y": float(data["ann_rotation_y"][index]),
            }
        )
    return annotations[: len(data["t_ind"])]


@checks("targets/ddd_*")
def check_targets(path, comparison, tmp_path):
    data = dict(np.load(path))
    annotations = annotations_of(data)
    model = ddd_model(len(data["t_hm"]), ignore="box" if "rect_mask" in path.name else "center", **VOC_PIXELS)
    height, width = (int(size) for size in data["image_hw"])
    output = tuple(int(size) for size in data["input_hw"])
    window = affine_matrix(data["c"], data["s"][0], output)
    jittered = not np.allclose(data["s"][0], width)
    affine = AffineTransform(window, (height, width), output, jittered=jittered)
    transforms = [MirrorTransform(width)] * bool(data["flipped"]) + [affine]
    prop = Box3DProperty(augmented_depth="mask")
    # Targets require a camera but do not depend on it.
    camera = data.get("calib", np.eye(3, 4))

    known = [annotation for annotation in annotations if annotation["category_id"] != EXCLUDED]
    instances = instances_of(known, transforms, output)
    instances.gt_ignore = torch.tensor([annotation["ignore"] for annotation in known])
    for name, value in prop.annotate({"annotations": known, "camera": camera}, transforms, output).items():
        instances.set(name, value)
    compare_targets_3d(comparison, "", model, instances, data)

    file_name = str(tmp_path / "image.png")
    cv2.imwrite(file_name, synthetic.image(height, width, int(data["image_k"])))
    mapper = CenterNetDatasetMapper(
        True, augmentations=transforms, image_format="BGR", num_classes=3, properties=[prop]
    )
    record = {"file_name": file_name, "height": height, "width": width, "camera": camera}
    sample = mapper({**record, "annotations": annotations})
    compare_targets_3d(comparison, "pipeline ", model, sample["instances"], data)
    if "input" in data:
        model.backbone.divisibility = 1
        ours = model.preprocessor.training_batch([sample]).tensor[0].numpy()
        compare_pixels(comparison, "input", ours, data["input"], VOC_PIXELS)


def compare_targets_3d(comparison, prefix, model, instances, data):
    map_size = tuple(int(size) // model.stride for size in data["input_hw"])
    points = model.build_points([instances], map_size)
    targets = {name: t for head in model.heads.values() for name, t in head.targets([instances], points).items()}
    comparison.close(f"{prefix}t_hm", targets["heatmap"].value[0], data.get("t_hm"), atol=1e-6)
    used = points.valid & ~points.ignore
    # The reference implementation has an empty row for ignored regions and objects without area.
    filled = data["t_rot_mask"] > 0 if "t_rot_mask" in data else (data["t_wh"] > 0).all(axis=1)
    orientation = targets["orientation"]
    bins, residual = orientation_bins(instances.gt_alpha)
    comparison.equal(f"{prefix}orientation", orientation.value, encode_orientation(bins, residual))
    depth, dimensions = targets["depth"], targets["dimensions"]
    for name, value in {
        "t_ind": points.cells[:, 1] * map_size[1] + points.cells[:, 0],
        "t_rot_mask": orientation.weight[:, 0],
        "t_reg_mask": depth.weight[:, 0],
        "t_wh": targets["size"].value,
        "t_reg": targets["offset"].value,
        "t_dep": depth.value,
        "t_dim": dimensions.value,
        "t_rotbin": bins,
        "t_rotres": residual,
    }.items():
        compare_filled(comparison, prefix + name, value[used], data.get(name), filled)
    for name in ("size", "offset", "orientation"):
        comparison.equal(f"{prefix}weight of {name}", targets[name].weight[:, 0], points.weight)
    comparison.equal(f"{prefix}weight of dimensions", dimensions.weight[:, :1], depth.weight)
    vector = orientation.value.unflatten(1, (2, 4)).clone()
    vector[..., 0] = 0  # The reference implementation does not set the logits of "outside".
    size = targets["size"].value
    columns = [points.centers, torch.ones(len(size), 1), vector.flatten(1), depth.value, dimensions.value, size]
    rows = torch.cat([*columns, points.classes[:, None]], dim=1)[used]
    comparison.close(f"{prefix}gt_det", rows, data.get("gt_det"), atol=1e-4)


@checks("post/ddd_fixres*", "post/ddd_no_wh*", "post/ddd_keep*")
def check_post(path, comparison, tmp_path):
    data = dict(np.load(path))
    width, height = (int(size) for size in data["out_wh"])
    to_image = torch.from_numpy(invert_affine(affine_matrix(data["c"], data["s"][0], (height, width))))
    dets = torch.from_numpy(data["dets"][0])
    dets = dets[dets[:, -1].argsort(stable=True)]
    with_boxes = dets.shape[1] == 18
    fields = {
        "centers": dets[:, :2],
        "scores": dets[:, 2],
        "orientation": dets[:, 3:11],
        "depth": dets[:, 11],
        "dimensions": dets[:, 12:15],
        "classes": dets[:, -1].long(),
    }
    rest = dets[:, -1:] + 1
    if with_boxes:
        half = dets[:, 15:17] / 2
        fields["boxes"] = torch.cat([dets[:, :2] - half, dets[:, :2] + half], dim=1)
    model = ddd_model(boxes=with_boxes, score_threshold=0.2)
    geometry = Geometry((1, 1), (1, 1), to_image, {"camera": torch.from_numpy(data["calib"]).double()})
    output = {name: x for head in model.heads.values() for name, x in head.to_image(fields, geometry).items()}
    centers, alpha, boxes3d = (
        apply_affine(dets[:, :2], to_image),
        output["pred_alpha"][:, None],
        Boxes3D(output["pred_boxes3d"]),
    )
    score = fields["scores"][:, None]
    columns = [centers, score, alpha, fields["depth"][:, None], boxes3d.dimensions]
    if with_boxes:
        boxes = output["pred_boxes"]
        columns.append(boxes[:, 2:] - boxes[:, :2])
    comparison.close("post2d", torch.cat([*columns, rest], dim=1), data.get("post2d"), atol=1e-3)
    comparison.close("post2d alpha", alpha[:, 0], data["post2d"][:, 3] if "post2d" in data else None, atol=1e-5)
    if not with_boxes:
        return
    pose = [boxes3d.dimensions, boxes3d.location, boxes3d.rotation_y[:, None]]
    rows = torch.cat([alpha, boxes, *pose, score, rest], dim=1)
    for name, ours in (("post3d", rows), ("merged", rows[fields["scores"] > model.score_threshold])):
        recorded = data.get(name)
        comparison.close(name, ours, recorded, atol=1e-3)
        if recorded is not None:
            comparison.close(f"{name} angles", ours[:, [0, 11]], recorded[:, [0, 11]], atol=1e-5)
