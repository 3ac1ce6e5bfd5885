"""Config keys that this project adds to Detectron2's config."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from .registry import POINT_HEAD_REGISTRY

__all__ = ["SWITCHES", "add_centernet_config", "check_keys"]

#: Keys with the values True, False and "auto".
SWITCHES = ("MODEL.CENTERNET.CHANNELS_LAST", "TEST.FOLD_NORMS")


def check_keys(cfg: CfgNode) -> None:
    """Raise a ValueError if a config lacks the keys of :func:`add_centernet_config`."""
    if "CENTERNET" not in cfg.MODEL:
        raise ValueError(
            "the config has no CenterNet keys: call centernet_d2.add_centernet_config(cfg) after get_cfg(), or use "
            "centernet_d2.load_config(file)"
        )


def add_centernet_config(cfg: CfgNode) -> None:
    """Add the CenterNet keys to a Detectron2 config.

    The defaults are the values of the reference implementation. Existing keys keep their values, except for
    MODEL.DEVICE "cuda", which becomes "cpu" if no GPU is available. ``configs/Base-CenterNet.yaml`` overrides the other
    defaults of Detectron2 that are not compatible with CenterNet. The keys of a custom head are added if its module has
    been imported.
    """
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _add_model_keys(cfg.MODEL)
    _add_input_keys(cfg.INPUT)
    _add_test_keys(cfg.TEST)
    cfg.MODEL.CENTERNET.QUIRKS = CfgNode()
    _add_quirk_keys(cfg.MODEL.CENTERNET.QUIRKS)
    # After the other keys, because each property adds its own node.
    _add_property_keys(cfg.MODEL.CENTERNET)

    # COCO datasets to register: [name, annotations.json, image folder] triples. Paths are relative to
    # $DETECTRON2_DATASETS (Detectron2's convention, default "datasets").
    cfg.DATASETS.REGISTER = []
    # KITTI datasets to register: [name, folder, split] triples; the split is the name of a file in ImageSets.
    cfg.DATASETS.REGISTER_KITTI = []
    # Datasets of DATASETS.TEST to evaluate during training. The others, such as a test set, are evaluated once, at the
    # end. Empty: all are evaluated during training.
    cfg.DATASETS.VAL = ()

    # Number of unreadable images to skip with a warning (per process); the next one is an error.
    cfg.DATALOADER.MAX_BAD_IMAGES = 0

    # "Adam" (as in the paper), "AdamW", "SGD", or "Muon", which orthogonalizes the momentum of convolution weights.
    cfg.SOLVER.OPTIMIZER = "Adam"
    # Factor of the learning rate of the trunk, for example 0.1 to fine-tune pretrained weights.
    cfg.SOLVER.TRUNK_LR_FACTOR = 1.0
    # Batch size to which SOLVER.BASE_LR refers. Unless it is 0, the learning rate is scaled linearly to the actual
    # SOLVER.IMS_PER_BATCH (original.md: Optimizer). SOLVER.MAX_ITER and SOLVER.STEPS are not scaled.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Training length in epochs, and epochs after which the learning rate drops. Unless EPOCHS is 0, they set
    # SOLVER.MAX_ITER and SOLVER.STEPS. Checkpoint and evaluation periods are always in iterations.
    cfg.SOLVER.EPOCHS = 0
    cfg.SOLVER.STEP_EPOCHS = ()
    # Number of recent numbered checkpoints to keep; 0 keeps all.
    cfg.SOLVER.MAX_TO_KEEP = 0
    # Exponential moving average of the weights. It is evaluated in addition to the weights, and saved to model_ema.pth
    # at the end. The decay in iteration t is min(DECAY, (1 + t) / (10 + t)).
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # Early stopping: number of consecutive evaluations without improvement of TEST.BEST_METRIC; 0 disables it.
    cfg.SOLVER.PATIENCE = 0


def _add_test_keys(test: CfgNode) -> None:
    # Metric that selects model_best.pth, such as "bbox/AP50", or "bbox_EMA/AP" for the averaged weights; "auto" is the
    # main metric of the first dataset in DATASETS.TEST; "" disables it. Requires TEST.EVAL_PERIOD.
    test.BEST_METRIC = "auto"
    # Precision of the network at inference: "float32", or autocast to "bfloat16" or "float16". "auto" is the fastest
    # safe precision of the machine in Predictor and demo.py, and float32 in evaluations. Decoding uses float32.
    test.PRECISION = "auto"
    # Fold batch norms into the preceding convolutions for detection and --eval-only: True, False, or "auto", which
    # folds them in Predictor and demo.py if the backbone supports it. Faster, equal up to rounding.
    test.FOLD_NORMS = "auto"
    # Non-maximum suppression of the final detections at an IoU of NMS_THRESH: "class" (per class), "agnostic" (across
    # classes), or "" to disable it, as in the paper.
    test.NMS = ""
    test.NMS_THRESH = 0.5
    # Output maps to replace by ground truth at evaluation, first each alone, then all (error analysis of the paper).
    test.CENTERNET_ORACLE = []
    # Scale factors of test-time augmentation, in addition to Detectron2's TEST.AUG.ENABLED and TEST.AUG.FLIP. The paper
    # uses 0.5, 0.75, 1, 1.25 and 1.5.
    test.AUG.SCALES = (1.0,)
    # Soft-NMS method for merging scales: "gaussian" (as in the reference), "linear" or "hard".
    test.AUG.SOFT_NMS = "gaussian"


def _add_model_keys(model: CfgNode) -> None:
    # ImageNet weights of the backbone trunk, loaded before MODEL.WEIGHTS: a file; the name of a torchvision model such
    # as "resnet18"; or, for a trunk of timm, "timm" for the weights that timm downloads.
    model.TRUNK_WEIGHTS = ""
    # Number of stages of the trunk, from 0 to 5, whose parameters and statistics are fixed. Stages end at strides 2, 4,
    # 8, 16 and 32.
    model.TRUNK_FROZEN_STAGES = 0

    # Implementation of deformable convolutions: "torchvision", "grid_sample", or "auto" (selected by device). The
    # results are the same.
    model.DEFORM_CONV = "auto"

    # Network of timm as trunk: its name, and its batch norms: "BN", "SyncBN" or "FrozenBN".
    model.TIMM = CfgNode()
    model.TIMM.NAME = "mobilenetv4_conv_small"
    model.TIMM.NORM = "BN"

    # Upsampling after a ResNet trunk; its depth and norm are MODEL.RESNETS.DEPTH and MODEL.RESNETS.NORM.
    model.UPCONV = CfgNode()
    # "transposed" convolutions as in the reference, or "aggregation", the neck of DLA-34. Trunks of timm always use the
    # latter.
    model.UPCONV.NECK = "transposed"
    # Channels of the three transposed convolutions. Reference: 256, 256, 256 without and 256, 128, 64 with deformable
    # convolutions (original.md: ResNet).
    model.UPCONV.CHANNELS = [256, 256, 256]
    # Number of output channels of the aggregation neck. Each coarser level has twice as many.
    model.UPCONV.WIDTH = 64
    # Use deformable convolutions: before each transposed convolution, or in the aggregation neck.
    model.UPCONV.DEFORMABLE = False
    # "BN", "SyncBN" or "FrozenBN".
    model.UPCONV.NORM = "BN"

    # DLA-34. The deformable neck aggregates twice; the other one is plain (original.md: DLA necks).
    model.DLA = CfgNode()
    model.DLA.DEFORMABLE = True
    # Norm of trunk and neck: "BN", "SyncBN" or "FrozenBN".
    model.DLA.NORM = "BN"

    # Hourglass-104 (original.md: Hourglass); with one stack, Hourglass-52.
    model.HOURGLASS = CfgNode()
    model.HOURGLASS.STACKS = 2
    # Channels and number of residual blocks at each depth, finest first. Input sizes must be a multiple of 128 for six
    # depths; each depth more doubles this number.
    model.HOURGLASS.WIDTHS = [256, 256, 384, 384, 384, 512]
    model.HOURGLASS.COUNTS = [2, 2, 2, 2, 2, 4]
    # "BN", "SyncBN" or "FrozenBN".
    model.HOURGLASS.NORM = "BN"
    # Activation checkpointing in training: same results, less memory, more time.
    model.HOURGLASS.CHECKPOINT = False

    model.CENTERNET = CfgNode()
    node = model.CENTERNET
    # Names of point heads in POINT_HEAD_REGISTRY. A head may depend on the heads before it.
    node.HEADS = ["CenterHead", "BoxHead"]
    node.NUM_CLASSES = 80
    # Class names of the model, in order, for training on datasets with different classes: classes are matched by name,
    # and classes that a dataset does not label are not background there. Empty: all datasets have the same classes.
    node.CLASS_NAMES = []
    # Channels of the hidden 3x3 convolution of every head; 0 for a single 1x1 convolution.
    node.HEAD_CONV = 64
    # Initialization of regression branches: "small_last", "small", "zero_bias" or "default" (original.md: Head
    # branches).
    node.HEAD_INIT = "small_last"
    # Predict the sub-cell offset of centers; otherwise centers are decoded at the middle of their cell.
    node.OFFSET = True
    # Predict two size channels per class instead of two shared by all classes.
    node.CLASS_SPECIFIC_SIZE = False
    # "l1", or "smooth_l1" (ablation in the paper).
    node.SIZE_LOSS = "l1"
    node.OFFSET_LOSS = "l1"
    node.HEATMAP_WEIGHT = 1.0
    node.OFFSET_WEIGHT = 1.0
    node.SIZE_WEIGHT = 0.1
    # "keep": pad the image to a black canvas at its original size. "fixed": warp it to INPUT.AFFINE.SIZE, the longer
    # side to its width. "fixed_width": the same, the width to its width (original.md: Test resolution).
    node.TEST_RESOLUTION = "keep"
    # Discard detections with at most this score. Their maximum number is TEST.DETECTIONS_PER_IMAGE.
    node.SCORE_THRESH_TEST = 0.0
    # Use the channels-last memory format: True, False, or "auto", which uses it with half precision (SOLVER.AMP.ENABLED
    # or TEST.PRECISION). The results are the same.
    node.CHANNELS_LAST = "auto"
    # Compile the network with torch.compile. The first batch of each input size takes a minute or more.
    node.COMPILE = False


def _add_quirk_keys(quirks: CfgNode) -> None:
    """Add the keys that keep or correct deviations of the reference implementation.

    The default is the correct value, unless the released weights require the other one; the KITTI configs set the
    values of their reference. Properties add their own quirks. docs/original.md describes each quirk.
    """
    # Radius of the Gaussian around a center: "corrected" is the formula of the paper's source, "original" is the
    # formula of the released models (original.md: Radius).
    quirks.GAUSSIAN_RADIUS = "original"
    # Round box sizes up to whole cells before computing the radius, as in the reference, except for its 3-D boxes.
    quirks.RADIUS_ROUND_UP = True
    # Regions to ignore (crowds, KITTI's DontCare and neighboring classes). "mask" excludes their boxes from the heatmap
    # loss. Like the reference for 3-D boxes, "center" draws a Gaussian with 0.9999 at its center, and "box" sets the
    # entire box to 0.9999, both in annotation order (original.md: Regions to ignore).
    quirks.IGNORE_REGIONS = "mask"
    # Crowd annotations: "ignore" excludes their boxes from the heatmap loss of their class; "object" treats them as
    # ordinary objects, as in the reference (original.md: Samples).
    quirks.CROWD = "object"
    # Normalizer of the L1 losses of sizes, offsets, depths and dimensions: 0 for the number of objects, or N for N per
    # image, which is 50 in the reference for 3-D boxes (original.md: Regression losses).
    quirks.LOSS_SLOTS = 0
    # Flip testing: True also averages the offsets of centers and joints, which makes the flip exact. False uses the
    # offsets of the unflipped image, so flipped joint displacements are off by almost one cell (original.md: Flip
    # test).
    quirks.AVERAGE_OFFSETS = False
    # Keep the duplicate rows in the soft-NMS results of the reference (original.md: Soft-NMS).
    quirks.KEEP_STALE = False
    # Clip predicted boxes to the image, and discard detections whose box then has no positive width and height
    # (original.md: Back to the image).
    quirks.CLIP_BOXES = True
    # Transform box sizes to the image like points, including the shift, as in the reference for 3-D boxes
    # (original.md: 3-D results).
    quirks.SIZE_AS_POINT = False
    # Round COCO results to two decimals and set all joint scores to 1, as for the published metrics (original.md: COCO
    # results).
    quirks.ROUND_RESULTS = False
    # Ground-truth boxes of exactly the minimum height: "kit" ignores them, like the KITTI development kit; "original"
    # counts them, like the tool used for the published metrics (original.md: KITTI evaluation).
    quirks.KITTI_RULES = "kit"


def _add_property_keys(node: CfgNode) -> None:
    """Add one node of keys per registered property, and its quirks to ``QUIRKS``.

    Raises:
        ValueError: two properties have the same node name.
    """
    owners: dict[str, type] = {}
    for _, head in POINT_HEAD_REGISTRY:
        prop = head.property_type
        if not prop.node or owners.get(prop.node) is prop:
            continue
        if prop.node in node:
            raise ValueError(f"{prop.__name__}: MODEL.CENTERNET.{prop.node} already exists; set `node` to another name")
        owners[prop.node] = prop
        node[prop.node] = CfgNode()
        prop.add_config(node[prop.node])
        quirks = CfgNode()
        prop.add_quirks(quirks)
        if quirks:
            node.QUIRKS[prop.node] = quirks


def _add_input_keys(inputs: CfgNode) -> None:
    # Affine window of an image (original.md: Random window). Flipping is INPUT.RANDOM_FLIP ("horizontal" or "none").
    inputs.AFFINE = CfgNode()
    # Height and width of the network input in training, and in testing if TEST_RESOLUTION is not "keep".
    inputs.AFFINE.SIZE = [512, 512]
    # "crop": random position, and a scale from SCALES. "jitter": the full image, randomly shifted and scaled by up to
    # the relative SHIFT and SCALE. "none": the full image. "kitti": like "jitter", but with a probability of
    # JITTER_PROB, relative to width and height, and with the image width scaled to the input width (original.md: KITTI
    # window).
    inputs.AFFINE.MODE = "crop"
    inputs.AFFINE.SCALES = [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    inputs.AFFINE.SHIFT = 0.1
    inputs.AFFINE.SCALE = 0.4
    inputs.AFFINE.JITTER_PROB = 0.5
    # Rotate the window by normal noise with a standard deviation of ROTATE degrees, with a probability of ROTATE_PROB.
    # Joints are rotated; boxes are not, so such images train joint heatmaps only, as in the reference (original.md:
    # Rotation).
    inputs.AFFINE.ROTATE = 0.0
    inputs.AFFINE.ROTATE_PROB = 0.0
    # Rotate images and boxes by a random multiple of TURN degrees (90 or 180), for aerial or microscopy images with
    # objects of arbitrary orientation; 0 disables it.
    inputs.AFFINE.TURN = 0
    # Maximum relative change of brightness, contrast and saturation; 0 disables it.
    inputs.COLOR_JITTER = 0.4
    # Standard deviation of the lighting noise along the principal color axes of ImageNet; 0 disables it.
    inputs.LIGHTING = 0.1
