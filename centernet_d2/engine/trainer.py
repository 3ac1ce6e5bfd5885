"""Trainer with the data loader, optimizers, evaluators and hooks of the project."""

from __future__ import annotations

import io
import logging
import os
import signal
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.build import filter_images_with_few_keypoints, filter_images_with_only_crowd_annotations
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import CenterNetCheckpointer, load_trunk
from ..data import CenterNetDatasetMapper
from ..data.catalog import checkpoint_metadata
from ..data.checks import load_checked
from ..data.fingerprint import compare
from ..data.loader import build_train_loader, configure_workers, find_stream
from ..data.stream import SampleStream, StreamDataset
from ..evaluation.build import build_evaluator, check_evaluation, main_metric, validation_config
from ..evaluation.oracle import OracleCenterNet, OracleMapper, check_map_names
from ..evaluation.summary import evaluation_row, summarize
from ..modeling.heads import build_properties
from ..modeling.tta import CenterNetWithTTA
from ..utils.screen import columns
from ..utils.signals import Signals, Stopped, defer_signals, end_signals
from .hooks import AverageWeights, BestWeights, CheckGradients, Checkpoints, EarlyStop, StopOnSignal
from .progress import ProgressWriter, TrackedLoader
from .solver import build_optimizer, with_iterations

__all__ = ["Trainer"]

# Seconds that a process waits for the others to finish the iteration after a signal, in case one of them has died.
STOP_TIMEOUT = 120


@contextmanager
def print_to_log() -> Iterator[None]:
    """Log standard output instead of printing it.

    pycocotools prints progress and results that are already logged.
    """
    with redirect_stdout(io.StringIO()) as text:
        try:
            yield
        finally:
            if text.getvalue():
                logging.getLogger(__name__).debug(f"printed by evaluators:\n{text.getvalue()}")


