import pytest
from detectron2.engine import default_argument_parser

from centernet_d2 import model_zoo
from support.models import stub_heads, stub_model
from synthetic.shapes import write_shapes

SMALL = {
    "MODEL.DEVICE": "cpu",
    "INPUT.AFFINE.SIZE": "[64, 64]",
    "MODEL.UPCONV.CHANNELS": "[16, 16, 16]",
    "MODEL.CENTERNET.HEAD_CONV": "16",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "3",
    "SOLVER.WARMUP_ITERS": "0",
    "DATALOADER.NUM_WORKERS": "0",
    "TEST.EVAL_PERIOD": "0",
}


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_shapes(folder / "shapes", train=6, val=3, size=64)
    return folder


@pytest.fixture(scope="session")
def tiny_model():
    """Function (config) -> network of a thousand weights for Trainer.build_model, which makes checkpoints fast."""
    return lambda cfg: stub_model(heads=stub_heads(num_classes=cfg.MODEL.CENTERNET.NUM_CLASSES))


@pytest.fixture(scope="session")
def parse():
    """Function (flags, key=value...) -> parsed command line of a tiny training."""

    def make(*flags, **overrides):
        options = {**SMALL, **{k.replace("__", "."): v for k, v in overrides.items()}}
        config = ["--config-file", model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml")]
        pairs = [str(part) for pair in options.items() for part in pair]
        return default_argument_parser().parse_args([*config, *flags, *pairs])

    return make


@pytest.fixture
def arguments(parse, shapes_folder, tmp_path, monkeypatch):
    """Function like `parse`, for a training with the output folder tmp_path / "out"."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_folder))
    return lambda *flags, **overrides: parse(*flags, **{"OUTPUT_DIR": str(tmp_path / "out"), **overrides})
