import numpy as np

from centernet_d2.data.fingerprint import compare, fingerprint


def image(name="a.jpg", **annotation):
    entry = {"bbox": [1, 2, 3, 4], "category_id": 0, **annotation}
    return {"file_name": name, "height": 4, "width": 5, "annotations": [entry]}


def test_types_and_folders_do_not_matter():
    other = image("/data/a.jpg", bbox=np.array([1.0, 2, 3, 4], dtype=np.float32), category_id=np.int64(0))
    assert compare(fingerprint([image()]), fingerprint([other])) == ""


def test_changes_are_counted():
    old = fingerprint([image("a.jpg"), image("b.jpg"), image("\udcff.jpg")])
    new = fingerprint([image("a.jpg"), image("b.jpg", keypoints=[1, 2, 2])])
    assert compare(old, new) == (
        "1 of 2 images are new or have other annotations, and 2 of the previous 3 are missing or have other annotations"
    )
    assert compare(old, old.flip(0)) == "the order of its 3 images has changed"
    assert compare(old[:1], old[[0, 0]]).startswith("0 of 2 images are new")