class Trainer(DefaultTrainer):
    """Trainer for CenterNet, based on Detectron2's DefaultTrainer.

    Args:
        cfg: complete config.
    """

    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        # Does not call the constructor of DefaultTrainer, which hard-codes the checkpointer and device ids of
        # DistributedDataParallel that are invalid on a CPU.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.validation_cfg = validation_config(cfg)
        model = self.build_model(cfg)
        if cfg.DATASETS.TEST:
            self.check_test_sets(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        stream, samples = find_stream(loader)
        self.stream: SampleStream | None = stream
        self.samples: StreamDataset | None = samples
        cfg = with_iterations(cfg, None if self.stream is None else self.stream.epoch_length)
        self.metadata = checkpoint_metadata(cfg)
        devices = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
        model = create_ddp_model(model, broadcast_buffers=False, **devices)
        self._trainer = choose_loop(cfg)(model, loader, optimizer)
        self._trainer.register_hooks([CheckGradients()])
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = CenterNetCheckpointer(
            model, cfg.OUTPUT_DIR, fine_tune=True, metadata=self.metadata, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.signals = Signals()
        # Last evaluated iteration.
        self.evaluated: int | None = None
        length = None if self.stream is None else self.stream.epoch_length
        self.progress = ProgressWriter(self.max_iter, cfg.SOLVER.IMS_PER_BATCH, length)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint, or load the initial weights.

        The initial weights are MODEL.TRUNK_WEIGHTS and MODEL.WEIGHTS.

        Args:
            resume: resume if OUTPUT_DIR contains a checkpoint.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: the weights do not match the model, or the checkpoint contains no training state.
        """
        resume = resume and self.checkpointer.has_checkpoint()
        if self.cfg.MODEL.TRUNK_WEIGHTS and not resume:
            load_trunk(self.checkpointer.model.backbone, self.cfg.MODEL.TRUNK_WEIGHTS)
        rates = list(self.scheduler.base_lrs)
        try:
            super().resume_or_load(resume)
        except ValueError as error:
            if not str(error).startswith("loaded state dict"):  # torch.optim.Optimizer.load_state_dict
                raise
            raise ValueError(
                f"the optimizer state in {self.checkpointer.loaded} does not match SOLVER.OPTIMIZER "
                f"{self.cfg.SOLVER.OPTIMIZER} and this model: resume with the config.yaml in the same folder, or start "
                "a new training with MODEL.WEIGHTS set to this file"
            ) from error
        if resume:
            self._apply_schedule(rates)
            if self.stream is not None:
                self.stream.start = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH

    def _apply_schedule(self, rates: Sequence[float]) -> None:
        """Replace the learning rates restored from a checkpoint by the rates of the config.

        Args:
            rates: base learning rates of the config, one per parameter group.
        """
        groups = self.scheduler.optimizer.param_groups
        self.scheduler.base_lrs = list(rates)
        old, new = [group["lr"] for group in groups], self.scheduler.get_lr()
        for group, base, rate in zip(groups, rates, new, strict=True):
            group.update(initial_lr=base, lr=rate)
        if old != new:
            logging.getLogger(__name__).info(
                f"learning rate at iteration {self.start_iter}: {max(old):g} -> {max(new):g}"
            )

    def build_hooks(self) -> list[HookBase]:
        """Build Detectron2's hooks, with those for checkpoints and evaluation replaced.

        Averaged weights are updated and signals are handled before the evaluation.
        """
        cfg, checkpointer = self.cfg, self.checkpointer
        hooks = [hook for hook in super().build_hooks() if not isinstance(hook, (PeriodicCheckpointer, EvalHook))]
        ema = cfg.SOLVER.EMA
        self.average = (
            AverageWeights(checkpointer.model, ema.DECAY, cfg.OUTPUT_DIR, self.metadata) if ema.ENABLED else None
        )
        self.best = self._build_best()
        custom = [self.average, StopOnSignal(), EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate_periodically), self.best]
        if comm.is_main_process():
            checkpoints = Checkpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, keep=cfg.SOLVER.MAX_TO_KEEP)
            custom.insert(1, checkpoints)
            hooks.append(PeriodicWriter([self.progress], period=1))
        position = next((i for i, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)), len(hooks))
        hooks[position:position] = custom
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Build Detectron2's writers, without TensorBoard if it is not installed."""
        writers = super().build_writers()
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            message = "TensorBoard is not installed, so curves are only in metrics.json: pip install tensorboard"
            logging.getLogger(__name__).warning(message)
            return [writer for writer in writers if not isinstance(writer, TensorboardXWriter)]
        return writers

    def _build_best(self) -> BestWeights | None:
        """Build the hook for model_best.pth and early stopping, if configured.

        Raises:
            ValueError: SOLVER.PATIENCE or TEST.BEST_METRIC needs other keys.
        """
        test, patience = self.cfg.TEST, self.cfg.SOLVER.PATIENCE
        if not (test.BEST_METRIC and test.EVAL_PERIOD > 0 and self.cfg.DATASETS.TEST):
            if patience > 0:
                raise ValueError("SOLVER.PATIENCE needs DATASETS.TEST, TEST.EVAL_PERIOD and TEST.BEST_METRIC")
            return None
        metric = main_metric(self.cfg) if test.BEST_METRIC == "auto" else test.BEST_METRIC
        model = self.checkpointer.model
        if "_EMA/" in metric:
            if self.average is None:
                raise ValueError(f"TEST.BEST_METRIC {metric} needs SOLVER.EMA.ENABLED")
            model = self.average.model
        weights = CenterNetCheckpointer(model, self.cfg.OUTPUT_DIR, metadata=self.metadata)
        return BestWeights(test.EVAL_PERIOD, weights, metric, patience=patience)

    def state_dict(self) -> dict:
        """Return the training state.

        It includes the data seed, the fingerprint of the dataset and the last evaluated iteration.
        """
        seed = {} if self.stream is None else {"seed": self.stream.seed}
        data = {} if self.samples is None else {"dataset": self.samples.fingerprint}
        return {**super().state_dict(), **seed, **data, "evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.evaluated = state_dict["evaluated"]
        if self.stream is None or self.samples is None:
            return
        self.stream.seed = self.samples.seed = state_dict["seed"]
        # Checkpoints of earlier versions have no fingerprint.
        if change := compare(state_dict.get("dataset", self.samples.fingerprint), self.samples.fingerprint):
            logging.getLogger(__name__).warning(
                f"the training set has changed since {self.checkpointer.loaded} was saved: {change}. The resumed "
                "training differs from an uninterrupted one"
            )

    def train(self) -> dict:
        """Train the model and return the metrics of the final evaluation.

        Raises:
            Stopped: SIGTERM, SIGHUP or Ctrl-C was received; the iteration was finished and its state saved.
            OSError: OUTPUT_DIR cannot be written to; existing checkpoints are complete.
        """
        # All processes stop after the same iteration; the alarm ends the wait for a process that has died.
        alarm = (lambda _: signal.alarm(STOP_TIMEOUT)) if comm.get_world_size() > 1 else None
        with defer_signals(*end_signals(), callback=alarm) as self.signals:
            self._train()
        if self.samples is not None and (bad := self.samples.bad_files()):
            logging.getLogger(__name__).warning(f"{len(bad)} images were skipped: {', '.join(bad)}")
        return getattr(self, "_last_eval_results", {})

    def _train(self) -> None:
        if self.start_iter >= self.max_iter > 0 and os.path.basename(self.checkpointer.loaded) != "model_final.pth":
            self._save_final()
        try:
            if self.best is not None and self.best.is_exhausted:
                raise EarlyStop(self.best.reason())
            super().train()
        except EarlyStop as stop:
            logging.getLogger(__name__).info(f"early stopping: {stop}")
            self._save_final()
            if self.cfg.DATASETS.VAL:
                self._evaluate(self.cfg)

    def before_train(self) -> None:
        """Run the hooks, then repeat an evaluation that was interrupted."""
        super().before_train()
        self.iter = min(self.iter, self.max_iter - 1)  # TrainerBase.train increments it once more.
        period, last = self.cfg.TEST.EVAL_PERIOD, self.start_iter - 1
        if not 0 <= last < self.max_iter - 1 or period <= 0 or self.start_iter % period or self.evaluated == last:
            return
        self.iter = self.storage.iter = last
        for hook in self._hooks:
            if isinstance(hook, (EvalHook, BestWeights)):
                hook.after_step()
        self.iter = self.storage.iter = self.start_iter

    def _save_final(self) -> None:
        """Save the files that are written after the last iteration."""
        if self.average is not None:
            self.average.save()
        self.checkpointer.save("model_final", iteration=self.iter)

    def stop(self, number: int) -> NoReturn:
        """Save a checkpoint of the current iteration, unless it exists, and stop.

        Args:
            number: number of the signal.

        Raises:
            Stopped: always.
        """
        if comm.get_world_size() > 1:
            signal.alarm(0)
        iteration = min(self.iter, self.max_iter - 1)
        if self.checkpointer.iteration != iteration:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        raise Stopped(number, f"stopped; the state after iteration {iteration} was saved, continue with --resume")

    def _evaluate_periodically(self) -> dict:
        """Evaluate during and after training; during training, only on DATASETS.VAL if set."""
        return self._evaluate(self.cfg if self.iter + 1 >= self.max_iter else self.validation_cfg)

    def _evaluate(self, cfg: CfgNode) -> dict:
        """Evaluate the model and, if enabled, its EMA on DATASETS.TEST; return the results in all processes.

        Raises:
            Stopped: a signal was received. A resumed run repeats the evaluation first.
        """
        self.progress.pause()
        try:
            with self.signals.raise_immediately(), self._check_every_batch(), print_to_log():
                results = self.test(cfg, self.model)
                if self.average is not None:
                    results.update(self._test_variant(cfg, self.average.model, "EMA"))
            results = comm.all_gather(results)[0]
        except (RuntimeError, Stopped):  # RuntimeError: communication failed, as another process stopped first.
            if not self.signals:
                raise
            self.stop(self.signals.number)
        self.evaluated = self.iter
        self._last_eval_results = results
        self._report(results)
        return results

    def _report(self, results: dict) -> None:
        """Log the results of an evaluation: one line during training, a summary after it."""
        if not results:
            return
        done = min(self.iter + 1, self.max_iter)
        metric = main_metric(self.cfg) if self.best is None else self.best.metric
        value, best = flatten_results_dict(results).get(metric), None
        if self.best is not None and value is not None:
            best = self.best.best_with(value, done)
        row = evaluation_row(results, metric, done, best=best, epoch=self.progress.epoch(done), width=columns())
        lines = [row, *(summarize(results, columns()) if self.iter >= self.max_iter else ())]
        logging.getLogger(__name__).info("\n".join(lines))

    @contextmanager
    def _check_every_batch(self) -> Iterator[None]:
        """Check for signals before each pass through a backbone, which all variants of an evaluation use."""
        models = [self.checkpointer.model, *([] if self.average is None else [self.average.model])]
        hooks = [one.backbone.register_forward_pre_hook(lambda *_: self.signals.check()) for one in models]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            FloatingPointError: the loss or a gradient is NaN or infinite; the weights are not updated.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            last = next(
                (f"resume from {path} with --resume" for path in self.checkpointer.files()), "start a new training"
            )
            raise FloatingPointError(
                f"the loss or a gradient is NaN or infinite at iteration {self.iter} "
                f"({' '.join(str(error).split())}). Lower SOLVER.BASE_LR or enable SOLVER.CLIP_GRADIENTS, then {last}"
            ) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        dicts = cls.load_datasets(cfg, cfg.DATASETS.TRAIN, max_bad_images=cfg.DATALOADER.MAX_BAD_IMAGES)
        for prop in build_properties(cfg):
            if all(prop.name in image.get("unlabeled", ()) for image in dicts):
                keys = ", ".join(prop.annotation_keys)
                raise ValueError(
                    f"no annotation of DATASETS.TRAIN has {keys}, so {prop.name} cannot be trained: remove its head "
                    "from MODEL.CENTERNET.HEADS or add annotations"
                )
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            dicts = filter_images_with_only_crowd_annotations(dicts)
        if cfg.MODEL.KEYPOINT_ON:
            dicts = filter_images_with_few_keypoints(dicts, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)
        if not dicts:
            raise ValueError(
                "no image of DATASETS.TRAIN is left after filtering: add annotations, or change "
                "DATALOADER.FILTER_EMPTY_ANNOTATIONS or MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
            )
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return build_train_loader(cfg, dicts, seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TrackedLoader:
        loader = build_detection_test_loader(
            cls.load_datasets(cfg, [dataset_name], annotations_checked=True),
            mapper=(OracleMapper if cfg.TEST.CENTERNET_ORACLE else CenterNetDatasetMapper)(cfg, False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        configure_workers(loader)
        return TrackedLoader(loader, f"evaluating on {dataset_name}", is_main=comm.is_main_process())

    @classmethod
    @print_to_log()
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None) -> dict:
        """Evaluate on DATASETS.TEST, also with TEST.AUG and TEST.CENTERNET_ORACLE.

        Args:
            cfg: config of the evaluation.
            model: model to evaluate.
            evaluators: one per dataset; by default built by :meth:`build_evaluator`. With evaluators, TEST.AUG and
                TEST.CENTERNET_ORACLE are ignored.

        Returns:
            Metrics by task, or by dataset if there are several or DATASETS.VAL is set. Results of TEST.AUG and
            TEST.CENTERNET_ORACLE have keys with the suffixes ``_TTA``, ``_ORACLE_heatmap``, ...
        """
        variants = {}
        if evaluators is None and cfg.TEST.AUG.ENABLED:
            variants["TTA"] = CenterNetWithTTA(cfg, model)
        if evaluators is None and cfg.TEST.CENTERNET_ORACLE:
            names = tuple(cfg.TEST.CENTERNET_ORACLE)
            check_map_names("TEST.CENTERNET_ORACLE", names, model)
            for chosen in dict.fromkeys([*((name,) for name in names), names]):
                oracle = OracleCenterNet(model=model, names=chosen, mapper=OracleMapper(cfg, False))
                variants[f"ORACLE_{'+'.join(chosen)}"] = oracle
        results = _by_dataset(cfg, super().test(cfg, model, evaluators))
        for name, variant in variants.items():
            results.update(cls._test_variant(cfg, variant, name))
        return results

    @classmethod
    def _test_variant(cls, cfg: CfgNode, model: nn.Module, name: str) -> dict:
        """Evaluate a variant of the model; `name` is the suffix of metrics and result folder."""
        logging.getLogger(__name__).info(f"evaluating with {name}")
        folders = [os.path.join(cfg.OUTPUT_DIR, f"inference_{name}", dataset) for dataset in cfg.DATASETS.TEST]
        pairs = zip(cfg.DATASETS.TEST, folders, strict=True)
        evaluators = [cls.build_evaluator(cfg, dataset, folder) for dataset, folder in pairs]
        results = _by_dataset(cfg, super().test(cfg, model, evaluators))
        return {f"{key}_{name}": metrics for key, metrics in results.items()}

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Build the evaluator of a dataset.

        See :func:`centernet_d2.evaluation.build.build_evaluator`.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        """Validate DATASETS.TEST, so that errors are raised before training.

        Raises:
            ValueError: a dataset is invalid or has no evaluator, or the model lacks outputs that it evaluates.
        """
        cls.load_datasets(cfg, cfg.DATASETS.TEST)
        for name in cfg.DATASETS.TEST:
            check_evaluation(cfg, name)

    @staticmethod
    def load_datasets(
        cfg: CfgNode, names: Sequence[str], *, annotations_checked: bool = False, max_bad_images: int = 0
    ) -> list[dict]:
        """Load datasets and check that they are compatible with the config.

        See :func:`load_checked`.

        Args:
            cfg: complete config.
            names: names of the datasets.
            annotations_checked: skip the checks of the properties, which also log messages about annotations. They
                run before training and are not repeated by the evaluations during training.
            max_bad_images: see :func:`load_checked`.
        """
        node = cfg.MODEL.CENTERNET
        return load_checked(
            names,
            node.NUM_CLASSES,
            () if annotations_checked else build_properties(cfg),
            node.CLASS_NAMES,
            max_bad_images=max_bad_images,
        )


def _by_dataset(cfg: CfgNode, results: dict) -> dict:
    """Group metrics by dataset if DATASETS.VAL is set, so that names do not depend on the number of datasets."""
    return {cfg.DATASETS.TEST[0]: results} if cfg.DATASETS.VAL and len(cfg.DATASETS.TEST) == 1 else results


def choose_loop(cfg: CfgNode) -> type[SimpleTrainer]:
    """Return the class of the training loop for SOLVER.AMP and MODEL.DEVICE."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer
    return BFloat16Trainer if torch.device(cfg.MODEL.DEVICE).type == "cpu" else AMPTrainer


class BFloat16Trainer(SimpleTrainer):
    """Training loop with bfloat16 autocast on a CPU.

    bfloat16 has the range of float32, so no gradient scaler is needed.
    """

    def run_step(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()
