"""Detection from a command line, with visualizations and JSON results."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from ..checkpoint import load_source
from ..config.catalog import SAMPLE
from ..config.registry import POINT_HEAD_REGISTRY
from ..modeling.heads import Property, build_properties
from ..predictor import Predictor, Result, VideoSession
from ..utils.files import unused_folder
from ..utils.signals import defer_signals
from ..utils.text import plural, printable
from .sinks import ImageFileSink, ImageFolderSink, JsonSink, VideoSink, output_kind, refuse_existing
from .sources import Frame, ImageSource, VideoSource, open_source, skipped_content

__all__ = ["add_property_arguments", "start"]

DEFAULT_FOLDER = Path("output", "detections")


def add_property_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all registered properties.

    :func:`use_property_arguments` rejects options that do not apply to the model.
    """
    group = parser.add_argument_group("options of heads")
    # Deduplicated, because a subclass of a property has the options of its base class.
    for flag, options in {flag: one for prop in known_properties() for flag, one in prop.arguments.items()}.items():
        group.add_argument(flag, **options)


def known_properties() -> list[type[Property]]:
    """Return the properties of all registered heads, without duplicates."""
    return list(dict.fromkeys(head.property_type for _, head in POINT_HEAD_REGISTRY))


def use_property_arguments(args: argparse.Namespace, properties: Sequence[Property]) -> None:
    """Pass command-line options to the properties of a model.

    Raises:
        ValueError: an option belongs to a property that the model does not have, or is invalid.
    """
    own = {flag for prop in properties for flag in prop.arguments}
    for other in known_properties():
        values = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in other.arguments if flag not in own}
        inapplicable = [flag for flag, value in values.items() if value is not None and value is not False]
        if inapplicable:
            raise ValueError(
                f"{', '.join(inapplicable)} requires the property {other.name}, which this config does not predict"
            )
    for prop in properties:
        prop.use_arguments(args)


def start(args: argparse.Namespace) -> int:
    """Validate the options that can be checked quickly, and run the command line."""
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold is {args.threshold:g}, but must be from 0 to 1")
    for option, number in (("--max-frames", args.max_frames), ("--batch-size", args.batch_size)):
        if number is not None and number < 1:
            raise ValueError(f"{option} is {number}, but must be at least 1")
    for path in () if args.overwrite else filter(None, (args.output, args.json)):
        refuse_existing(path, "choose another name, or use --overwrite")
    if args.json is not None and args.json.is_dir():
        raise IsADirectoryError(f"--json {args.json} is a folder; specify a file")
    inputs = [*args.inputs, *([str(SAMPLE)] if args.sample else [])]
    source = open_source(inputs, args.camera)
    if args.output is None and args.json is None:
        args.output = default_output(source, overwrite=args.overwrite)
    if args.output is not None:
        output_kind(args.output, source)
    for line in skipped_content(inputs):
        print(printable(line), file=sys.stderr)
    return run(args, source)


