"""Annotations to losses, and maps to detections: a valid result or one clear error."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from hypothesis import strategies as st
from PIL import Image

from centernet_d2 import load_config, model_zoo
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.checks import load_checked
from centernet_d2.data.coco import CocoDataset
from centernet_d2.data.stream import seeded
from centernet_d2.modeling.heads import build_properties
from centernet_d2.modeling.heads.build import build_point_heads
from centernet_d2.readers.extents import derived_box
from centernet_d2.utils.validation import LARGEST_COORDINATE
from support.fuzz import fuzzed, try_inputs
from support.models import stub_model
from support.tasks import task_model

SIZE = (40, 60)
OVERRIDES = {
    "MODEL.DEVICE": "cpu",
    "INPUT.AFFINE.SIZE": [64, 64],
    "INPUT.AFFINE.ROTATE": 20.0,
    "INPUT.AFFINE.ROTATE_PROB": 0.3,
    "MODEL.CENTERNET.NUM_CLASSES": 2,
    "MODEL.CENTERNET.HEAD_CONV": 0,
    "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead", "KeypointHead", "Box3DHead"],
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "MODEL.CENTERNET.KEYPOINTS.NAMES": ["nose", "left", "right"],
    "MODEL.CENTERNET.KEYPOINTS.FLIP_MAP": [["left", "right"]],
    "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS": False,
    "MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL": 100.0,
    "MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH": "camera",
}


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


# Mostly numbers near the image, and some far outside.
COORDINATES = st.one_of(
    st.integers(-20, 80), st.floats(-20, 80), st.floats(-1e8, 1e8), st.sampled_from([0, 1e-9, 2**24, -(2**24), 1e300])
)
METERS = st.one_of(st.floats(-5, 60), st.sampled_from([0.0, 1e-12, 1e30, -1e30]))
SPACE = st.fixed_dictionaries(
    {},
    optional={
        "location": st.lists(METERS, min_size=3, max_size=3),
        "dimensions": st.lists(METERS, min_size=3, max_size=3),
        "rotation_y": METERS,
        "alpha": METERS,
        "depth": METERS,
    },
)
ANNOTATIONS = st.tuples(
    st.fixed_dictionaries(
        {"category_id": st.integers(1, 2), "bbox": st.lists(COORDINATES, min_size=4, max_size=4)},
        optional={
            "iscrowd": st.integers(0, 1),
            "keypoints": st.one_of(
                st.none(),
                st.lists(st.tuples(COORDINATES, COORDINATES, st.integers(0, 3)), max_size=4).map(
                    lambda joints: [value for joint in joints for value in joint]
                ),
            ),
        },
    ),
    st.one_of(st.just({}), SPACE),
).map(lambda parts: {**parts[0], **parts[1]})
CAMERAS = st.one_of(
    st.none(),
    st.floats(1, 1e4).map(lambda f: [[f, 0, 30, 0], [0, f, 20, 0], [0, 0, 1, 0]]),
    st.lists(st.lists(METERS, min_size=4, max_size=4), min_size=3, max_size=3),
)
SAMPLES = st.tuples(
    st.lists(ANNOTATIONS, max_size=6),
    CAMERAS,
    st.sampled_from(["none", "crop", "jitter"]),
    st.sampled_from(["object", "ignore"]),
    st.integers(0, 2**30),
)


@fuzzed(30)
def test_from_annotations_to_losses(inputs, tmp_path):
    Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    configs = {}
    for mode in ("none", "crop", "jitter"):
        for crowd in ("object", "ignore"):
            options = {**OVERRIDES, "INPUT.AFFINE.MODE": mode, "MODEL.CENTERNET.QUIRKS.CROWD": crowd}
            flat = [part for pair in options.items() for part in pair]
            cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), flat)
            configs[mode, crowd] = CenterNetDatasetMapper(cfg, True)
    properties = build_properties(cfg)
    heads = build_point_heads(cfg, ShapeSpec(channels=4, stride=4), 1)
    model = stub_model(heads)
    maps = {name: torch.randn(1, count, 16, 16) for head in heads for name, count in head.maps.items()}

    def body(sample):
        annotations, camera, mode, crowd, seed = sample
        image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
        content = {
            "images": [image if camera is None else {**image, "camera": camera}],
            "annotations": [{"image_id": 1, **annotation} for annotation in annotations],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        DatasetCatalog.register("fuzzed", CocoDataset("fuzzed", str(tmp_path / "a.json"), str(tmp_path)))
        try:
            (record,) = load_checked(["fuzzed"], 2, properties)
        finally:
            DatasetCatalog.remove("fuzzed")
            MetadataCatalog.remove("fuzzed")
        usable = [x for x in annotations if all(abs(value) <= LARGEST_COORDINATE for value in x["bbox"])]
        # Other boxes, and boxes without width and height, are skipped unless keypoints determine the box.
        kept = [x for x in annotations if (x in usable and x["bbox"][2:] != [0, 0]) or derived_box(x, SIZE[::-1])[0]]
        assert len(record["annotations"]) == len(kept)
        with seeded(seed):
            loaded = configs[mode, crowd](record)
        if mode == "none" and not loaded["instances"].has("gt_blind"):
            assert len(loaded["instances"]) >= sum(map(clearly_visible, usable))
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in maps.items()}
        losses = model.losses([leaves], model.targets(*model.ground_truth([loaded], (16, 16))))
        assert all(loss.isfinite() for loss in losses.values()), losses
        sum(losses.values()).backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves.values())

    tried, refused = try_inputs(inputs, SAMPLES, body)
    assert 0 < refused < tried


def clearly_visible(annotation):
    """Return True if at least one pixel of a box is inside the image, so that it must be kept."""
    x, y, width, height = annotation["bbox"]
    return min(x + width, SIZE[1]) - max(x, 0) > 1 and min(y + height, SIZE[0]) - max(y, 0) > 1


VALUES = st.one_of(
    st.floats(-10, 10, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1e4, -1e4, 65504.0]),
)
MAPS = st.tuples(
    st.sampled_from(["boxes", "pose", "space"]),
    st.integers(1, 2),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 2**30),
    st.lists(VALUES, min_size=1, max_size=6),
    st.one_of(st.none(), st.tuples(st.integers(0, 9), st.sampled_from([float("nan"), float("inf"), -float("inf")]))),
)


@fuzzed(50)
def test_from_maps_to_detections(inputs):
    models = {task: task_model(task, max_detections=10).eval() for task in ("boxes", "pose", "space")}
    for model in models.values():
        model.stride = 4
    camera = [[100.0, 0, 30, 0], [0, 100, 20, 0], [0, 0, 1, 0]]

    @torch.no_grad()
    def body(sample):
        task, batch, size, seed, values, bad = sample
        model, random = models[task], torch.Generator().manual_seed(seed)
        raw = {}
        for head in model.heads.values():
            for name, count in head.maps.items():
                picked = torch.randint(len(values), (batch, count, *size), generator=random)
                raw[name] = torch.tensor(values)[picked]
        if bad is not None:
            name = sorted(raw)[bad[0] % len(raw)]
            raw[name].flatten()[bad[0] % raw[name].numel()] = bad[1]
        maps = model.activate(raw)
        image = {"image": torch.zeros(3, 4 * size[0], 4 * size[1], dtype=torch.uint8), "camera": camera}
        _, geometries = model.preprocessor.canvases([image] * batch)
        if bad is not None and np.isnan(bad[1]):
            with pytest.raises(FloatingPointError):
                model.detect(maps, geometries)
            return
        for instances in model.detect(maps, geometries):
            assert len(instances) <= 10
            for field, value in instances.get_fields().items():
                tensor = value.tensor if hasattr(value, "tensor") else value
                assert tensor.isfinite().all(), field

    try_inputs(inputs, MAPS, body)
