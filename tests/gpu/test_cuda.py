"""The same on a GPU: recorded vectors, training in every precision, detections, no waiting for the device.

Left out where there is none. TF32 is off: what is compared are the formulas, not the precision of the products.
"""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from centernet_d2 import load_config
from centernet_d2.layers import DeformConv
from centernet_d2.modeling import CenterNet
from centernet_d2.structures.boxes3d import pinhole_camera
from conftest import reference_folder
from support.detections import same_detections
from support.reference import Comparison, find_check
from support.tasks import random_objects, training_input

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

# One of every network, and all losses and decoders.
RECORDED = (
    *(f"net/{name}.npz" for name in ("dcn_layer", "res_18.ctdet.128x128", "resdcn_18.ctdet.64x192")),
    *(f"net/{name}.npz" for name in ("dla_34.ctdet.64x192", "dla_34.ddd.96x320", "dla_34.multi_pose.64x192")),
    *(f"net/{name}.npz" for name in ("dlav0_34.ctdet.64x192", "hourglass.ctdet.128x128")),
    *(f"loss/{name}.npz" for name in ("focal", "focal_no_positive", "reg_losses", "reg_losses_empty", "binrot")),
    *(f"loss/{name}.npz" for name in ("binrot_empty", "depth_l1", "full_ctdet", "full_ctdet_2stack")),
    *(f"loss/{name}.npz" for name in ("full_ctdet_catspec", "full_ddd", "full_multi_pose", "full_multi_pose_2stack")),
    *(f"decode/{name}.npz" for name in ("ctdet_reg", "ctdet_noreg", "ctdet_catspec_reg", "nms_plateau")),
    *(f"decode/{name}.npz" for name in ("multi_pose_full", "multi_pose_no_hm_hp", "multi_pose_no_hp_offset")),
    *(f"decode/{name}.npz" for name in ("fliptest_multi_pose", "ddd_full", "ddd_no_wh", "depth_transform")),
)
# Sums run in another order than on the CPU, for which the tolerances of the checks were made.
LOOSER = 5.0

CONFIGS = {
    "boxes": "Shapes/centernet_HG_shapes.yaml",
    "keypoints": "Shapes/centernet_HG_kites.yaml",
    "3-D boxes": "Shapes/centernet_3d_HG_boxes.yaml",
}
# What the objects of support.tasks have.
OBJECTS = ["MODEL.CENTERNET.NUM_CLASSES", "3"]
JOINTS = ["MODEL.CENTERNET.KEYPOINTS.NAMES", "['a', 'b', 'c']", "MODEL.CENTERNET.KEYPOINTS.FLIP_MAP", "[['a', 'b']]"]
JOINTS += ["MODEL.CENTERNET.KEYPOINTS.SKELETON", "[]", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "3"]
JOINTS += ["TEST.KEYPOINT_OKS_SIGMAS", "[0.05, 0.05, 0.05]"]
# Relative; of losses of a fresh network beside those in single precision.
HALVES = {torch.float16: 0.02, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def _single_precision():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class LooserComparison(Comparison):
    """Tolerances for another order of summation."""

    def close(self, name, ours, recorded, atol=0.0, rtol=0.0):
        super().close(name, ours, recorded, LOOSER * atol, LOOSER * rtol)


@pytest.fixture
def everything_on_gpu(monkeypatch):
    """What a check makes or reads is on the GPU."""
    from_numpy = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: from_numpy(array).cuda())
    with torch.device("cuda"):
        yield


@pytest.mark.parametrize("kind", RECORDED)
def test_recorded_vectors(kind, request, tmp_path, record_property, everything_on_gpu):
    path = reference_folder(request.config) / kind
    if not path.is_file():
        pytest.skip(f"needs {kind} of the extra data: CENTERNET_D2_TEST_DATA, see CONTRIBUTING.md")
    check, _ = find_check(kind)
    comparison = LooserComparison()
    check(path, comparison, tmp_path)
    record_property("largest deviation", comparison.worst)
    print(f"\non the GPU {kind}: {comparison}")
    assert comparison.arrays > 0, "nothing was compared"
    assert not comparison.failures, str(comparison)


def build(task, device="cuda"):
    """A small network whose maps differ from cell to cell, its weights always the same."""
    torch.manual_seed(0)
    options = OBJECTS + (JOINTS if task == "keypoints" else [])
    model = CenterNet(load_config(CONFIGS[task], [*options, "MODEL.DEVICE", "cpu"]))
    for branch in (branch for head in model.heads.values() for stack in head.stacks for branch in stack.values()):
        torch.nn.init.normal_(branch[-1].weight, std=0.1)
    return model.to(device)


