import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from centernet_d2.data.batches import LARGE, Batch, _unpack
from support.tasks import random_objects, training_input


def sent(value):
    """Return the value that another process receives."""
    return pickle.loads(bytes(ForkingPickler.dumps(value)))


def same(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        return torch.equal(one, other)
    if isinstance(one, Instances):
        return one.image_size == other.image_size and same(one.get_fields(), other.get_fields())
    if hasattr(one, "tensor"):  # Boxes of any kind.
        return type(one) is type(other) and same(one.tensor, other.tensor)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one == other


def test_batch_is_transferred_unchanged():
    batch = Batch(training_input(random_objects(5, (160, 200), seed), seed) for seed in range(3))
    assert batch[0]["image"].nbytes > LARGE
    batch[0] |= {"file_name": "a.jpg", "color": torch.eye(3, 4), "scalar": torch.tensor(3)}
    received = sent(batch)
    assert type(received) is list
    assert all(same(one, other) for one, other in zip(batch, received, strict=True))


def test_only_images_use_shared_memory():
    batch = Batch(training_input(random_objects(5, (160, 200), seed), seed) for seed in range(3))
    unpack, (message, large) = batch.__reduce__()
    assert unpack is _unpack
    assert [id(tensor) for tensor in large] == [id(sample["image"]) for sample in batch]
    assert len(message) < LARGE


def test_small_received_tensors_are_writable():
    (received,) = sent(Batch([{"boxes": torch.zeros(2, 4)}]))
    received["boxes"] += 1
    assert torch.equal(received["boxes"], torch.ones(2, 4))


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.float16),
        torch.ones(0, 4),
        torch.ones(4, 6)[:, ::2],
        torch.tensor([True, False]),
        np.arange(3.0),
        "text",
        None,
    ],
)
def test_other_values(value):
    (received,) = sent(Batch([value]))
    assert np.array_equal(received, value) if isinstance(value, np.ndarray) else same(value, received)


def test_tensors_unsupported_by_numpy_are_transferred():
    sparse, small = sent(Batch([torch.eye(3).to_sparse(), torch.ones(3).to(torch.float8_e5m2)]))
    assert torch.equal(sparse.to_dense(), torch.eye(3))
    assert torch.equal(small.float(), torch.ones(3))


def test_shared_tensors_stay_shared():
    image = torch.zeros(LARGE, dtype=torch.uint8)
    first, second = sent(Batch([image, image]))
    first[0] = 7
    assert second[0] == 7
