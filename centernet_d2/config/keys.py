"""Config keys that the project adds to Detectron2's."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from .registry import POINT_HEAD_REGISTRY

__all__ = ["add_centernet_config", "check_keys"]


def check_keys(cfg: CfgNode) -> None:
    """Raise a ValueError unless a config has the keys of :func:`add_centernet_config`."""
    if "CENTERNET" not in cfg.MODEL:
        raise ValueError(
            "the config has no keys of CenterNet: call centernet_d2.add_centernet_config(cfg) behind get_cfg(), or "
            "take centernet_d2.load_config(file)"
        )


def add_centernet_config(cfg: CfgNode) -> None:
    """Add the keys of CenterNet to a Detectron2 config, with the values of the original as defaults.

    Only keys are added; the defaults of Detectron2 that do not suit CenterNet are set in
    ``configs/Base-CenterNet.yaml``. The exception is Detectron2's MODEL.DEVICE "cuda", which becomes "cpu" where torch
    sees no GPU. Keys of a head that lives outside the package are added if it is imported by then.
    """
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _add_model_keys(cfg.MODEL)
    _add_input_keys(cfg.INPUT)
    _add_test_keys(cfg.TEST)
    cfg.MODEL.CENTERNET.QUIRKS = CfgNode()
    _add_quirk_keys(cfg.MODEL.CENTERNET.QUIRKS)
    # Last: each property gets a node of its own.
    _add_property_keys(cfg.MODEL.CENTERNET)

    # [name, annotations.json, image folder] triples in COCO format, registered before anything reads them. Relative
    # paths start at $DETECTRON2_DATASETS (Detectron2's convention, default "datasets").
    cfg.DATASETS.REGISTER = []
    # [name, folder, split] triples in KITTI's layout, in the same way; the split is a file in its ImageSets.
    cfg.DATASETS.REGISTER_KITTI = []

    # Leave out so many images that cannot be read (in each process), with a warning, instead of ending the training.
    cfg.DATALOADER.MAX_BAD_IMAGES = 0

    # "Adam" as in the paper, "AdamW", "SGD", or "Muon", which steps along the orthogonalised momentum of convolutions.
    cfg.SOLVER.OPTIMIZER = "Adam"
    # Number of images per batch for which SOLVER.BASE_LR is stated. If it is not 0, the learning rate is scaled
    # linearly to the actual SOLVER.IMS_PER_BATCH (original.md: Optimizer). Iterations and steps are left as they are.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # If it is not 0, the length of the training in epochs, which sets SOLVER.MAX_ITER, and the epochs after which the
    # learning rate drops, which set SOLVER.STEPS. Periods of checkpoints and evaluations stay in iterations.
    cfg.SOLVER.EPOCHS = 0
    cfg.SOLVER.STEP_EPOCHS = ()
    # So many numbered checkpoints are left, the newest; 0: all.
    cfg.SOLVER.MAX_TO_KEEP = 0
    # An exponential moving average of the weights: evaluated beside them, in the end written to model_ema.pth. DECAY is
    # the share of the average that an iteration keeps; at the beginning it is less, (1 + t) / (10 + t).
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # End the training after so many evaluations in a row without a better TEST.BEST_METRIC; 0 never does.
    cfg.SOLVER.PATIENCE = 0


def _add_test_keys(test: CfgNode) -> None:
    # The metric by which model_best.pth is the best, such as "bbox/AP50" or, of the averaged weights, "bbox_EMA/AP";
    # "auto": the usual one of the first data set of DATASETS.TEST; "": none. Only with TEST.EVAL_PERIOD.
    test.BEST_METRIC = "auto"
    # Of the network at inference: "float32", or "bfloat16" or "float16" by autocast; what follows it is float32.
    test.PRECISION = "float32"
    # Fold batch norms into the convolutions before them, in detection and --eval-only: faster, same up to rounding.
    test.FOLD_NORMS = False
    # Suppress detections that overlap better ones by more than NMS_THRESH, at the very end: "class" for class by class,
    # "agnostic" whatever the classes; "" does not, as in the paper.
    test.NMS = ""
    test.NMS_THRESH = 0.5
    # Maps to replace by their ground truth at evaluation, each alone, then all together (the paper's error analysis).
    test.CENTERNET_ORACLE = []
    # Beside Detectron2's TEST.AUG.ENABLED and FLIP: test scales as factors; the paper's are 0.5, 0.75, 1, 1.25, 1.5.
    test.AUG.SCALES = (1.0,)
    # How several scales are merged: "gaussian" as in the original, "linear" or "hard".
    test.AUG.SOFT_NMS = "gaussian"


def _add_model_keys(model: CfgNode) -> None:
    # ImageNet weights for the trunk of the backbone alone, loaded before MODEL.WEIGHTS: a .pth file, or those of
    # torchvision by a name such as "resnet18".
    model.TRUNK_WEIGHTS = ""

    # How deformable convolutions are computed: "torchvision", "grid_sample", or by device with "auto". Equal results.
    model.DEFORM_CONV = "auto"

    # Up-sampling behind a ResNet trunk (whose depth and norm are MODEL.RESNETS.DEPTH and .NORM).
    model.UPCONV = CfgNode()
    # Width of the three transposed convolutions: 256, 256, 256 plain; 256, 128, 64 deformable (original.md: ResNet).
    model.UPCONV.CHANNELS = [256, 256, 256]
    # A modulated deformable convolution in front of each.
    model.UPCONV.DEFORMABLE = False
    # "BN", "SyncBN" or "FrozenBN".
    model.UPCONV.NORM = "BN"

    # DLA-34, whose neck either samples deformably and aggregates twice, or is plain (original.md: DLA necks).
    model.DLA = CfgNode()
    model.DLA.DEFORMABLE = True
    # "BN", "SyncBN" or "FrozenBN", in trunk and neck.
    model.DLA.NORM = "BN"

    # Hourglass-104 (original.md: Hourglass); one stack makes it Hourglass-52.
    model.HOURGLASS = CfgNode()
    model.HOURGLASS.STACKS = 2
    # Width and number of residual blocks at each depth, the finest first. Every depth beyond the first doubles what
    # the sizes of the inputs must be a multiple of: 128 for six.
    model.HOURGLASS.WIDTHS = [256, 256, 384, 384, 384, 512]
    model.HOURGLASS.COUNTS = [2, 2, 2, 2, 2, 4]
    # "BN", "SyncBN" or "FrozenBN".
    model.HOURGLASS.NORM = "BN"
    # Training keeps less for its backward pass, which computes the rest again: same results, less memory, more time.
    model.HOURGLASS.CHECKPOINT = False

    model.CENTERNET = CfgNode()
    node = model.CENTERNET
    # Point heads, by their names in POINT_HEAD_REGISTRY. A head may build on the ones before it.
    node.HEADS = ["CenterHead", "BoxHead"]
    node.NUM_CLASSES = 80
    # Names of the classes, in order, if data sets label different ones: they are matched by name, and what a data set
    # does not label is no background there. Empty: every data set has the classes of the model.
    node.CLASS_NAMES = []
    # Channels of the hidden 3x3 convolution of every head; 0 leaves a single 1x1 convolution.
    node.HEAD_CONV = 64
    # How maps that are no heatmaps start: "small_last", "small", "zero_bias" or "default" (original.md: Head branches).
    node.HEAD_INIT = "small_last"
    # Sub-cell offset of the center; without it centers are decoded at the middle of their cell.
    node.OFFSET = True
    # Two size channels per class instead of two in all.
    node.CLASS_SPECIFIC_SIZE = False
    # "l1" or "smooth_l1" (the paper's ablation).
    node.SIZE_LOSS = "l1"
    node.OFFSET_LOSS = "l1"
    node.HEATMAP_WEIGHT = 1.0
    node.OFFSET_WEIGHT = 1.0
    node.SIZE_WEIGHT = 0.1
    # "keep": each image at its own size on a black canvas; "fixed": warped to INPUT.AFFINE.SIZE, the longer side
    # to its width; "fixed_width": the width to its width (original.md: Test resolution).
    node.TEST_RESOLUTION = "keep"
    # Detections must score above this. How many there are at most is TEST.DETECTIONS_PER_IMAGE.
    node.SCORE_THRESH_TEST = 0.0
    # Keep the channels of a cell side by side in memory: same results; the small hourglass trains faster so.
    node.CHANNELS_LAST = False
    # Compile the network by torch.compile: the first batch takes a minute or more, and so the first of another size.
    node.COMPILE = False


def _add_quirk_keys(quirks: CfgNode) -> None:
    """Add the keys that only keep or repair a behavior of the reference implementation.

    The clean value is the default, unless released weights need the other one; the KITTI configs set the values of
    their reference. Properties add their own quirks. docs/original.md describes each quirk.
    """
    # Radius of the Gaussian around a center: "corrected" is the formula of the paper's source, "original" that of the
    # released models (original.md: Radius).
    quirks.GAUSSIAN_RADIUS = "original"
    # Round box sizes up to whole cells before computing the radius; the reference does, except for 3-D boxes.
    quirks.RADIUS_ROUND_UP = True
    # Regions to ignore (crowds, KITTI's DontCare and neighboring classes): "mask" excludes their boxes from the heatmap
    # loss. As in the reference for 3-D boxes: "center" draws their Gaussian with 0.9999 at its center, "box" sets the
    # whole box to 0.9999, both in annotation order (original.md: Regions to ignore).
    quirks.IGNORE_REGIONS = "mask"
    # Crowd annotations: "ignore" excludes the box of the region from the heatmap loss of its class; "object" treats
    # them as ordinary objects, as the reference does (original.md: Samples).
    quirks.CROWD = "object"
    # Divisor of the L1 losses of sizes, offsets, depths and dimensions: 0 is the number of objects; N is N per image,
    # 50 in the reference for 3-D boxes (original.md: Regression losses).
    quirks.LOSS_SLOTS = 0
    # True also averages the offsets of centers and joints in flip testing, which makes the mirror exact. False keeps
    # those of the upright image, and mirrored joint displacements are off by most of a cell (original.md: Flip test).
    quirks.AVERAGE_OFFSETS = False
    # Keep the duplicate rows that soft-NMS of the reference leaves in the result (original.md: Soft-NMS).
    quirks.KEEP_STALE = False
    # Clip predicted boxes to the image (original.md: Back to the image).
    quirks.CLIP_BOXES = True
    # True also shifts box sizes in the transform to the image, as the reference does for 3-D boxes (original.md: 3-D
    # results).
    quirks.SIZE_AS_POINT = False
    # True rounds COCO results to two decimals and sets every joint score to 1, as for the published metrics
    # (original.md: COCO results).
    quirks.ROUND_RESULTS = False
    # Labeled boxes of exactly the minimum height: "kit" ignores them, as KITTI does; "original" counts them, as the
    # tool used for the published metrics does (original.md: KITTI evaluation).
    quirks.KITTI_RULES = "kit"


def _add_property_keys(node: CfgNode) -> None:
    """Add the keys of every property, in a node of its own, and its quirks in a node of ``QUIRKS``.

    Raises:
        ValueError: two properties have the same node name.
    """
    owners: dict[str, type] = {}
    for _, head in POINT_HEAD_REGISTRY:
        prop = head.property_type
        if not prop.node or owners.get(prop.node) is prop:
            continue
        if prop.node in node:
            raise ValueError(f"{prop.__name__}: the name {prop.node} is taken in MODEL.CENTERNET; give 'node' another")
        owners[prop.node] = prop
        node[prop.node] = CfgNode()
        prop.add_config(node[prop.node])
        quirks = CfgNode()
        prop.add_quirks(quirks)
        if quirks:
            node.QUIRKS[prop.node] = quirks


def _add_input_keys(inputs: CfgNode) -> None:
    # The window (original.md: Random window). Mirroring is Detectron2's INPUT.RANDOM_FLIP ("horizontal" or "none").
    inputs.AFFINE = CfgNode()
    # Height and width of the network input in training, and at test time where TEST_RESOLUTION is "fixed".
    inputs.AFFINE.SIZE = [512, 512]
    # "crop": a random window position and a scale out of SCALES; "jitter": shift and scale around the whole image by
    # SHIFT and SCALE (relative); "none": the whole image; "kitti": like "jitter", but only with a probability of
    # JITTER_PROB, relative to width and height, and the width of the image fills that of the input
    # (original.md: KITTI window).
    inputs.AFFINE.MODE = "crop"
    inputs.AFFINE.SCALES = [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    inputs.AFFINE.SHIFT = 0.1
    inputs.AFFINE.SCALE = 0.4
    inputs.AFFINE.JITTER_PROB = 0.5
    # With a probability of ROTATE_PROB the window turns by normal noise of ROTATE degrees. Joints turn with the image;
    # boxes do not, so only joint heatmaps are learned from such images, as in the original (original.md: Rotation).
    inputs.AFFINE.ROTATE = 0.0
    inputs.AFFINE.ROTATE_PROB = 0.0
    # Turn by a random multiple of so many degrees, boxes too: 180 or 90, for views from above or through a microscope,
    # where objects lie any way; 0 does not.
    inputs.AFFINE.TURN = 0
    # Brightness, contrast and saturation change by up to this factor; 0 switches them off.
    inputs.COLOR_JITTER = 0.4
    # Standard deviation of the lighting noise along the colour axes of ImageNet; 0 switches it off.
    inputs.LIGHTING = 0.1
