"""Capture of the model as a single graph. Graphs run eagerly, because compilation takes minutes."""

import copy

import pytest
import torch

from centernet_d2.modeling import meta_arch
from support.tasks import TASKS, random_objects, task_model, training_input


@pytest.fixture
def graphs(monkeypatch):
    """Collect captured graphs, which run eagerly. Graph breaks are errors."""
    captured = []

    def run(module, inputs):
        captured.append(module)
        return module.forward

    torch.compiler.reset()
    monkeypatch.setattr(meta_arch, "_compiled", lambda function: torch.compile(function, backend=run, fullgraph=True))
    yield captured
    torch.compiler.reset()


def losses(model, count):
    batch = [training_input(random_objects(count, (64, 96), seed), seed) for seed in range(2)]
    return model.train()(batch)


@pytest.mark.parametrize("task", TASKS)
def test_network_and_losses_compile_to_one_graph(task, graphs):
    model, compiled = task_model(task), task_model(task, compiled=True)
    compiled.load_state_dict(model.state_dict())
    for count in (3, 5, 8):
        expected, actual = losses(model, count), losses(compiled, count)
        assert actual.keys() == expected.keys()
        for name, loss in actual.items():
            assert torch.allclose(loss, expected[name]), name
    # One graph for the first number of objects, and one for any other number.
    assert len(graphs) == 2
    sum(actual.values()).backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


@torch.no_grad()
def test_detection_compiles_to_one_graph_for_any_size(graphs):
    model, compiled = task_model("boxes").eval(), task_model("boxes", compiled=True).eval()
    compiled.load_state_dict(model.state_dict())
    for size in ((64, 96), (96, 64), (128, 160)):
        image = [{"image": torch.randint(256, (3, *size), dtype=torch.uint8)}]
        expected, detections = (one(image)[0]["instances"] for one in (model, compiled))
        assert torch.allclose(detections.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert len(graphs) == 2


def test_copy_of_compiled_model_uses_own_weights(graphs):
    model = task_model("boxes", compiled=True)
    before = losses(model, 3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert losses(other, 3)["loss_heatmap"] != before["loss_heatmap"]
    assert torch.equal(losses(model, 3)["loss_heatmap"], before["loss_heatmap"])
