#!/usr/bin/env python
"""Turn a folder in the Pascal VOC layout into COCO annotation files, one per image list.

    python tools/voc_to_coco.py VOC_FOLDER --output FOLDER [--splits train val test] [--classes a b c]

reads VOC_FOLDER/{Annotations/*.xml, ImageSets/Main/*.txt} and writes FOLDER/<split>.json. Images stay where they are;
their names are relative to VOC_FOLDER/JPEGImages, or to VOC_FOLDER if some are elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from centernet_d2.readers import discover_voc_lists, write_coco
from centernet_d2.utils import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the VOC folder")
    parser.add_argument("--output", type=Path, required=True, help="where the .json files go")
    parser.add_argument("--splits", nargs="+", help="image lists (default: all in ImageSets/Main)")
    parser.add_argument("--classes", nargs="+", help="class names in order (default: all found, sorted)")
    return cli.run(parser, convert_folder, argv)


def convert_folder(args: argparse.Namespace) -> None:
    """Convert the folder that a command line names."""
    found = discover_voc_lists(args.folder, args.splits, args.classes)
    files = write_coco(found, args.output)
    for name, split in found.splits.items():
        print(f"{files[name]}: {len(split.images)} images, {split.num_objects} objects")
    for line in found.report.lines():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
