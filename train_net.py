#!/usr/bin/env python
"""Train or evaluate a CenterNet.

    python train_net.py --data PATH [--val PATH] [--epochs N | --minutes N] [--model NAME] [KEY VALUE ...]
    python train_net.py --config-file configs/... [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]

With --data, the format of the dataset and the config are determined automatically. The other options are those of
Detectron2; KEY VALUE pairs override the config.
"""

from centernet_d2.cli.train import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    raise SystemExit(run())
