import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling.nms import merge_scales, soft_nms

from .comparison import checks

# Mapping from recorded names to methods.
VARIANTS = {
    "linear": "linear",
    "gaussian": "gaussian",
    "hard": "hard",
    "linear_nt03": "linear",
    "gaussian_s03": "gaussian",
}


def suppressed(rows, method, keep_stale=True, **options):
    """Apply soft-NMS to rows x1, y1, x2, y2, score, rest...; return rows and the number of valid ones."""
    rows = torch.from_numpy(rows)
    kept = soft_nms(rows[:, :4], rows[:, 4], method=method, keep_stale=keep_stale, **options)
    result = torch.cat([rows[kept.index, :4], kept.scores[:, None], rows[kept.rest, 5:]], dim=1)
    return result, kept.num_valid


@checks("post/soft_nms*")
def check_soft_nms(path, comparison, tmp_path):
    data = dict(np.load(path))
    for name, method in VARIANTS.items():
        options = {}
        if f"{name}_sigma" in data:
            options = {"sigma": float(data[f"{name}_sigma"]), "iou_threshold": float(data[f"{name}_Nt"])}
        rows, valid = suppressed(data["boxes"], method, **options)
        comparison.close(name, rows, data.get(name), atol=1e-5)
        comparison.equal(f"{name}_n_valid", valid, data.get(f"{name}_n_valid"))
        modern, _ = suppressed(data["boxes"], method, keep_stale=False, **options)
        if name in data:
            comparison.close(f"{name} (valid rows)", modern, data[name][:valid], atol=1e-5)
    if "boxes39" in data:
        rows, valid = suppressed(data["boxes39"], "gaussian")
        comparison.close("gaussian39", rows, data.get("gaussian39"), atol=1e-5)
        comparison.equal("gaussian39_n_valid", valid, data.get("gaussian39_n_valid"))
    if "hard_nms_keep" in data:
        boxes = torch.from_numpy(data["boxes"])
        kept = soft_nms(boxes[:, :4], boxes[:, 4], method="hard", iou_threshold=0.5).index
        comparison.equal("hard_nms_keep", kept, data["hard_nms_keep"])


def as_instances(rows):
    """Convert rows (box, score, class) or, with 39 columns, (box, score, joints) to Instances."""
    rows = torch.from_numpy(rows)
    result = Instances((1, 1))
    result.pred_boxes, result.scores = Boxes(rows[:, :4].clone()), rows[:, 4]
    joints = rows.shape[1] > 6
    result.pred_classes = rows[:, 5].long() * (not joints)
    result.rest = rows[:, 5:] if joints else rows[:, :0]
    return result


@checks("post/merge_*")
def check_merge(path, comparison, tmp_path):
    data = dict(np.load(path))
    scales = [as_instances(data[name]) for name in sorted(data) if name.startswith("scale")]
    joints = "multi_pose" in path.name
    merged = merge_scales(scales, limit=None if joints else 100, keep_stale=True)
    classes = merged.rest if joints else merged.pred_classes[:, None].float()
    rows = torch.cat([merged.pred_boxes.tensor, merged.scores[:, None], classes], dim=1)
    comparison.close("merged", rows, data["merged"], atol=1e-5)
