"""Tracing of models with torch.jit.trace and torch.export."""

import numpy as np
import pytest
import torch
from detectron2.export import TracingAdapter

from centernet_d2.export.graphs import CanvasGraph
from centernet_d2.imaging import geometry
from centernet_d2.layers.deform_conv import DeformConv
from centernet_d2.structures.boxes3d import pinhole_camera
from support.detections import as_tensors
from support.tasks import TASKS, task_model


def image(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8))


def detect_tensors(model, inputs):
    """Detect with a model; Detectron2's adapter ignores types that it does not know, such as Boxes3D."""
    return [as_tensors(result["instances"]) for result in model.inference(inputs)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("resolution", ["keep", "fixed"])
@pytest.mark.parametrize("task", ["boxes", "pose", "space"])
def test_traced_model_works_at_other_sizes(task, resolution):
    model = task_model(task, test_resolution=resolution).eval()
    if task == "space":
        model.heads["Box3DHead"].prop.default_camera = pinhole_camera(60.0, (48, 70))
    function = detect_tensors if task == "space" else None
    adapter = TracingAdapter(model, [{"image": image((48, 70))}], function, allow_non_tensor=True)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        found = traced(image((90, 61), 1))
        (expected,) = model([{"image": image((90, 61), 1)}])
    fields = as_tensors(expected["instances"])
    shapes = sorted(tuple(x.shape) for x in fields.values())
    assert len(fields["scores"]) > 50
    assert sorted(tuple(x.shape) for x in found if x.shape[:1] == fields["scores"].shape) == shapes
    vectors = [x for x in found if x.shape == fields["scores"].shape and x.dtype == torch.float32]
    # The warp of a traced model differs from OpenCV by rounding.
    assert any(torch.allclose(x, fields["scores"], atol=1e-3) for x in vectors)


@pytest.mark.parametrize("task", [task for task in TASKS if task in ("boxes", "pose", "space")])
def test_torch_export(task):
    graph = CanvasGraph(task_model(task).eval())
    program = torch.export.export(graph, (graph.example()["canvases"],), dynamic_shapes=graph.dynamic_shapes())
    canvases = torch.stack([image((64, 96), seed) for seed in range(3)])
    with torch.no_grad():
        found, expected = program.module()(canvases), graph(canvases)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


@pytest.mark.parametrize("implementation", ["torchvision", "grid_sample"])
def test_torch_export_of_deformable_convolution_with_dynamic_sizes(implementation):
    layer = DeformConv(4, 5, implementation=implementation).eval()
    with torch.no_grad():
        layer.conv_offset_mask.weight.normal_()
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(layer, (torch.rand(2, 4, 8, 12),), dynamic_shapes=[dims])
    x = torch.rand(3, 4, 10, 7)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("size", [(375, 500), (600, 400), (48, 70)])
def test_exported_warp_equals_opencv_up_to_rounding(size, monkeypatch):
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((1, 3, size[0] // 4, size[1] // 4), dtype=np.float32))
    pixels = (torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0] * 255).to(torch.uint8)
    expected, matrix = geometry.fixed_canvas(pixels, (128, 160))
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    found, exported_matrix = geometry.fixed_canvas(pixels, (128, 160))
    difference = (found.int() - expected.int()).abs()
    assert torch.equal(matrix, exported_matrix)
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.03
    assert expected.float().std() > 20