def labelled(count=4, size=(96, 128)):
    return [training_input(random_objects(5 + seed, size, seed), seed) for seed in range(count)]


def step(model, dtype=torch.float32):
    """Losses by name of one step of training."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        losses = model(labelled())
    scaler.scale(sum(losses.values())).backward()
    scaler.step(optimizer)
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("task", CONFIGS)
def test_a_step_of_training(task, record_property):
    before, model, on_cpu = (build(task, device) for device in ("cuda", "cuda", "cpu"))
    expected = step(model)
    assert np.isfinite(list(expected.values())).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    weights = zip(model.parameters(), before.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in weights)
    with torch.no_grad():
        for name, loss in on_cpu.train()(labelled()).items():
            assert expected[name] == pytest.approx(loss.item(), rel=1e-3, abs=1e-4), name
    for dtype, tolerance in HALVES.items():
        found = step(build(task), dtype)
        assert found == pytest.approx(expected, rel=tolerance, abs=0.01), dtype
        record_property(str(dtype), max(abs(found[name] / expected[name] - 1) for name in expected if expected[name]))


def unlabelled(count=3, size=(96, 128)):
    images = [training_input(random_objects(1, size, seed), seed)["image"] for seed in range(count)]
    return [{"image": image, "camera": pinhole_camera(100.0, size)} for image in images]


@pytest.mark.parametrize("task", CONFIGS)
@torch.no_grad()
def test_detections_alone_in_a_batch_and_on_the_cpu(task):
    model, on_cpu = build(task).eval(), build(task, "cpu").eval()
    inputs = unlabelled()
    for together, single, expected in zip(model(inputs), inputs, on_cpu(inputs), strict=True):
        found, alone = (result["instances"].to("cpu") for result in (together, model([single])[0]))
        assert len(found) > 10
        assert same_detections(found, alone)
        assert same_detections(found, expected["instances"], rtol=1e-3, atol=1e-2, tie=1e-4)


@contextmanager
def no_waiting():
    """An operation that waits for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("task", CONFIGS)
def test_training_does_not_wait_for_the_gpu(task, dtype):
    """From targets to gradients. Putting the batch together is left out: its copies from ordinary memory do wait."""
    model = build(task).train()
    batch = labelled()
    for attempt in range(2):
        images = model.preprocessor.training_batch(batch).tensor
        gt, points = model.ground_truth(batch, (images.shape[-2] // model.stride, images.shape[-1] // model.stride))
        with no_waiting(), torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            _, losses = model.compute_losses(images, model.targets(gt, points))
            sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values()), attempt


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", CONFIGS)
@torch.no_grad()
def test_detection_does_not_wait_for_the_gpu(task, precision):
    """From normalised images to decoded fields; which of them score enough is then asked of the GPU."""
    model = build(task).eval()
    model.precision = precision
    images = torch.rand(2, 3, 96, 128, device="cuda")
    with no_waiting():
        fields = model.decode(model.compute_test_maps(images))
    assert all(tensor.isfinite().all() for tensor in fields.values())


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (48, 64)])
def test_both_deformable_convolutions_agree_in_values_and_gradients(size, record_property):
    layers = [DeformConv(16, 24, implementation=name).cuda() for name in ("torchvision", "grid_sample")]
    torch.nn.init.normal_(layers[0].conv_offset_mask.weight, std=0.3)  # offsets of a few pixels, beyond the border
    torch.nn.init.normal_(layers[0].bias)
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 16, *size, device="cuda", requires_grad=True)
    outputs = [layer(x) for layer in layers]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    record_property("largest deviation", (outputs[0] - outputs[1]).abs().max().item())
    gradients = [
        torch.autograd.grad(output.square().mean(), [x, *layer.parameters()])
        for layer, output in zip(layers, outputs, strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, atol=1e-6 + 1e-4 * scale, rtol=1e-3)


@pytest.mark.parametrize("task", CONFIGS)
@torch.no_grad()
def test_detection_is_one_cuda_graph(task):
    """Captured once, replayed on other images."""
    model = build(task).eval()
    first, second = (torch.rand(2, 3, 96, 128, device="cuda") for _ in range(2))
    images = first.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what libraries do once
        for _ in range(3):
            model.decode(model.compute_test_maps(images))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = model.decode(model.compute_test_maps(images))
    for given in (second, first):
        images.copy_(given)
        graph.replay()
        found = copy.deepcopy(captured)
        for name, expected in model.decode(model.compute_test_maps(given)).items():
            torch.testing.assert_close(found[name], expected, atol=1e-4, rtol=1e-4)
