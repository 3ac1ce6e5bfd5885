import re
from pathlib import Path

import pytest
from torch import nn

from centernet_d2 import load_config
from centernet_d2.autoconfig.budget import (
    Pace,
    iterations_within,
    minutes_for,
    readable_duration,
    training_seconds,
)
from centernet_d2.autoconfig.choices import (
    Choice,
    Overrides,
    batch_size,
    bytes_per_pixel,
    choose_batch,
    choose_class_sizes,
    choose_detections,
    choose_evaluation,
    choose_input_size,
    choose_length,
    choose_network,
    choose_precision,
    choose_rate,
    evaluation_period,
    input_size,
    number_of_epochs,
    scaled_rate,
)
from centernet_d2.autoconfig.machine import Machine, half_speed, inspect_machine
from centernet_d2.config.catalog import get_base_file
from centernet_d2.readers import LabeledImage, LabeledObject
from centernet_d2.utils.text import plural

CPU = Machine("cpu", 8e9, 2, half_speed=1.0)
GPU = Machine("cuda", 80e9, 16, half_speed=2.0)


def image(width, height, side=0):
    objects = (LabeledObject("a", (0, 0, side, side)),) if side else ()
    return LabeledImage(Path("a.jpg"), objects, width, height)


@pytest.mark.parametrize(
    ("images", "sides", "size"),
    [
        # Large objects: smallest width; the height keeps the aspect ratio, rounded up to a multiple of 32.
        ([image(640, 480, 200)], (320, 512), (256, 320)),
        # Objects of 1/40 of the image need 12 * 40 pixels.
        ([image(1000, 500, 25)], (320, 512), (256, 480)),
        # Tiny objects: largest width.
        ([image(4000, 4000, 10)], (320, 512), (512, 512)),
        # The longer side fills the width, so a portrait image needs a square input.
        ([image(640, 480, 200), image(480, 640, 200)], (320, 512), (320, 320)),
        # The input is not larger than the images.
        ([image(64, 48, 30)], (320, 512), (64, 64)),
        # No objects.
        ([image(640, 320)], (320, 512), (160, 320)),
    ],
)
def test_input_size(images, sides, size):
    assert input_size(images, 32, sides) == size


def test_input_size_by_width_and_divisibility():
    assert input_size([image(1242, 375, 300)], 32, (320, 512), by_width=True) == (96, 320)
    assert input_size([image(480, 640, 200)], 32, (320, 512), by_width=True) == (448, 320)
    assert input_size([image(640, 480, 200)], 128, (320, 512)) == (384, 384)


@pytest.mark.parametrize(
    ("images", "memory", "on_gpu", "batch"),
    [
        (100, 8e9, False, 8),
        (5, 8e9, False, 4),
        (1, 8e9, False, 1),
        (100, 400e6, False, 2),
        (100, 1e6, False, 1),
        (100, 80e9, True, 16),
        (100_000, 80e9, True, 32),
    ],
)
def test_batch_size(images, memory, on_gpu, batch):
    assert batch_size(images, (256, 320), memory, 1000.0, on_gpu=on_gpu) == batch


def test_bytes_per_pixel_counts_saved_tensors():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU())
    # Three input channels and eight output channels of four bytes each, times MEMORY_FACTOR.
    assert bytes_per_pixel(network, 32) == pytest.approx(2 * (3 + 8) * 4)


def test_network_depends_on_images_weights_and_device():
    assert choose_network(200, on_gpu=False, with_trunk=False)[0] == "small"
    assert choose_network(200, on_gpu=True, with_trunk=False)[0] == "small"
    assert choose_network(200, on_gpu=False, with_trunk=True)[0] == "trunk"
    assert choose_network(50_000, on_gpu=True, with_trunk=False)[0] == "large"
    assert choose_network(50_000, on_gpu=False, with_trunk=False)[0] == "large on a CPU"


def test_more_epochs_for_fewer_images():
    assert number_of_epochs(200) == 100
    assert number_of_epochs(3) == 300
    assert number_of_epochs(100_000) == 12


def test_scaled_rate_uses_the_square_root_of_the_batch_ratio():
    assert scaled_rate(1e-3, 8, 8) == 1e-3
    assert scaled_rate(1e-3, 8, 32) == 2e-3
    assert scaled_rate(1e-3, 8, 4) == 7.1e-4


def test_evaluation_period_limits_the_share_of_time():
    assert evaluation_period(1000) == 200
    assert evaluation_period(2) == 0
    assert evaluation_period(1000, step=1.0, evaluation=10.0) == 200
    # 50 of 1000 seconds are for evaluations: two of 20 seconds.
    assert evaluation_period(1000, step=1.0, evaluation=20.0) == 334
    assert evaluation_period(1000, step=1.0, evaluation=60.0) == 0


