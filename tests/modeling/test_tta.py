import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from centernet_d2 import load_config, model_zoo
from centernet_d2.modeling import CenterNetWithTTA
from support.detections import same_detections
from support.models import stub_heads, stub_model


def image(size=(60, 90), seed=0):
    return torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def model(seed=0, heads=None, **options):
    torch.manual_seed(seed)
    result = stub_model(heads() if heads else None, **{"max_detections": 20, **options}).eval()
    for branch in (branch for head in result.heads.values() for stack in head.stacks for branch in stack.values()):
        torch.nn.init.normal_(branch[-1].weight)  # maps that differ from cell to cell
    return result


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def fields(instances):
    return torch.cat(
        [instances.pred_boxes.tensor, instances.scores[:, None], instances.pred_classes[:, None].float()], dim=1
    )


def mirrored_maps(tta, pixels):
    (canvas,), _ = tta.model.preprocessor.canvases([{"image": pixels}])
    return tta.compute_maps(tta.model.preprocessor.batch([canvas]))


def test_without_flip_and_scales_nothing_changes():
    plain = model()
    inputs = [{"image": image()}]
    assert torch.equal(
        fields(CenterNetWithTTA(model=plain, flip=False)(inputs)[0]["instances"]), fields(plain(inputs)[0]["instances"])
    )


def test_a_mirrored_image_has_exactly_the_mirrored_maps():
    tta = CenterNetWithTTA(model=model())
    upright, mirrored = mirrored_maps(tta, image()), mirrored_maps(tta, image().flip(-1))
    for name in ("heatmap", "size"):
        assert torch.equal(mirrored[name], upright[name].flip(-1)), name
    assert not torch.allclose(mirrored["offset"], upright["offset"].flip(-1), atol=1e-2)


def test_with_averaged_offsets_the_detections_mirror_exactly():
    heads = lambda: stub_heads(average_offsets=True, box={"clip": False})  # noqa: E731
    tta = CenterNetWithTTA(model=model(heads=heads))
    upright = tta([{"image": image()}])[0]["instances"]
    mirrored = tta([{"image": image().flip(-1)}])[0]["instances"]
    boxes = mirrored.pred_boxes.tensor[:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = 89 - boxes[:, [0, 2]]
    mirrored.pred_boxes = Boxes(boxes)
    assert torch.equal(upright.scores, mirrored.scores)
    assert same_detections(upright, mirrored, rtol=1e-5, atol=1e-4)


def test_with_offsets_of_the_upright_image_centers_mirror_within_a_cell():
    plain = model(heads=lambda: stub_heads(box={"clip": False}))
    for stack in plain.heads["CenterHead"].stacks:  # Sensible offsets lie inside their cell.
        torch.nn.init.normal_(stack["offset"][-1].weight, std=0.05)
        torch.nn.init.constant_(stack["offset"][-1].bias, 0.4)
    tta = CenterNetWithTTA(model=plain)
    centers = [
        tta([{"image": pixels}])[0]["instances"].pred_boxes.get_centers() for pixels in (image(), image().flip(-1))
    ]
    centers[1][:, 0] = 89 - centers[1][:, 0]
    difference = (centers[0] - centers[1]).abs()
    assert 0 < difference.max() < plain.stride


def test_maps_flipped_twice_are_the_maps():
    for head in model(heads=lambda: stub_heads(average_offsets=True)).heads.values():
        maps = {name: torch.rand(2, channels, 5, 7) for name, channels in head.maps.items()}
        twice = head.unflip(head.unflip(maps))
        assert all(torch.allclose(twice[name], maps[name], atol=1e-6) for name in maps)


def test_flip_is_the_mean_of_both_views():
    tta = CenterNetWithTTA(model=model())
    (canvas,), _ = tta.model.preprocessor.canvases([{"image": image()}])
    canvases = tta.model.preprocessor.batch([canvas])
    one, other = (tta.model.compute_test_maps(x) for x in (canvases, canvases.flip(-1)))
    both = tta.compute_maps(canvases)
    assert torch.allclose(both["heatmap"], (one["heatmap"] + other["heatmap"].flip(-1)) / 2)
    assert torch.equal(both["offset"], one["offset"])


@pytest.mark.parametrize("resolution", ["keep", "fixed"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1, 1.5)])
def test_a_batch_gives_what_single_images_give(resolution, scales):
    tta = CenterNetWithTTA(model=model(test_resolution=resolution), scales=scales, batch_size=2)
    sizes = [(60, 90), (33, 70), (60, 90), (120, 50), (60, 90), (60, 90)]
    inputs = [{"image": image(size, seed)} for seed, size in enumerate(sizes)]
    for single, together in zip(inputs, tta(inputs), strict=True):
        alone, found = tta([single])[0]["instances"], together["instances"]
        assert found.image_size == single["image"].shape[1:]
        assert len(found) == len(alone) >= 20
        assert same_detections(found, alone)


