"""Sensitivity of test_reference.py: altering a single recorded output must fail."""

import re

import numpy as np
import pytest

from conftest import ROOT
from support.reference import Comparison, find_check

GOLDEN = ROOT / "tests" / "golden"
# Patterns of output arrays by folder. All other arrays are inputs or metadata.
OUTPUTS = {
    "decode": "dets|nms|depth",
    "eval": "ap_.*|curves|thresholds|count|evaluated|printed_.*|(min_height|max_occlusion|max_truncation)",
    "loss": "(loss|grad)_(?!norm).*|loss|grad|prob|num_pos|stat_.*",
    "net": "(?!input$|weight$|bias$|conv_).*",
    "post": (
        "post.*|json.*|unproj|loc|rot_y|alpha|alpha_back|box3d|box2d|orient|merged|hard_nms_keep"
        "|(linear|gaussian|hard)(_nt03|_s03|39)?(_n_valid)?"
    ),
    "targets": "t_.*|gt_det|input|radius.*|each|combined|forward|inverse|points_.*|output|size_border",
    "test_pipeline": "c|s|out_hw|input_hw|batch|warped_u8|input_stride8",
}


def altered_cases():
    for path in sorted(GOLDEN.glob("*/*.npz")):
        folder = path.parent.name
        # In these files, the arrays are inputs.
        inputs = {"gaussians.npz": {"radius"}, "color_aug_1.npz": {"input"}, "ddd_utils.npz": {"alpha"}}
        for name in np.load(path).files:
            if re.fullmatch(OUTPUTS[folder], name) and name not in inputs.get(path.name, ()):
                yield pytest.param(path, name, id=f"{folder}/{path.stem}:{name}")


def alter(array, index=-1):
    """Change one value of an array; NaN becomes 0."""
    if array.dtype == bool:
        array.flat[index] = not array.flat[index]
    elif np.isnan(array.flat[index]):
        array.flat[index] = 0
    else:
        array.flat[index] += 5 if array.dtype == np.uint8 else 1
    return array


@pytest.mark.parametrize(("path", "name"), list(altered_cases()))
def test_altered_output_fails(path, name, tmp_path):
    data = dict(np.load(path))
    array = alter(np.array(data[name]))
    assert failures({**data, name: array}, path, tmp_path)


@pytest.mark.parametrize("name", ["ap_r11", "ap_r40", "curves", "thresholds"])
@pytest.mark.parametrize("seed", range(3))
def test_altered_kitti_metric_fails(name, seed, tmp_path):
    path = GOLDEN / "eval" / "kitti_sparse.npz"
    data = dict(np.load(path))
    array = alter(np.array(data[name]), np.random.default_rng(seed).integers(data[name].size))
    assert failures({**data, name: array}, path, tmp_path)


@pytest.mark.parametrize("name", ["ap_r11", "ap_r40", "curves", "thresholds"])
def test_altered_metric_of_other_datasets_fails(shared, name, tmp_path):
    for number, path in enumerate(sorted((shared / "reference" / "golden" / "eval").glob("kitti_*.npz"))):
        data = dict(np.load(path))
        array = alter(np.array(data[name]), np.random.default_rng(number).integers(data[name].size))
        (tmp_path / path.stem).mkdir()
        assert failures({**data, name: array}, path, tmp_path / path.stem), path


def test_unaltered_file_passes(tmp_path):
    path = GOLDEN / "eval" / "kitti_sparse.npz"
    assert not failures(dict(np.load(path)), path, tmp_path)


def failures(data, path, tmp_path):
    """Return the failures of the check of a file with replaced arrays."""
    altered = tmp_path / path.parent.name / path.name
    altered.parent.mkdir()
    np.savez(altered, **data)
    check, _ = find_check(f"{path.parent.name}/{path.name}")
    comparison = Comparison()
    try:
        check(altered, comparison, tmp_path)
    except Exception as error:
        comparison.fail(repr(error))
    return comparison.failures