def test_time_budget_includes_start_and_evaluations():
    pace = Pace(step=0.5, evaluation=20.0, final=20.0, start=10.0)
    count = iterations_within(100.0, pace)
    assert 65 / 0.5 <= count <= 70 / 0.5
    assert iterations_within(5.0, pace) == 1
    # Includes four intermediate evaluations.
    four = Pace(step=0.5, evaluation=10.0, final=30.0, start=0.0)
    assert iterations_within(1000.0, four) == int((0.97 * 970 - 40) / 0.5)
    assert training_seconds(1001, 250, four) == 1001 * 0.5 + 4 * 10 + 30
    assert training_seconds(10, 0, four) == 10 * 0.5 + 30


@pytest.mark.parametrize("iterations", [7, 500, 5000])
@pytest.mark.parametrize("evaluation", [0.5, 20.0])
def test_needed_minutes_are_sufficient_and_not_much_more(iterations, evaluation):
    pace = Pace(step=0.5, evaluation=evaluation, final=25.0, start=10.0)
    minutes = minutes_for(iterations, 12.0, pace)
    assert iterations_within(minutes * 60 - 12.0, pace) >= iterations
    assert iterations_within((minutes - 0.3) * 60 - 12.0 - 0.05 * minutes * 60, pace) < iterations


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 seconds"), (150, "2 minutes"), (5000, "83 minutes"), (7200, "2.0 hours")]
)
def test_readable_duration(seconds, text):
    assert readable_duration(seconds) == text


def test_few_epochs_are_noted():
    assert choose_length(4, 10, 2, "", NONE).notes == ("warning: less than 5 epochs, so detections will be poor",)
    assert choose_length(25, 10, 2, "", NONE).notes == ()


def test_half_speed_is_a_ratio():
    assert half_speed(seconds=0.0) > 0


NONE = Overrides({})


def overrides(**values):
    return Overrides({key.replace("__", "."): value for key, value in values.items()})


def test_overrides_have_the_types_of_their_keys():
    cfg = load_config(get_base_file("Base-HG-small.yaml"), ["INPUT.AFFINE.SIZE", "[64, 96]", "SOLVER.BASE_LR", "0.01"])
    user = Overrides.from_config(cfg, ["INPUT.AFFINE.SIZE", "SOLVER.BASE_LR"])
    assert user.values == {"INPUT.AFFINE.SIZE": [64, 96], "SOLVER.BASE_LR": 0.01}
    assert user.get("SOLVER.BASE_LR", 1.0) == 0.01
    assert user.get("SEED", 7) == 7
    assert (user.reason("SOLVER.BASE_LR", "x"), user.reason("SEED", "x")) == ("set by you", "x")


def test_a_choice_has_keys_a_reason_and_lines():
    choice = choose_precision(GPU, NONE)
    assert choice.keys == {"SOLVER.AMP.ENABLED": True}
    (line,) = choice.lines(120)
    assert re.match(r"  half precision +on +SOLVER.AMP.ENABLED; default on a GPU", line)


@pytest.mark.parametrize("width", [80, 100])
def test_long_reasons_are_wrapped_without_breaking_paths(width):
    path = "output/a-run-with-a-long-name/model_final.pth"
    lines = Choice("network", "small", f"--model; starts from {path}, as set by you", notes=("note " * 30,)).lines(
        width
    )
    assert max(map(len, lines)) <= width
    assert any(path in line for line in lines)
    assert " ".join(" ".join(lines).split()).startswith("network small --model; starts from output/a-run")


def test_slow_half_precision_is_off():
    # In measurements, the channels-last memory format was faster only in half precision on a GPU.
    assert choose_precision(CPU, NONE).keys == {"SOLVER.AMP.ENABLED": False}
    assert choose_precision(CPU, overrides(SOLVER__AMP__ENABLED=True)).keys == {"SOLVER.AMP.ENABLED": True}


def test_input_size_depends_on_dataset_and_device():
    images = [image(640, 480, 200)] * 100
    choice = choose_input_size(images, GPU, 32, NONE, by_width=False)
    assert choice.keys == {"INPUT.AFFINE.SIZE": [384, 512], "MODEL.CENTERNET.TEST_RESOLUTION": "fixed"}
    own = choose_input_size(images, CPU, 32, overrides(INPUT__AFFINE__SIZE=[64, 96]), by_width=True)
    assert own.keys == {"INPUT.AFFINE.SIZE": [64, 96]}
    assert "64 x 96" in own.value
    assert "set by you" in own.reason


def test_batch_and_workers_depend_on_the_machine():
    choice = choose_batch(100, (384, 512), GPU, 1000.0, NONE)
    assert choice.keys == {
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.REFERENCE_IMS_PER_BATCH": 0,
        "DATALOADER.NUM_WORKERS": 8,
    }
    own = choose_batch(100, (64, 96), CPU, 1000.0, overrides(SOLVER__IMS_PER_BATCH=3))
    assert (own.keys["SOLVER.IMS_PER_BATCH"], own.keys["DATALOADER.NUM_WORKERS"]) == (3, 1)


