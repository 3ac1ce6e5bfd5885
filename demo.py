#!/usr/bin/env python
"""Detect and visualize objects in images, videos or camera streams; see demo.py --help."""

from centernet_d2.cli.detect import main

if __name__ == "__main__":
    raise SystemExit(main())
