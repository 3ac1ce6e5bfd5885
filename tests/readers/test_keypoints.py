import pytest

from centernet_d2.readers.keypoints import flip_pairs_of, pairs_from_order


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("leftear", "rightear"),
        ("Left Hip", "Right Hip"),
        ("LEFT_HIP", "RIGHT_HIP"),
        ("l_hip", "r_hip"),
        ("hip-l", "hip-r"),
        ("LShoulder", "RShoulder"),
        ("handL", "handR"),
        ("L", "R"),
        ("lHip", "rHip"),
    ],
)
def test_left_and_right_names_are_paired(left, right):
    assert flip_pairs_of(["nose", left, right]) == ((left, right),)


@pytest.mark.parametrize("names", [["left_eye", "nose"], ["tail", "tair"], ["ball", "barr"], ["Leg", "Reg"], []])
def test_other_names_are_not_paired(names):
    assert flip_pairs_of(names) == ()


def test_flip_order_must_swap_pairs():
    assert pairs_from_order(["a", "b", "c"], [0, 2, 1]) == (("b", "c"),)
    for order in ([1, 2, 0], [0, 0, 1], [0, 1]):
        with pytest.raises(ValueError, match="does not swap pairs of 3 keypoints"):
            pairs_from_order(["a", "b", "c"], order)
