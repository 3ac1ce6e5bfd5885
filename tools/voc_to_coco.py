#!/usr/bin/env python
"""Convert a dataset in Pascal VOC layout to COCO files, one per image list.

    python tools/voc_to_coco.py VOC_FOLDER --output FOLDER [--splits train val test] [--classes a b c]

Annotations are read from VOC_FOLDER/Annotations/*.xml, image lists from VOC_FOLDER/ImageSets/Main/*.txt. The output is
FOLDER/<split>.json. Images are not copied; their file names are relative to VOC_FOLDER/JPEGImages, or to VOC_FOLDER if
some images are in other folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from centernet_d2.readers import discover_voc_lists, write_coco
from centernet_d2.utils import cli


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder in Pascal VOC layout")
    parser.add_argument("--output", type=Path, required=True, help="output folder of the .json files")
    parser.add_argument("--splits", nargs="+", help="image lists (default: all in ImageSets/Main)")
    parser.add_argument("--classes", nargs="+", help="class names in order (default: all in the annotations, sorted)")
    return cli.run(parser, convert_folder, argv)


def convert_folder(args: argparse.Namespace) -> None:
    """Convert the folder and print a report."""
    data = discover_voc_lists(args.folder, args.splits, args.classes)
    files = write_coco(data, args.output)
    for name, split in data.splits.items():
        print(f"{files[name]}: {len(split.images)} images, {split.num_objects} objects")
    for line in data.report.lines():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
