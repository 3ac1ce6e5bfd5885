"""Speed, memory, start and size of exported files."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch

from centernet_d2 import Predictor
from centernet_d2.cli.measure import alternate, clock_of, summarize, table
from centernet_d2.export.detect import Detector

# Prints seconds and the peak resident size of a process that detects in one image. Unlike ru_maxrss, VmHWM does not
# include the parent process.
PROBE = """
import json, re, sys, time
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
print(json.dumps([seconds, 1024 * int(re.search("VmHWM: *\\t*(.*) kB", open("/proc/self/status").read())[1])]))
"""
DETECTOR = "sys.path.insert(0, {folder!r}); from detect import Detector; Detector({path!r})({image!r})"
PREDICTOR = "from centernet_d2 import Predictor; Predictor({path!r}, device='cpu')({image!r})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("model", help="the folder of a run, or a checkpoint")
    parser.add_argument("files", nargs="+", type=Path, help="exported files of this model")
    parser.add_argument("--image", required=True, help="image file")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="processes of each variant (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Time detection in one image, including its decoding, in one thread.

    Each variant is also measured in new processes: time until the first detection, and peak memory.
    """
    torch.set_num_threads(1)
    variants = {"torch": partial(Predictor(args.model, device="cpu"), args.image)}
    codes = {"torch": PREDICTOR.format(path=args.model, image=args.image)}
    for path in args.files:
        name = f"{path.parent.name}/{path.name}"
        variants[name] = partial(Detector(path, **_one_thread(path)), args.image)
        codes[name] = DETECTOR.format(folder=str(path.parent), path=str(path), image=args.image)
    times = alternate(variants, args.rounds, clock_of("cpu"))
    print(f"\n{args.image}, one thread\n\n{table(times)}\n")
    starts = {name: [_probe(code) for _ in range(args.starts)] for name, code in codes.items()}
    results = {
        name: {"start": median(s for s, _ in own), "memory": median(m for _, m in own)} for name, own in starts.items()
    }
    for path, name in zip(args.files, list(codes)[1:], strict=True):
        results[name]["size"] = sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*"))
    for name, own in results.items():
        size = f", file {own['size'] / 1e6:.1f} MB" if "size" in own else ""
        print(f"{name}: first detection after {own['start']:.2f} s, memory {own['memory'] / 1e6:.0f} MB{size}")
    return {"seconds": summarize(times), "processes": results}


def _one_thread(path: Path) -> dict[str, object]:
    """Return the options of a Detector for one thread."""
    if path.suffix == ".xml":
        return {"config": {"INFERENCE_NUM_THREADS": 1}}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return {"sess_options": options}


def _probe(code: str) -> tuple[float, float]:
    """Return seconds and bytes of a new process."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(code=code)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = json.loads(output.splitlines()[-1])
    return seconds, memory
