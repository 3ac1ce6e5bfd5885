#!/usr/bin/env python
"""Train or evaluate a CenterNet.

    python train_net.py --config-file configs/... [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]

The options are Detectron2's; KEY VALUE pairs override the config.
"""

import argparse

from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from centernet_d2.checkpoint import CenterNetCheckpointer
from centernet_d2.engine import Trainer, setup


def main(args: argparse.Namespace) -> dict:
    """One process of a training or an evaluation; returns the metrics of the last evaluation."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = Trainer.build_model(cfg)
    Trainer.check_test_sets(cfg)
    checkpointer = CenterNetCheckpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (args.resume and checkpointer.has_checkpoint()):
        raise ValueError("--eval-only needs weights: set MODEL.WEIGHTS, or --resume for the last ones in OUTPUT_DIR")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
