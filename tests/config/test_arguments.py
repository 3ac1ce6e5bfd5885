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
    """A subclass that uses Detectron2's decorator."""

    @configurable
    def __init__(self, **options):
        super().__init__(**options)


def config(color):
    return CfgNode({"DRAW": {"COLOR": color}})


def test_arguments_come_from_their_keys():
    assert arguments.read_keys(config("blue"), Shape.keys) == {"color": "blue"}
    assert Shape(config("blue")).color == Shape(cfg=config("blue")).color == Shape(color="blue").color == "blue"


@pytest.mark.parametrize("build", [Shape, lambda cfg: Shape(cfg=cfg), lambda cfg: Shape(cfg, size=2)])
def test_a_wrong_value_of_a_config_names_the_key(build):
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green', known: red, blue$"):
        build(config("green"))


def test_a_wrong_argument_names_the_argument():
    with pytest.raises(ArgumentError, match=r"^color is 'green', known: red, blue$"):
        Shape(color="green")
    # No key supplies it.
    with pytest.raises(ArgumentError, match=r"^size is 0, but must be positive$"):
        Shape(config("red"), size=0)


def test_subclasses_with_the_plain_decorator_are_named_by_the_code_that_builds_them():
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green'"), arguments.name_keys(Dot.keys):
        Dot(config("green"))
    with pytest.raises(ValueError, match=r"^DRAW.COLOR is 'green'"):
        arguments.build_from_keys(Dot, config("green"), Dot.keys)


def test_argument_errors_reach_other_processes():
    error = pickle.loads(pickle.dumps(ArgumentError("size", "is 0")))
    assert (error.argument, error.problem, str(error)) == ("size", "is 0", "size is 0")
