from pathlib import Path

import pytest
from torch import nn

from centernet_d2 import load_config
from centernet_d2.autoconfig.budget import Pace, iterations_within
from centernet_d2.autoconfig.choices import (
    Choices,
    Machine,
    batch_size,
    bytes_per_pixel,
    choose_batch,
    choose_input,
    choose_network,
    choose_sizes,
    evaluation_period,
    half_speed,
    input_size,
    look_at_machine,
    number_of_epochs,
    reference_rate,
    scaled_rate,
    set_iterations,
)
from centernet_d2.config.catalog import get_base_file
from centernet_d2.readers import LabeledImage, LabeledObject

CPU = Machine("cpu", 8e9, 2, half_speed=1.0)
GPU = Machine("cuda", 80e9, 16, half_speed=2.0)


def image(width, height, side=0):
    things = (LabeledObject("a", (0, 0, side, side)),) if side else ()
    return LabeledImage(Path("a.jpg"), things, width, height)


@pytest.mark.parametrize(
    ("images", "sides", "size"),
    [
        # Large objects: the least width, heights by the shape, rounded up to a multiple of 32.
        ([image(640, 480, 200)], (320, 512), (256, 320)),
        # Objects of a fortieth need 12 * 40 pixels.
        ([image(1000, 500, 25)], (320, 512), (256, 480)),
        # Tiny objects: the most.
        ([image(4000, 4000, 10)], (320, 512), (512, 512)),
        # The longer side fills the width, so an upright image needs a square.
        ([image(640, 480, 200), image(480, 640, 200)], (320, 512), (320, 320)),
        # Larger than the images is of no use.
        ([image(64, 48, 30)], (320, 512), (64, 64)),
        # No objects at all.
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


def test_bytes_per_pixel_counts_what_the_backward_pass_needs():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU())
    # Three channels of the input and eight of the output, four bytes each.
    assert bytes_per_pixel(network, 32) == pytest.approx(2 * (3 + 8) * 4)


def test_networks_by_images_weights_and_device():
    assert choose_network(200, on_gpu=False, with_trunk=False)[0] == "small"
    assert choose_network(200, on_gpu=True, with_trunk=False)[0] == "small"
    assert choose_network(200, on_gpu=False, with_trunk=True)[0] == "trunk"
    assert choose_network(50_000, on_gpu=True, with_trunk=False)[0] == "large"
    assert choose_network(50_000, on_gpu=False, with_trunk=False)[0] == "large on a CPU"


def test_few_images_are_seen_more_often():
    assert number_of_epochs(200) == 100
    assert number_of_epochs(3) == 300
    assert number_of_epochs(100_000) == 12


def test_rates_grow_with_the_square_root_of_the_batch():
    assert scaled_rate(1e-3, 8, 8) == 1e-3
    assert scaled_rate(1e-3, 8, 32) == 2e-3
    assert scaled_rate(1e-3, 8, 4) == 7.1e-4


def test_evaluations_take_a_small_part_of_the_time():
    assert evaluation_period(1000) == 200
    assert evaluation_period(2) == 0
    assert evaluation_period(1000, step=1.0, evaluation=10.0) == 200
    # Of 1000 seconds 50 are for evaluations: two of 20.
    assert evaluation_period(1000, step=1.0, evaluation=20.0) == 334
    assert evaluation_period(1000, step=1.0, evaluation=60.0) == 0


def test_iterations_fit_together_with_start_and_evaluation():
    pace = Pace(step=0.5, evaluation=20.0, start=10.0)
    count = iterations_within(100.0, pace)
    assert 65 / 0.5 <= count <= 70 / 0.5
    assert iterations_within(5.0, pace) == 1
    # Four evaluations in between take their time too.
    assert iterations_within(1000.0, Pace(step=0.5, evaluation=10.0, start=0.0)) == int((0.97 * 990 - 40) / 0.5)


def test_half_speed_is_a_ratio():
    assert half_speed(seconds=0.0) > 0


def choices(*told):
    cfg = load_config(get_base_file("Base-HG-small.yaml"), [*told, "MODEL.DEVICE", "cpu"])
    return Choices(cfg, told[::2])


def test_choices_are_a_config():
    made = choices()
    choose_input(made, [image(640, 480, 200)] * 100, GPU, 32, by_width=False)
    choose_batch(made, 100, GPU, 1000.0, (1e-3, 8))
    set_iterations(made, 1000, 100, "because")
    solver = made.cfg.SOLVER
    assert solver.AMP.ENABLED
    assert made.cfg.MODEL.CENTERNET.CHANNELS_LAST
    assert made.cfg.INPUT.AFFINE.SIZE == [384, 512]
    assert made.cfg.MODEL.CENTERNET.TEST_RESOLUTION == "fixed"
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 1.4e-3)
    assert (solver.LR_SCHEDULER_NAME, solver.STEPS) == ("WarmupCosineLR", ())
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, made.cfg.TEST.EVAL_PERIOD) == (1000, 50, 200)
    assert any("1000 iterations, 160.0 epochs" in line and "because" in line for line in made.lines)


