import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from centernet_d2 import CenterNet, load_config
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.imaging.geometry import affine_matrix
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform


@pytest.fixture
def benchmarks(monkeypatch):
    """Return benchmark modules, which are not part of the package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    from benchmarks import data, original

    yield data, original
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_data_benchmark_compares_with_the_reference(benchmarks, capsys):
    parser = argparse.ArgumentParser()
    benchmarks[0].add_arguments(parser)
    threads = torch.get_num_threads()
    result = benchmarks[0].run(parser.parse_args(["--count", "2", "--rounds", "1"]))
    assert torch.get_num_threads() == threads
    assert len(result["images_per_second"]) == 6
    assert result["ratio_to_reference"] > 0
    assert "2 images of synthetic photographs" in capsys.readouterr().out


def test_lean_baseline_equals_the_reference(benchmarks, tmp_path):
    data, original = benchmarks
    cfg = load_config(data.CONFIG, ["MODEL.DEVICE", "cpu"])
    (record,) = data.write_photographs(tmp_path, 1)
    samples = []
    for sample_of in (original.reference_sample, original.lean_sample):
        with data.seeded(3):
            samples.append(sample_of(record, cfg))
    reference, lean = samples
    assert reference.keys() == lean.keys()
    for name in reference:
        np.testing.assert_allclose(lean[name], reference[name], atol=1e-4)


def test_folder_without_annotations_raises(benchmarks, tmp_path):
    args = argparse.Namespace(data=tmp_path, count=2, rounds=1)
    with pytest.raises(FileNotFoundError, match=r"annotations contains no \*\.json"):
        benchmarks[0].run(args)


@pytest.mark.parametrize("flipped", [False, True])
def test_reference_targets_are_equal(benchmarks, tmp_path, flipped):
    """Compare targets of both implementations for the same window."""
    data, original = benchmarks
    cfg = load_config(data.CONFIG, ["MODEL.DEVICE", "cpu"])
    (record,) = data.write_photographs(tmp_path, 1)
    center, window = np.array([301.5, 222.0]), 512.0
    to_map = affine_matrix(center, window, (128, 128))
    theirs = original.draw_targets(record, to_map, (128, 128), 80, 640 if flipped else None)
    np.testing.assert_allclose(original.window_matrix(center.astype(np.float32), window, (128, 128)), to_map, atol=1e-4)

    show = AffineTransform(affine_matrix(center, window, (512, 512)), (480, 640), (512, 512))
    steps = [MirrorTransform(640)] * flipped + [show]
    sample = CenterNetDatasetMapper(True, augmentations=steps, image_format="BGR", num_classes=80)(record)
    model = CenterNet(cfg)
    gt, points = model.ground_truth([sample], (128, 128))
    targets = {name: target for head in model.heads.values() for name, target in head.targets(gt, points).items()}
    np.testing.assert_allclose(targets["heatmap"].value[0], theirs["hm"], atol=1e-5)
    sizes = targets["size"].value[points.valid]
    np.testing.assert_allclose(sizes, theirs["wh"][theirs["reg_mask"] > 0], atol=1e-3)
