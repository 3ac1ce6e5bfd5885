#!/usr/bin/env python
"""Detect objects in images, a video or a camera's pictures, and draw them: see demo.py --help."""

from centernet_d2.cli.detect import main

if __name__ == "__main__":
    raise SystemExit(main())
