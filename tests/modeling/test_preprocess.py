import pytest
import torch

from centernet_d2.modeling.preprocess import group_by_shape
from support.models import stub_model


def sample(size, seed=0):
    return {
        "image": torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    }


def test_training_pads_smaller_images_with_black():
    model = stub_model()
    images = model.preprocessor.training_batch([sample((64, 96)), sample((32, 64))])
    assert tuple(images.tensor.shape) == (2, 3, 64, 96)
    black = model.preprocessor.normalize(torch.zeros(3, 1, 1))
    assert torch.equal(images.tensor[1, :, 32:], black.expand(3, 32, 96))


def test_training_images_go_to_the_device_once_and_as_bytes(monkeypatch):
    model, moved = stub_model().to("meta"), []
    to = torch.Tensor.to

    def watched(self, *args, **options):
        result = to(self, *args, **options)
        if self.device != result.device:
            moved.append((self.dtype, tuple(self.shape)))
        return result

    monkeypatch.setattr(torch.Tensor, "to", watched)
    images = model.preprocessor.training_batch([sample((64, 96)), sample((32, 64))])
    assert images.tensor.device.type == "meta"
    assert moved == [(torch.uint8, (2, 3, 64, 96))]


@pytest.mark.parametrize("resolution", ["keep", "fixed"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_canvases_are_bytes_and_the_batch_is_what_the_network_reads(resolution, scale, dtype):
    model = stub_model(test_resolution=resolution)
    images = [{"image": sample((50, 70), seed=seed)["image"].to(dtype)} for seed in range(2)]
    canvases, geometries = model.preprocessor.canvases(images, scale)
    assert {canvas.dtype for canvas in canvases} == {torch.uint8}
    assert [geometry.input_size for geometry in geometries] == [tuple(canvas.shape[1:]) for canvas in canvases]
    batch = model.preprocessor.batch(canvases)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[1], model.preprocessor.normalize(canvases[1].float()))


def test_canvases_are_made_where_the_image_is_and_batches_where_the_model_is():
    images = [{"image": sample((50, 70))["image"]}]
    elsewhere = stub_model().to("meta")
    (canvas,), _ = elsewhere.preprocessor.canvases(images)
    assert canvas.device.type == "cpu"
    assert elsewhere.preprocessor.batch([canvas]).device.type == "meta"
    (canvas,), _ = stub_model().preprocessor.canvases([{"image": images[0]["image"].to("meta")}])
    assert canvas.device.type == "meta"


@pytest.mark.parametrize("autocast", [False, True])
def test_colours_change_on_the_device_as_on_the_cpu(autocast):
    """Within 2e-4 of 255 before normalisation, under autocast too; padding stays black, and images without may mix."""
    model = stub_model()
    batch = [sample((64, 96), seed=0), sample((32, 64), seed=1), sample((64, 96), seed=2)]
    matrix = torch.tensor([[1.4, 0.1, -0.2, 30.0], [0.3, 0.7, 0.1, -20.0], [-0.1, 0.2, 1.1, 5.0]])
    changed = [
        (torch.einsum("ij,jhw->ihw", matrix[:, :3], x["image"].float()) + matrix[:, 3:, None]) for x in batch[:2]
    ]
    now = [{**x, "image": image} for x, image in zip(batch, [*changed, batch[2]["image"].float()], strict=True)]
    later = [{**x, "color": matrix} for x in batch[:2]] + batch[2:]
    with torch.autocast("cpu", enabled=autocast):
        expected, images = model.preprocessor.training_batch(now), model.preprocessor.training_batch(later)
    assert images.image_sizes == expected.image_sizes
    assert images.tensor.dtype == torch.float32
    levels = (images.tensor - expected.tensor) * model.pixel_std
    assert levels.abs().max() < 2e-4


def test_groups_have_one_shape_and_a_limited_size():
    canvases = [torch.zeros(3, side, 8) for side in (4, 8, 4, 4, 8)]
    assert list(group_by_shape(canvases)) == [[0, 2, 3], [1, 4]]
    assert list(group_by_shape(canvases, 2)) == [[0, 2], [3], [1, 4]]
