import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.augmentations import EIGENVALUES, EIGENVECTORS, color_jitter, crop_border
from centernet_d2.imaging.geometry import affine_matrix, apply_affine, invert_affine
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling.heatmap import gaussian_profiles, gaussian_radius, paint_max
from support.models import stub_heads, stub_model

from . import synthetic
from .comparison import checks

COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_PIXELS = {
    "pixel_mean": (104.0136177, 114.0342201, 119.91659325),
    "pixel_std": (73.6027614, 69.8908182, 70.91507925),
}
# Constants in RGB order on BGR images, as released (original.md: Pixel statistics).
VOC_PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}


@checks("targets/ctdet_*")
def check_ctdet(path, comparison, tmp_path):
    data = dict(np.load(path))
    is_voc = "voc" in path.name
    annotations = [
        {
            "bbox": box.tolist(),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": int(i) - 1 if is_voc else COCO_IDS.index(i),
        }
        for box, i in zip(data["ann_bbox_xywh"], data["ann_category_id"], strict=True)
    ][: len(data["t_ind"])]
    pixels = VOC_PIXELS if is_voc else COCO_PIXELS
    class_specific = "t_cat_spec_wh" in data
    heads = stub_heads(num_classes=len(data["t_hm"]), box={"class_specific": class_specific})
    model = stub_model(heads, **pixels)
    height, width = (int(size) for size in data["image_hw"])
    output = tuple(int(size) for size in data["input_hw"])
    window = affine_matrix(data["c"], data["s"][0], output)
    transforms = [MirrorTransform(width)] * bool(data["flipped"]) + [AffineTransform(window, (height, width), output)]

    # The same case as functions of the recorded window, ...
    compare_targets(comparison, "", model, instances_of(annotations, transforms, output), data)

    # ... and as an image and a dict on their way through the mapper and the model.
    file_name = str(tmp_path / "image.png")
    cv2.imwrite(file_name, synthetic.image(height, width, int(data["image_k"])))
    mapper = CenterNetDatasetMapper(True, augmentations=transforms, image_format="BGR", num_classes=len(data["t_hm"]))
    sample = mapper({"file_name": file_name, "height": height, "width": width, "annotations": annotations})
    compare_targets(comparison, "pipeline ", model, sample["instances"], data)
    if "input" in data:
        model.backbone.divisibility = 1
        compare_pixels(
            comparison, "input", model.preprocessor.training_batch([sample]).tensor[0].numpy(), data["input"], pixels
        )


