import numpy as np

from centernet_d2.report.collisions import count_collisions


def test_objects_of_one_class_in_a_cell_are_lost():
    image = np.array([0, 0, 0, 0, 1])
    classes = np.array([0, 0, 0, 1, 0])
    # Three objects of class 0 and one of class 1: two of class 0 in cell (1, 1), and the others in cell (2, 1).
    centers = np.array([[4.0, 4.0], [7.9, 7.9], [8.0, 4.0], [9.0, 5.0], [4.0, 4.0]])
    counts, crowded = count_collisions(image, classes, centers, 4)
    assert counts == {"same_class": 1, "other_class": 2, "share": 0.2, "recall_bound": 0.8}
    assert crowded.tolist() == [True, True, False, False, False]


def test_smaller_cells_separate_objects():
    centers, zeros = np.array([[4.0, 4.0], [7.9, 7.9], [5.0, 5.0]]), np.zeros(3, dtype=int)
    lost = {stride: count_collisions(zeros, zeros, centers, stride)[0]["same_class"] for stride in (8, 4, 2, 1)}
    assert lost == {8: 2, 4: 2, 2: 1, 1: 0}


def test_no_objects():
    counts, crowded = count_collisions(np.zeros(0), np.zeros(0, dtype=int), np.zeros((0, 2)), 4)
    assert counts == {"same_class": 0, "other_class": 0, "share": 0.0, "recall_bound": 1.0}
    assert len(crowded) == 0
