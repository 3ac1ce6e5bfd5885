import numpy as np
from PIL import Image

from centernet_d2.report.duplicates import find_duplicates, hash_image


def write(path, seed, *, size=(80, 60), shift=0, quality=95):
    """Write an image of smooth noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 200, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int) + shift
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=quality)
    return str(path)


def test_exact_and_near_duplicates_are_found(tmp_path):
    train = [write(tmp_path / f"{seed}.jpg", seed) for seed in range(4)]
    exact = tmp_path / "copy.jpg"
    exact.write_bytes((tmp_path / "1.jpg").read_bytes())
    near = write(tmp_path / "near.jpg", 2, size=(160, 120), quality=60)
    bright = write(tmp_path / "bright.jpg", 3, shift=50)
    other = write(tmp_path / "other.jpg", 9)
    splits = {"train": train, "val": [str(exact), near, bright, other], "test": [other]}
    result = find_duplicates(splits, np.random.default_rng(0))
    pairs = {tuple(pair["splits"]): pair for pair in result["pairs"]}
    assert (pairs["train", "val"]["exact"], pairs["train", "val"]["near"]) == (1, 1)
    assert pairs["train", "val"]["files"] == [
        {"files": [train[1], str(exact)], "exact": True},
        {"files": [train[2], near], "exact": False},
    ]
    assert (pairs["train", "test"]["exact"], pairs["train", "test"]["near"]) == (0, 0)
    assert pairs["val", "test"]["exact"] == 1
    assert result["compared"] == {"train": 4, "val": 4, "test": 1}


def test_unreadable_images_are_skipped(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert hash_image(str(broken)) is None
    result = find_duplicates({"a": [str(broken)], "b": [write(tmp_path / "a.jpg", 0)]}, np.random.default_rng(0))
    assert result["compared"] == {"a": 0, "b": 1}
    assert result["pairs"][0]["files"] == []