def instances_of(annotations, transforms, size):
    """Boxes sent through the transforms corner by corner, without any data loader."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float32).reshape(-1, 4)
    relative = np.array([annotation["bbox_mode"] == BoxMode.XYWH_ABS for annotation in annotations]).reshape(-1, 1)
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2] * relative], axis=1)
    corners = corners.reshape(-1, 2).astype(np.float64)
    for transform in transforms:
        corners = transform.apply_coords(corners)
    corners = corners.reshape(-1, 2, 2)
    instances = Instances(size)
    moved = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    instances.gt_boxes = Boxes(torch.from_numpy(moved).float())
    instances.gt_classes = torch.tensor([annotation["category_id"] for annotation in annotations])
    return instances


def compare_targets(comparison, prefix, model, instances, data):
    map_size = tuple(int(size) // model.stride for size in data["input_hw"])
    points = model.build_points([instances], map_size)
    center, box = (
        model.heads["CenterHead"].targets([instances], points),
        model.heads["BoxHead"].targets([instances], points),
    )
    used = points.valid
    comparison.close(f"{prefix}t_hm", center["heatmap"].value[0], data["t_hm"], atol=1e-6)
    compare_rows(comparison, f"{prefix}t_reg", center["offset"].value[used], data, "t_reg", atol=1e-5)
    index = points.cells[:, 1] * map_size[1] + points.cells[:, 0]
    compare_rows(comparison, f"{prefix}t_ind", index[used], data, "t_ind")
    compare_rows(comparison, f"{prefix}t_reg_mask", points.weight[used], data, "t_reg_mask")
    size = box["size"]
    if "t_cat_spec_wh" in data:
        compare_rows(comparison, f"{prefix}t_cat_spec_wh", size.value[used], data, "t_cat_spec_wh", atol=1e-5)
        compare_rows(comparison, f"{prefix}t_cat_spec_mask", size.weight[used], data, "t_cat_spec_mask")
    else:
        compare_rows(comparison, f"{prefix}t_wh", size.value[used], data, "t_wh", atol=1e-5)
    half = (points.boxes[used, 2:] - points.boxes[used, :2]) / 2
    centers = points.centers[used]
    rows = torch.cat([centers - half, centers + half, torch.ones(len(half), 1), points.classes[used, None]], dim=1)
    if not len(rows):  # Without objects the original keeps a row of zeros.
        rows = torch.zeros(len(data.get("gt_det", ())), 6)
    comparison.close(f"{prefix}gt_det", rows, data.get("gt_det"), atol=1e-4)


def compare_rows(comparison, label, ours, data, name, atol=0.0):
    """Our objects against the recorded rows that are used; the others must be empty."""
    used = data["t_reg_mask"] > 0
    if name not in data:
        return
    comparison.close(label, ours, data[name][used], atol=atol)
    comparison.equal(f"{label} (empty rows)", data[name][~used], np.zeros_like(data[name][~used]))


def compare_pixels(comparison, name, ours, recorded, pixels):
    """Normalised (3, H, W) inputs as grey levels, which are whole numbers; OpenCV versions differ by a few."""
    mean, std = (np.array(pixels[key])[:, None, None] for key in ("pixel_mean", "pixel_std"))
    ours, recorded = ours * std + mean, recorded * std + mean
    comparison.close(f"{name} (whole grey levels)", recorded, recorded.round(), atol=2e-3)
    comparison.close(name, ours, recorded, atol=3.01)
    comparison.close(f"{name} (mean)", np.abs(ours - recorded).mean(), 0.0, atol=0.3)


@checks("targets/gaussian_radius*")
def check_radius(path, comparison, tmp_path):
    data = dict(np.load(path))
    height, width = torch.meshgrid(*[torch.from_numpy(data["sizes"]).double()] * 2, indexing="ij")
    radius = gaussian_radius(height.flatten(), width.flatten()).view(height.shape)
    comparison.close("radius", radius, data.get("radius"), atol=1e-6)
    comparison.equal("radius_int", radius.clamp(min=0).long(), data.get("radius_int"))


@checks("targets/gaussians*")
def check_gaussians(path, comparison, tmp_path):
    data = dict(np.load(path))
    size = data["combined"].shape if "combined" in data else data["each"].shape[1:]
    rows, columns = gaussian_profiles(
        torch.from_numpy(data["centers"]).long(), torch.from_numpy(data["radius"]).long(), size
    )
    each = paint_max(torch.zeros(len(rows), *size), torch.arange(len(rows)), rows, columns)
    comparison.close("each", each, data.get("each"), atol=1e-6)
    together = paint_max(torch.zeros(1, *size), torch.zeros(len(rows), dtype=torch.long), rows, columns)
    comparison.close("combined", together[0], data.get("combined"), atol=1e-6)


@checks("targets/affine*")
def check_affine(path, comparison, tmp_path):
    data = dict(np.load(path))
    for i, (width, height) in enumerate(data["output_wh"]):
        window = affine_matrix(data["center"][i], data["scale"][i][0], (height, width), data["rot_deg"][i])
        upright = affine_matrix(data["center"][i], data["scale"][i][0], (height, width))
        points = torch.from_numpy(data["points"][i]).double()
        for name, ours in (("forward", window), ("inverse", invert_affine(window))):
            comparison.close(f"{name}[{i}] linear", ours[:, :2], data[name][i][:, :2], atol=1e-6, rtol=1e-5)
            comparison.close(f"{name}[{i}] shift", ours[:, 2], data[name][i][:, 2], atol=3e-3, rtol=1e-5)
        for name, matrix in (("points_forward", window), ("points_transform_preds", invert_affine(upright))):
            comparison.close(
                f"{name}[{i}]", apply_affine(points, torch.from_numpy(matrix)), data[name][i], atol=3e-3, rtol=1e-5
            )


@checks("targets/color_aug*")
def check_color(path, comparison, tmp_path):
    data = dict(np.load(path))
    output = color_jitter(data["input"], data["order"].tolist(), data["alphas"], data["lighting_alpha"])
    comparison.close("output", output, data["output"], atol=1e-5)
    comparison.close("eig_val", EIGENVALUES, data.get("eig_val"), atol=1e-7)
    comparison.close("eig_vec", EIGENVECTORS, data.get("eig_vec"), atol=1e-7)


@checks("targets/crop_border*")
def check_border(path, comparison, tmp_path):
    sizes, borders = np.load(path)["size_border"].T
    comparison.equal("size_border", [crop_border(int(size)) for size in sizes], borders)