@pytest.mark.parametrize(
    ("counts", "per_class", "reason"),
    [
        ({"a": 300, "b": 100}, True, "b has 100 objects"),
        ({"a": 300, "b": 99}, False, "b has 99 objects"),
        ({"a": 300, "b": 100, "c": 0}, False, "c has 0 objects"),
        ({"a": 300}, False, "there is only one class"),
    ],
)
def test_size_map_per_class_if_every_class_has_enough_objects(counts, per_class, reason):
    objects = [LabeledObject(name, (0, 0, 5, 5)) for name, count in counts.items() for _ in range(count)]
    objects += [LabeledObject(name, (0, 0, 9, 9), crowd=True) for name in counts]  # Crowds are not counted.
    images = [LabeledImage(Path(f"{start}.jpg"), tuple(objects[start::2]), 9, 9) for start in (0, 1)]
    choice = choose_class_sizes(images, list(counts), NONE)
    assert choice.keys == {"MODEL.CENTERNET.CLASS_SPECIFIC_SIZE": per_class}
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("user", "rate", "decay"),
    [
        ({}, 0.01, None),
        ({"SOLVER.OPTIMIZER": "Adam"}, 0.001, 0.0),
        ({"SOLVER.OPTIMIZER": "AdamW"}, 0.002, 0.05),
        ({"SOLVER.OPTIMIZER": "Muon"}, 0.01, None),
        ({"SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": 0.1}, 0.1, None),
    ],
)
def test_learning_rate_depends_on_the_optimizer(user, rate, decay):
    network = load_config(get_base_file("Base-HG-small-boxes.yaml"))
    choice = choose_rate(network, 8, Overrides(user))
    assert choice.keys["SOLVER.BASE_LR"] == rate
    assert choice.keys.get("SOLVER.WEIGHT_DECAY") == decay
    assert (choice.keys["SOLVER.LR_SCHEDULER_NAME"], choice.keys["SOLVER.STEPS"]) == ("WarmupCosineLR", ())


def test_learning_rate_scales_with_the_batch():
    network = load_config(get_base_file("Base-HG-small-boxes.yaml"))
    assert choose_rate(network, 16, NONE).keys["SOLVER.BASE_LR"] == 0.014


def test_optimizer_without_a_known_rate_raises():
    network = load_config(get_base_file("Base-HG-small-boxes.yaml"))
    with pytest.raises(ValueError, match=r"no learning rate is known for SOLVER.OPTIMIZER SGD: set SOLVER.BASE_LR"):
        choose_rate(network, 8, overrides(SOLVER__OPTIMIZER="SGD"))


def test_length_sets_warm_up_and_checkpoints():
    choice = choose_length(1000, 100, 16, "because", NONE)
    assert choice.keys == {
        "SOLVER.MAX_ITER": 1000,
        "SOLVER.EPOCHS": 0,
        "SOLVER.WARMUP_ITERS": 50,
        "SOLVER.MAX_TO_KEEP": 2,
        "SOLVER.CHECKPOINT_PERIOD": 200,
    }
    assert choice.value == "1000 iterations, 160.0 epochs"
    assert choice.reason.endswith("because")


@pytest.mark.parametrize(
    ("user", "iterations"),
    [({"SOLVER.EPOCHS": 2}, 67), ({"SOLVER.MAX_ITER": 12}, 12), ({"SOLVER.MAX_ITER": 12, "SOLVER.EPOCHS": 2}, 67)],
)
def test_length_set_by_the_user(user, iterations):
    # Two epochs of 100 images in batches of 3.
    choice = choose_length(1000, 100, 3, "because", Overrides(user))
    assert choice.keys["SOLVER.MAX_ITER"] == iterations
    assert choice.reason == "SOLVER.MAX_ITER; set by you"


def test_evaluation_period_and_override():
    assert choose_evaluation(1000, ["val"], NONE).keys == {"TEST.EVAL_PERIOD": 200}
    choice = choose_evaluation(1000, ["val"], overrides(TEST__EVAL_PERIOD=7))
    assert (choice.keys, choice.value) == ({"TEST.EVAL_PERIOD": 7}, "every 7 iterations")
    assert choose_evaluation(2, [], NONE).reason.endswith("on nothing")


@pytest.mark.parametrize(("device", "index"), [("cuda", None), ("cuda:1", 1)])
def test_memory_of_a_gpu_is_queried_by_index(monkeypatch, device, index):
    # torch before 2.5 does not accept "cuda" without an index, but accepts None.
    monkeypatch.setattr(
        "torch.cuda.mem_get_info", lambda device: (8e9, 9e9) if device == index else pytest.fail(device)
    )
    machine = inspect_machine(device, measure=True)
    assert (machine.device, machine.memory) == (device, 8e9)


@pytest.mark.parametrize(("most", "limit"), [(1, 100), (100, 100), (101, 200), (540, 600), (600, 600)])
def test_all_objects_of_an_image_can_be_detected(most, limit):
    images = [LabeledImage(Path("a.jpg"), (LabeledObject("a", (0, 0, 1, 1)),) * count) for count in (0, most)]
    assert choose_detections(images, NONE).keys == {"TEST.DETECTIONS_PER_IMAGE": limit}
    assert choose_detections(images, NONE).reason.endswith(f"an image has up to {plural(most, 'object')}")
    low = choose_detections(images, overrides(TEST__DETECTIONS_PER_IMAGE=50))
    assert bool(low.notes) == (most > 50)