def test_what_the_command_line_names_is_not_chosen():
    told = ["SOLVER.AMP.ENABLED", "True", "INPUT.AFFINE.SIZE", "[64, 96]", "SOLVER.IMS_PER_BATCH", "3"]
    made = choices(*told, "SOLVER.BASE_LR", "0.01", "TEST.EVAL_PERIOD", "7", "SOLVER.EPOCHS", "2", "SEED", "5")
    choose_input(made, [image(640, 480, 200)] * 100, CPU, 32, by_width=False)
    choose_batch(made, 100, CPU, 1000.0, (1e-3, 8))
    set_iterations(made, 1000, 100, "because")
    solver = made.cfg.SOLVER
    assert solver.AMP.ENABLED
    assert made.cfg.INPUT.AFFINE.SIZE == [64, 96]
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, made.cfg.TEST.EVAL_PERIOD, made.cfg.SEED) == (3, 0.01, 7, 5)
    # Two epochs of 100 images in batches of 3.
    assert solver.MAX_ITER == 67
    assert any("as told" in line for line in made.lines)


@pytest.mark.parametrize(
    ("counts", "own", "why"),
    [
        ({"a": 300, "b": 100}, True, "b has 100 objects"),
        ({"a": 300, "b": 99}, False, "b has 99 objects"),
        ({"a": 300, "b": 100, "c": 0}, False, "c has 0 objects"),
        ({"a": 300}, False, "there is one class"),
    ],
)
def test_classes_of_many_objects_have_sizes_of_their_own(counts, own, why):
    things = [LabeledObject(name, (0, 0, 5, 5)) for name, count in counts.items() for _ in range(count)]
    things += [LabeledObject(name, (0, 0, 9, 9), crowd=True) for name in counts]  # These teach no size.
    made = choices()
    choose_sizes(
        made,
        [LabeledImage(Path("a.jpg"), tuple(things[::2]), 9, 9), LabeledImage(Path("b.jpg"), tuple(things[1::2]), 9, 9)],
        list(counts),
    )
    assert made.cfg.MODEL.CENTERNET.CLASS_SPECIFIC_SIZE == own
    assert why in made.lines[-1]


@pytest.mark.parametrize(
    ("told", "rate", "decay"),
    [
        ([], 0.01, 0.05),
        (["SOLVER.OPTIMIZER", "Adam"], 0.001, 0.0),
        (["SOLVER.OPTIMIZER", "AdamW", "SOLVER.WEIGHT_DECAY", 0.3], 0.002, 0.3),
        (["SOLVER.OPTIMIZER", "Muon"], 0.01, 0.05),
    ],
)
def test_another_optimizer_has_another_rate(told, rate, decay):
    base = get_base_file("Base-HG-small-boxes.yaml")
    made = Choices(load_config(base, told), set(told[::2]))
    assert reference_rate(made, load_config(base)) == (rate, 8)
    assert made.cfg.SOLVER.WEIGHT_DECAY == decay


def test_an_optimizer_without_a_known_rate_needs_one():
    base, told = get_base_file("Base-HG-small-boxes.yaml"), ["SOLVER.OPTIMIZER", "SGD"]
    with pytest.raises(ValueError, match=r"no rate is known for SOLVER.OPTIMIZER SGD: name SOLVER.BASE_LR"):
        reference_rate(Choices(load_config(base, told), set(told[::2])), load_config(base))
    told += ["SOLVER.BASE_LR", 0.1]  # What is told stays, whatever is set behind it.
    reference_rate(Choices(load_config(base, told), set(told[::2])), load_config(base))


def test_a_length_of_the_command_line_counts_before_the_epochs_of_a_model_file():
    made = choices()
    made.cfg.SOLVER.EPOCHS = 50
    set_iterations(made, 125, 100, "--epochs")
    assert (made.cfg.SOLVER.MAX_ITER, made.cfg.SOLVER.EPOCHS) == (125, 0)
    assert any("125 iterations" in line and "--epochs" in line for line in made.lines)


@pytest.mark.parametrize(("device", "index"), [("cuda", None), ("cuda:1", 1)])
def test_the_memory_of_a_gpu_is_asked_for_by_its_index(monkeypatch, device, index):
    # torch before 2.5 refuses "cuda" without a number, but takes None.
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda asked: (8e9, 9e9) if asked == index else pytest.fail(asked))
    machine = look_at_machine(device, measure=True)
    assert (machine.device, machine.memory) == (device, 8e9)


def test_a_slow_half_precision_is_off():
    made = choices()
    choose_input(made, [image(640, 480, 200)], CPU, 32, by_width=False)
    assert not made.cfg.SOLVER.AMP.ENABLED
    # A layout that was measured to pay in half precision on a GPU alone.
    assert not made.cfg.MODEL.CENTERNET.CHANNELS_LAST
