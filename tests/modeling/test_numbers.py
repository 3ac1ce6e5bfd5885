"""Losses and gradients are finite whatever maps and objects are; what is not finite never passes for a detection."""

import pytest
import torch

from centernet_d2.modeling import CenterNetWithTTA
from support.tasks import TASKS, objects, random_objects, task_model, training_input

SIZE = (64, 96)
OBJECTS = {
    "none": [objects([], SIZE), objects([], SIZE)],
    "of one pixel": [objects([[5, 5, 6, 6], [95, 63, 96, 64], [0, 0, 1, 1]], SIZE)],
    "larger than the image": [objects([[-500, -400, 600, 500], [-50, 10, 200, 20]], SIZE), objects([], SIZE)],
    "a thousand": [random_objects(1000, SIZE)],
    "without area": [objects([[5, 5, 5, 9], [7, 9, 3, 3], [200, 200, 300, 300]], SIZE)],
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_maps_have_finite_losses_and_gradients(task, dtype):
    for name, gt in OBJECTS.items():
        model = task_model(task)
        truth = model.ground_truth([{"instances": x} for x in gt], (16, 24))
        for value in (-1e4, 0.0, 1e4, "both"):
            channels = {name: count for head in model.heads.values() for name, count in head.maps.items()}
            maps = {
                name: torch.full((len(gt), count, 16, 24), 1e4 if value == "both" else value, dtype=dtype)
                for name, count in channels.items()
            }
            if value == "both":
                maps = {name: tensor * torch.randn(tensor.shape).sign().to(dtype) for name, tensor in maps.items()}
            maps = {name: tensor.requires_grad_() for name, tensor in maps.items()}
            losses = model.losses([maps], model.targets(*truth))
            sum(losses.values()).backward()
            for key, loss in losses.items():
                assert loss.isfinite(), (name, value, key)
            for key, tensor in maps.items():
                assert tensor.grad.isfinite().all(), (name, value, key)


@pytest.mark.parametrize("task", TASKS)
def test_extreme_objects_train_a_whole_model(task):
    for name, gt in OBJECTS.items():
        model = task_model(task)
        losses = model([training_input(x) for x in gt])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values()), name
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), name


@pytest.mark.parametrize("task", ["boxes", "pose", "space"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error_and_no_empty_result(task, value):
    model = task_model(task).eval()
    inputs = [{**training_input(objects([], SIZE)), "camera": torch.eye(3, 4)}]
    with torch.no_grad():
        maps = model.compute_test_maps(model.preprocessor.normalize(inputs[0]["image"].float()[None]))
        (geometry,) = model.preprocessor.canvases(inputs)[1]
        # Probabilities are never infinite, and offsets of joints need not reach a detection.
        for name in set(maps) - ({"heatmap", "keypoint_heatmap", "keypoint_offset"} if value > 0 else set()):
            broken = {**maps, "heatmap": maps["heatmap"].clone()}
            broken["heatmap"][0, 0, 3, 4] = 0.9
            broken[name] = broken[name].clone()
            # NaN matters wherever it is, infinity where something is found.
            broken[name][(0, slice(None), 3, 4) if value > 0 else (0, 0, 9, 9)] = value
            with pytest.raises(FloatingPointError, match=rf"NaN or Inf \(.*{name if value != value else ''}"):
                model.detect(broken, [geometry])


def test_broken_weights_are_an_error_with_and_without_augmentation():
    model = task_model("boxes").eval()
    inputs = [training_input(objects([], SIZE))]
    torch.nn.init.constant_(next(model.backbone.parameters()), float("nan"))
    for way in (model, CenterNetWithTTA(model=model, scales=(0.5, 1.0))):
        with pytest.raises(FloatingPointError, match=r"\(heatmap, offset, size\).*Use other weights"), torch.no_grad():
            way(inputs)