def default_output(source: ImageSource | VideoSource, *, overwrite: bool) -> Path:
    """Return the default of --output: a folder, or a video in it."""
    folder = DEFAULT_FOLDER if overwrite else unused_folder(DEFAULT_FOLDER)
    return folder / f"{source.name}.mp4" if isinstance(source, VideoSource) else folder


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the config of the command line.

    Raises:
        ValueError: --weights is not a checkpoint of this project and needs a config.
    """
    device = ["MODEL.DEVICE", args.device] if args.device else []
    if args.config_file:
        weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
        return load_source(args.config_file, [*args.opts, *weights, *device])
    return load_source(args.weights, [*args.opts, *device])


def run(args: argparse.Namespace, source: ImageSource | VideoSource) -> int:
    """Detect objects in all images of a source; return the exit code."""
    cfg = read_config(args)
    use_property_arguments(args, build_properties(cfg))  # Reports errors before weights are loaded.
    predictor = Predictor.from_config(cfg, batch_size=args.batch_size)
    properties = predictor.network.properties
    use_property_arguments(args, properties)
    threshold = predictor.threshold if args.threshold is None else args.threshold
    counts: Counter[int] = Counter()
    done, skipped, start = 0, 0, time.perf_counter()
    with ExitStack() as stack:
        sinks = open_sinks(args, source, stack)
        bar = stack.enter_context(tqdm(total=len(source) or None, unit=" images", smoothing=0.1))
        signals = stack.enter_context(defer_signals(signal.SIGINT))
        video = predictor.video() if isinstance(source, VideoSource) else None
        for batch in batches(add_inputs(source, properties), args.batch_size, args.max_frames):
            for frame in batch:
                if frame.image is None:
                    tqdm.write(printable(f"skipped: {frame.error}"), file=sys.stderr)
            results = process(batch, predictor, sinks, threshold, video, keep_heatmap=args.heatmap)
            for result in results:
                found = result["instances"]
                counts.update(found.pred_classes[found.scores >= threshold].tolist())
            done, skipped = done + len(results), skipped + len(batch) - len(results)
            bar.update(len(batch))
            if signals:
                break
    rate = done / (time.perf_counter() - start)
    print(f"{plural(done, 'image')}, {rate:.1f} images/s{f', {skipped} unreadable, skipped' if skipped else ''}")
    print(describe_counts(counts, threshold, predictor.class_names))
    print(f"results: {', '.join(str(path) for path in (args.output, args.json) if path is not None)}")
    if signals:
        print("interrupted; the files written so far are complete", file=sys.stderr)
        return 130
    return 1 if skipped else 0


def add_inputs(frames: Iterable[Frame], properties: Sequence[Property]) -> Iterator[Frame]:
    """Add the inputs of properties to frames.

    A frame whose inputs cannot be read becomes an unreadable frame.
    """
    for frame in frames:
        if frame.image is None:
            yield frame
            continue
        try:
            own = [prop.picture_inputs(frame.name, frame.image.shape[:2]) for prop in properties]
            yield replace(frame, inputs={key: value for one in own for key, value in one.items()})
        except (OSError, ValueError) as error:
            yield replace(frame, image=None, error=str(error))


@dataclass
class Sinks:
    """Output sinks of a command line; None if not requested."""

    images: ImageFileSink | ImageFolderSink | VideoSink | None = None
    json: JsonSink | None = None


def open_sinks(args: argparse.Namespace, source: ImageSource | VideoSource, stack: ExitStack) -> Sinks:
    """Open the sinks of a command line, which are closed with the stack."""
    sinks = Sinks()
    if args.output is not None:
        kind = output_kind(args.output, source)
        sinks.images = kind(args.output, source.rate or 1.0) if issubclass(kind, VideoSink) else kind(args.output)
        stack.enter_context(sinks.images)
    if args.json is not None:
        sinks.json = JsonSink(args.json)
        stack.enter_context(sinks.json)
    return sinks


def batches(source: Iterable[Frame], size: int, limit: int | None = None) -> Iterator[list[Frame]]:
    """Group frames into lists of `size` frames, up to a total of `limit` frames."""
    batch = []
    for frame in source:
        batch.append(frame)
        if len(batch) == size or frame.number == limit:
            yield batch
            batch = []
        if frame.number == limit:
            return
    if batch:
        yield batch


def process(
    frames: Sequence[Frame],
    predictor: Predictor,
    sinks: Sinks,
    threshold: float,
    video: VideoSession | None = None,
    *,
    keep_heatmap: bool,
) -> Sequence[Result]:
    """Detect objects in frames and write the results to the sinks.

    Args:
        frames: frames of one batch.
        predictor: predictor.
        sinks: sinks for visualizations and JSON.
        threshold: minimum score of visualized detections.
        video: state of the video, if the source is a video.
        keep_heatmap: overlay the center heatmap on visualizations.

    Returns:
        The results of the readable frames.
    """
    readable = [(frame, frame.image) for frame in frames if frame.image is not None]
    images, inputs = [image for _, image in readable], [frame.inputs for frame, _ in readable]
    results: Sequence[Result] = predictor.detect(images, inputs, keep_heatmap=keep_heatmap) if readable else []
    if video is not None:
        results = video.update(results)
    for (frame, _), result in zip(readable, results, strict=True):
        if sinks.json is not None:
            sinks.json.write([{**entry, "file_name": frame.source} for entry in result.to_coco(frame.number)])
        if sinks.images is not None:
            drawn = result.draw(threshold=threshold)
            sinks.images.write(frame.name, np.ascontiguousarray(np.asarray(drawn)[..., ::-1]))
    return results


def describe_counts(counts: Counter[int], threshold: float, class_names: Sequence[str] | None) -> str:
    """Return a sentence about the number of detections per class.

    Args:
        counts: number of detections by class index.
        threshold: their minimum score.
        class_names: names of the classes, if known.
    """
    total = plural(sum(counts.values()), "object")
    most = [f"{class_names[index] if class_names else index} {count}" for index, count in counts.most_common(10)]
    rest = ", ..." if len(counts) > 10 else ""
    return printable(f"{total} with a score of at least {threshold:.2g}{': ' if most else ''}{', '.join(most)}{rest}")
