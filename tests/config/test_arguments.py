import pickle

import pytest
from detectron2.config import CfgNode, configurable

from centernet_d2.config import arguments
from centernet_d2.utils.validation import ArgumentError, check_choice


class Shape:
    keys = {"color": "DRAW.COLOR"}

    @arguments.configurable
    def __init__(self, *, color="red", size=1):
        check_choice("color", color, ("red", "blue"))
        if size < 1:
            raise ArgumentError("size", f"is {size}, but must be positive")
        self.color = color

    @classmethod
    def from_config(cls, cfg, size=1):
        return {**arguments.read_keys(cfg, cls.keys), "size": size}


class Dot(Shape):
    """Subclass that uses Detectron2's decorator."""

    @configurable
    def __init__(self, **options):
        super().__init__(**options)


def config(color):
    return CfgNode({"DRAW": {"COLOR": color}})


def test_arguments_are_read_from_keys():
    assert arguments.read_keys(config("blue"), Shape.keys) == {"color": "blue"}
    assert Shape(config("blue")).color == Shape(cfg=config("blue")).color == Shape(color="blue").color == "blue"


@pytest.mark.parametrize("build", [Shape, lambda cfg: Shape(cfg=cfg), lambda cfg: Shape(cfg, size=2)])
def test_invalid_config_value_names_key(build):
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green', known: red, blue$"):
        build(config("green"))


def test_invalid_argument_names_argument():
    with pytest.raises(ArgumentError, match=r"^color is 'green', known: red, blue$"):
        Shape(color="green")
    # `size` has no config key.
    with pytest.raises(ArgumentError, match=r"^size is 0, but must be positive$"):
        Shape(config("red"), size=0)


def test_builder_of_subclass_with_detectron2_decorator_names_key():
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green'"), arguments.name_keys(Dot.keys):
        Dot(config("green"))
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green'"):
        arguments.build_from_keys(Dot, config("green"), Dot.keys)


def test_argument_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(ArgumentError("size", "is 0")))
    assert (error.argument, error.problem, str(error)) == ("size", "is 0", "size is 0")
