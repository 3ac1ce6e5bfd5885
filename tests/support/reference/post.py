import numpy as np
import torch

from centernet_d2.evaluation.coco import round_result
from centernet_d2.imaging.geometry import Geometry, affine_matrix, invert_affine
from support.models import stub_heads

from .comparison import checks


@checks("post/ctdet_*")
def check_ctdet(path, comparison, tmp_path):
    data = dict(np.load(path))
    width, height = (int(size) for size in data["out_wh"])
    to_image = invert_affine(affine_matrix(data["c"], data["s"][0], (height, width)))
    dets = torch.from_numpy(data["dets"][0])
    fields = {"boxes": dets[:, :4], "scores": dets[:, 4], "classes": dets[:, 5].long()}
    head = stub_heads(box={"clip": False})["BoxHead"]
    by_class = fields["classes"].argsort(stable=True)
    rest = torch.stack([fields["scores"], fields["classes"] + 1.0], dim=1)
    for name, matrix in (("post", to_image), ("post_scaled", to_image / float(data.get("test_scale", 1)))):
        boxes = head.to_image(fields, Geometry((1, 1), (1, 1), torch.from_numpy(matrix)))["pred_boxes"]
        comparison.close(name, torch.cat([boxes, rest], dim=1)[by_class], data.get(name), atol=1e-3)


@checks("post/coco_json*")
def check_json(path, comparison, tmp_path):
    data = dict(np.load(path))

    def results(rows, joints):
        for row in rows.tolist():
            result = {"bbox": [row[0], row[1], row[2] - row[0], row[3] - row[1]], "score": row[4]}
            if joints:
                result["keypoints"] = [value for j in range(5, len(row), 2) for value in (row[j], row[j + 1], 0.5)]
            yield round_result(result)

    for prefix, rows, with_joints in (("json", "boxes", False), ("json_pose", "poses", True)):
        if rows in data:
            written = list(results(data[rows], with_joints))
            comparison.equal(f"{prefix}_bbox", [result["bbox"] for result in written], data.get(f"{prefix}_bbox"))
            comparison.equal(f"{prefix}_score", [result["score"] for result in written], data.get(f"{prefix}_score"))
    if "poses" in data:
        joints = [result["keypoints"] for result in results(data["poses"], True)]
        comparison.equal("json_keypoints", joints, data.get("json_keypoints"))
