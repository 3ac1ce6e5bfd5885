import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from centernet_d2 import load_config
from centernet_d2.data.loader import SAMPLERS, build_train_loader, find_stream
from centernet_d2.data.stream import SampleStream, StreamDataset, seeded

FACTORS = torch.tensor([1.0, 1.5, 2.2, 0.3, 1.0])


def take(stream, count, start=0):
    stream.start = start
    return list(itertools.islice(stream, count))


@pytest.mark.parametrize("factors", [None, FACTORS])
def test_stream_can_start_at_any_position(factors):
    stream = SampleStream(5, 3, repeat_factors=factors)
    whole = take(stream, 60)
    assert [position for position, _ in whole] == list(range(60))
    for start in range(41):
        assert take(stream, 10, start) == whole[start : start + 10]


def test_epochs_are_different_permutations():
    indices = [index for _, index in take(SampleStream(5, 3), 500)]
    epochs = [tuple(indices[first : first + 5]) for first in range(0, 500, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len(set(epochs)) > 50
    assert [index for _, index in take(SampleStream(5, 4), 500)] != indices


def test_images_are_repeated_by_their_factors():
    counts = np.bincount([index for _, index in take(SampleStream(5, 0, repeat_factors=FACTORS), 12000)])
    assert np.allclose(counts / counts.sum(), FACTORS / FACTORS.sum(), atol=0.01)


@pytest.mark.parametrize("factors", [None, FACTORS])
def test_processes_share_one_stream(factors):
    whole = take(SampleStream(5, 3, repeat_factors=factors), 40, 7)
    parts = [take(SampleStream(5, 3, repeat_factors=factors, rank=r, world_size=2), 20, 7) for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == whole


def test_seeded_restores_random_generators():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    undisturbed = [draw(), draw()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = draw()
    with seeded(1, 2):
        inside = draw()
    assert [first, draw()] == undisturbed
    with seeded(1, 2):
        assert draw() == inside
    with seeded(1, 3):
        assert draw() != inside


class Noise:
    """Mapper with random output and some unreadable images."""

    def __init__(self, broken=()):
        self.broken = broken

    def __call__(self, record):
        if record["file_name"] in self.broken:
            raise OSError(f"cannot read the image {record['file_name']}")
        return {**record, "noise": np.random.rand()}


def records(count=4):
    return [{"file_name": f"{index}.png", "annotations": []} for index in range(count)]


def test_augmentation_depends_on_stream_position():
    data = StreamDataset(records(), Noise(), seed=5)
    assert data[7, 2] == data[7, 2]
    # The augmentation of an image differs between epochs.
    assert data[7, 2]["noise"] != data[11, 2]["noise"]
    assert data[7, 2]["noise"] != StreamDataset(records(), Noise(), seed=6)[7, 2]["noise"]


def test_image_that_is_read_twice_at_the_same_time_is_reported_once(caplog):
    both = threading.Barrier(2, timeout=30)  # Both readers find the image unreadable before one of them reports it.

    def fail_together(record):
        if record["file_name"] == "2.png":
            both.wait()
            raise OSError("cannot read the image 2.png")
        return record

    data = StreamDataset(records(), fail_together, 0, max_bad_images=1)
    with ThreadPoolExecutor(2) as pool:
        assert [one["file_name"] for one in pool.map(data.__getitem__, [(0, 2), (1, 2)])] == ["3.png", "3.png"]
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
    assert data.bad_files() == ["2.png"]


def test_unreadable_images_raise_or_are_skipped_up_to_a_limit(caplog):
    with pytest.raises(OSError, match=r"cannot read the image 2.png"):
        StreamDataset(records(), Noise({"2.png"}), 0)[0, 2]
    data = StreamDataset(records(), Noise({"2.png", "3.png"}), 0, max_bad_images=2)
    # The next readable image replaces them.
    assert data[0, 2]["file_name"] == data[1, 2]["file_name"] == "0.png"
    assert data[2, 3]["file_name"] == "0.png"
    assert [record.message.partition(";")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "cannot read the image 2.png",
        "cannot read the image 3.png",
    ]
    assert data.bad_files() == ["2.png", "3.png"]
    data.mapper.broken = {f"{index}.png" for index in range(4)}
    with pytest.raises(OSError, match=r"3 images are unreadable, more than DATALOADER.MAX_BAD_IMAGES \(2\)"):
        data[3, 0]


def config(tmp_path, *overrides):
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((40, 40, 3), 50 * index, np.uint8))
    options = ["INPUT.AFFINE.SIZE", "[64, 64]", "SOLVER.IMS_PER_BATCH", 2, "MODEL.DEVICE", "cpu", *overrides]
    return load_config("Shapes/centernet_R_18_shapes.yaml", options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_independent_of_the_number_of_workers(tmp_path, sampler):
    dicts = [
        {
            "file_name": str(tmp_path / f"{index}.png"),
            "annotations": [{"bbox": [5, 5, 20, 20], "bbox_mode": 0, "category_id": index % 2}],
        }
        for index in range(4)
    ]

    def images(workers, start):
        overrides = ("DATALOADER.NUM_WORKERS", workers, "DATALOADER.SAMPLER_TRAIN", sampler)
        loader = build_train_loader(config(tmp_path, *overrides), dicts, seed=1)
        find_stream(loader)[0].start = 2 * start
        return [torch.stack([x["image"] for x in batch]) for batch in itertools.islice(loader, 5 - start)]

    reference = images(0, 0)
    for workers, start in ((2, 0), (0, 2), (2, 1)):
        assert all(torch.equal(a, b) for a, b in zip(images(workers, start), reference[start:], strict=True))


def test_unknown_sampler_raises(tmp_path):
    with pytest.raises(ValueError, match=r"DATALOADER.SAMPLER_TRAIN is 'WeightedTrainingSampler', known: Training"):
        build_train_loader(config(tmp_path, "DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"), records(), 0)
