#!/usr/bin/env python
"""Train or evaluate a CenterNet.

    python train_net.py --data PATH [--val PATH] [--epochs N | --minutes N] [--model NAME] [KEY VALUE ...]
    python train_net.py --config-file configs/... [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]

The first finds out by itself what PATH holds and how to train on it. The other options are Detectron2's; KEY VALUE
pairs override the config.
"""

from centernet_d2.cli.train import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    raise SystemExit(run())
