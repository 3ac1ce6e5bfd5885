"""Equality of distributed and single-process losses and gradients for the same batch."""

import datetime

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from centernet_d2.modeling.losses import average_over_processes
from support.processes import run_forked
from support.tasks import TASKS, random_objects, task_model, training_input

SIZE = (32, 32)
# Number of objects in the images of each process; 0, or more than the number of slots, is allowed.
SHARDS = {
    "uneven": ([7, 1], [0, 2]),
    "an empty one": ([0, 0], [5, 3]),
    "none at all": ([0], [0]),
    "two sizes": ([4], [1, 0, 2]),
}


def batch(counts, first):
    return [training_input(random_objects(count, SIZE, seed), seed) for seed, count in enumerate(counts, first)]


def learn(task, inputs, wrap):
    """Return losses, and gradients of their sum for all parameters."""
    # In float64, because the order of images changes float32 sums by more than the tolerance.
    model = wrap(task_model(task).double())
    losses = model(inputs)
    sum(losses.values()).backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def one_of_two(rank, folder):
    distributed.init_process_group(
        "gloo", f"file://{folder}/meet", datetime.timedelta(seconds=60), world_size=2, rank=rank
    )
    results = {}
    for task in TASKS:
        for name, shards in SHARDS.items():
            inputs = batch(shards[rank], first=rank * len(shards[0]))
            results[f"{task}, {name}"] = learn(task, inputs, DistributedDataParallel)
    distributed.barrier()
    return results


def test_two_processes_match_one_process_with_both_shards(tmp_path):
    first, second = run_forked(lambda rank: one_of_two(rank, tmp_path), 2, tmp_path)
    for task in TASKS:
        for name, shards in SHARDS.items():
            losses, gradients = learn(task, batch([*shards[0], *shards[1]], first=0), lambda model: model)
            case = f"{task}, {name}"
            for key, loss in losses.items():
                logged = (first[case][0][key] + second[case][0][key]) / 2
                assert logged == pytest.approx(loss.item(), rel=1e-5, abs=1e-9), (case, key)
            for key, gradient in gradients.items():
                largest = gradient.abs().max().item()
                for actual in (first[case][1][key], second[case][1][key]):
                    assert (actual - gradient).abs().max() <= 1e-5 * largest + 1e-12, (case, key)


def test_average_over_single_process():
    count = torch.tensor([3.0, 0.0], requires_grad=True)
    assert average_over_processes(count).tolist() == [3, 0]
    assert average_over_processes(count, eps=0.5, minimum=1).tolist() == [3.5, 1]
    assert not average_over_processes(count).requires_grad
    assert average_over_processes(torch.tensor(4)) == 4