def test_scales_are_merged_in_pixels_of_the_original_image():
    tta = CenterNetWithTTA(model=model(), scales=(0.5, 2.0), flip=False)
    per_scale = [
        tta.model.detect(tta.compute_maps(tta.model.preprocessor.batch([canvas])), [geometry])[0]
        for scale in tta.scales
        for (canvas,), (geometry,) in [tta.model.preprocessor.canvases([{"image": image()}], scale)]
    ]
    merged = tta([{"image": image()}])[0]["instances"]
    candidates = torch.cat([found.pred_boxes.tensor for found in per_scale])
    distance = (merged.pred_boxes.tensor[:, None] - candidates).abs().sum(dim=2).amin(dim=1)
    assert distance.max() == 0
    assert len(merged) == 20
    assert (merged.scores.diff() <= 0).all()
    assert merged.scores[0] == max(found.scores[0] for found in per_scale)


def test_heads_decide_whether_scales_can_be_merged_and_cut():
    unlimited = model()
    unlimited.heads["BoxHead"].limit_merged = False
    merged = CenterNetWithTTA(model=unlimited, scales=(1, 1.5))([{"image": image()}])[0]["instances"]
    assert len(merged) > 20
    unlimited.heads["BoxHead"].multi_scale = False
    CenterNetWithTTA(model=unlimited)
    with pytest.raises(ValueError, match="^scales is .*, but detections of BoxHead cannot be merged"):
        CenterNetWithTTA(model=unlimited, scales=(1, 2))


def test_a_tiny_image_survives_a_small_scale():
    tta = CenterNetWithTTA(model=model(), scales=(0.1, 1))
    assert len(tta([{"image": image((3, 5))}])[0]["instances"]) > 0


def test_the_heatmap_is_kept_on_request():
    for one in (model(), CenterNetWithTTA(model=model(), scales=(0.5, 1))):
        result = one.inference([{"image": image()}], keep_heatmap=True)[0]
        assert tuple(result["heatmap"].shape) == (1, 16, 24)
        assert result["geometry"].input_size == (64, 96)
        assert set(one.inference([{"image": image()}])[0]) == {"instances"}


def config(*overrides):
    return load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), overrides)


def test_it_is_called_like_detectron2s(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), image().permute(1, 2, 0).numpy())
    tta = CenterNetWithTTA(config("TEST.AUG.SCALES", "(0.5, 1)", "TEST.AUG.FLIP", False), model(), None, 4)
    assert (tta.flip, tta.scales, tta.batch_size) == (False, (0.5, 1), 4)
    from_file = tta([{"file_name": str(path)}])[0]["instances"]
    assert torch.equal(fields(from_file), fields(tta([{"image": image()}])[0]["instances"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "^scales is .*but must be positive factors"),
        ({"scales": (1, 0)}, "^scales is .*but must be positive factors"),
        ({"soft_nms": "mean"}, "^soft_nms is 'mean', known"),
        ({"batch_size": 0}, "must be at least 1"),
    ],
)
def test_wrong_options_are_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        CenterNetWithTTA(model=model(), **options)


def test_wrong_uses_are_one_clear_error():
    with pytest.raises(ValueError, match="takes no tta_mapper"):
        CenterNetWithTTA(config(), model(), tta_mapper=object())
    points = stub_model({"CenterHead": stub_heads()["CenterHead"]})
    with pytest.raises(ValueError, match="several scales need boxes to be merged"):
        CenterNetWithTTA(model=points, scales=(1, 2))
    wrong = [
        (model(), "SOFT_NMS", "mean", "TEST.AUG.SOFT_NMS is 'mean', known"),
        (model(), "SCALES", (1.0, -1.0), "TEST.AUG.SCALES is .*but must be positive factors"),
        (points, "SCALES", (1.0, 2.0), "TEST.AUG.SCALES is .*several scales need boxes .*add BoxHead"),
    ]
    for own, key, value, message in wrong:
        with pytest.raises(ValueError, match=message):
            CenterNetWithTTA(config(f"TEST.AUG.{key}", value), own)
    with pytest.raises(RuntimeError, match="call model.eval"):
        CenterNetWithTTA(model=stub_model().train())([{"image": image()}])


def test_offsets_are_averaged_when_the_config_says_so():
    from centernet_d2.modeling import CenterNet

    cfg = config("MODEL.DEVICE", "cpu", "MODEL.CENTERNET.QUIRKS.AVERAGE_OFFSETS", True)
    head = CenterNet(cfg).heads["CenterHead"]
    assert (head.average_offsets, head.stride) == (True, 4)


def test_files_of_16_bits_are_scaled(tmp_path):
    deep = (np.arange(60 * 90, dtype=np.uint16) * 12).reshape(60, 90)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    pixels = torch.from_numpy(np.round(deep / 257).astype(np.uint8)).expand(3, 60, 90)
    tta = CenterNetWithTTA(model=model())
    (by_file,), (by_array,) = tta([{"file_name": str(tmp_path / "deep.png")}]), tta([{"image": pixels}])
    assert torch.equal(fields(by_file["instances"]), fields(by_array["instances"]))
