"""Detectron2's trainer with our data path, optimizer, evaluators and checkpointer."""

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
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import CenterNetCheckpointer, load_trunk
from ..data import CenterNetDatasetMapper
from ..data.catalog import dataset_metadata, to_plain
from ..data.checks import load_checked
from ..data.loader import build_train_loader, find_stream, shield_workers_from_signals
from ..data.stream import SampleStream, StreamDataset
from ..evaluation.build import build_evaluator, check_evaluation, main_metric
from ..evaluation.oracle import OracleCenterNet, OracleMapper, check_map_names
from ..modeling.heads import build_properties
from ..modeling.tta import CenterNetWithTTA
from ..utils.signals import Signals, Stopped, defer_signals
from .hooks import AverageWeights, BestWeights, CheckGradients, Checkpoints, EarlyStop, StopOnSignal
from .solver import build_optimizer, with_iterations

__all__ = ["Trainer"]

# So many seconds a process that is to stop waits for the others to finish the iteration; one may have died.
PATIENCE = 120


@contextmanager
def prints_logged() -> Iterator[None]:
    """What is printed goes to the log file: pycocotools tells every step, and the results once more."""
    with redirect_stdout(io.StringIO()) as text:
        try:
            yield
        finally:
            if text.getvalue():
                logging.getLogger(__name__).debug(f"printed by evaluators:\n{text.getvalue()}")


class Trainer(DefaultTrainer):
    """Trains and evaluates a CenterNet from a config; processes, hooks and logging are Detectron2's."""

    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's constructor is replaced, not extended: it fixes the checkpointer, and the devices of
        # DistributedDataParallel in a way that fails on the CPU.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        if cfg.DATASETS.TEST:
            self.check_test_sets(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        stream, samples = find_stream(loader)
        self.stream: SampleStream | None = stream
        self.samples: StreamDataset | None = samples
        cfg = with_iterations(cfg, None if self.stream is None else self.stream.epoch_length)
        metadata = to_plain(dataset_metadata(cfg), model.properties)
        devices = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
        model = create_ddp_model(model, broadcast_buffers=False, **devices)
        self._trainer = choose_loop(cfg)(model, loader, optimizer)
        self._trainer.register_hooks([CheckGradients()])
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = CenterNetCheckpointer(
            model, cfg.OUTPUT_DIR, fine_tune=True, metadata=metadata, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.signals = Signals()
        # Iteration of the last evaluation.
        self.evaluated: int | None = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint; without one, start from MODEL.TRUNK_WEIGHTS and MODEL.WEIGHTS.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: it does not fit, or there is nothing to continue from in it.
        """
        resume = resume and self.checkpointer.has_checkpoint()
        if self.cfg.MODEL.TRUNK_WEIGHTS and not resume:
            load_trunk(self.checkpointer.model.backbone, self.cfg.MODEL.TRUNK_WEIGHTS)
        rates = list(self.scheduler.base_lrs)
        try:
            super().resume_or_load(resume)
        except (AttributeError, KeyError, TypeError) as error:
            if not resume:
                raise
            raise ValueError(
                f"the state of the training in {self.checkpointer.loaded} is incomplete ({error!r}). Write the name of "
                "another checkpoint into last_checkpoint beside it, or start a new training with it as MODEL.WEIGHTS"
            ) from error
        except ValueError as error:
            if not str(error).startswith("loaded state dict"):  # torch, of the optimizer's
                raise
            raise ValueError(
                f"the state of the training in {self.checkpointer.loaded} is not that of SOLVER.OPTIMIZER "
                f"{self.cfg.SOLVER.OPTIMIZER} for this model: resume with the config.yaml of that folder, or start "
                "a new training with it as MODEL.WEIGHTS"
            ) from error
        if resume:
            self._follow_schedule(rates)
            if self.stream is not None:
                self.stream.start = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH

    def _follow_schedule(self, rates: Sequence[float]) -> None:
        """Go on with the schedule of the config from base `rates`; the checkpoint brought those of its own back."""
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
        """Detectron2's hooks, in whose places ours save and evaluate; averages and signals come before that."""
        cfg, checkpointer = self.cfg, self.checkpointer
        hooks = [hook for hook in super().build_hooks() if not isinstance(hook, (PeriodicCheckpointer, EvalHook))]
        ema = cfg.SOLVER.EMA
        self.average = AverageWeights(checkpointer.model, ema.DECAY, cfg.OUTPUT_DIR) if ema.ENABLED else None
        self.best = self._build_best()
        own = [self.average, StopOnSignal(), EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate), self.best]
        if comm.is_main_process():
            checkpoints = Checkpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, keep=cfg.SOLVER.MAX_TO_KEEP)
            own.insert(1, checkpoints)
        place = next((i for i, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)), len(hooks))
        hooks[place:place] = own
        return hooks

    def _build_best(self) -> BestWeights | None:
        """
        Raises:
            ValueError: there is nothing that could be the best.
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
        weights = CenterNetCheckpointer(model, self.cfg.OUTPUT_DIR)
        return BestWeights(test.EVAL_PERIOD, weights, metric, patience=patience)

    def state_dict(self) -> dict:
        """Detectron2's state of a training, the seed of its stream of samples, and the iteration last evaluated."""
        seed = {} if self.stream is None else {"seed": self.stream.seed}
        return {**super().state_dict(), **seed, "evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.evaluated = state_dict["evaluated"]
        if self.stream is None or self.samples is None:
            return
        self.stream.seed = self.samples.seed = state_dict["seed"]

    def train(self) -> dict:
        """Train; returns the metrics of the evaluation at the end.

        Raises:
            Stopped: SIGTERM or Ctrl-C came; the iteration was finished, and its state is saved.
            OSError: OUTPUT_DIR cannot be written to; the checkpoints there are whole.
        """
        # Several processes end together; should one of them have died, the others do not wait for ever.
        alarm = (lambda _: signal.alarm(PATIENCE)) if comm.get_world_size() > 1 else None
        with defer_signals(signal.SIGINT, signal.SIGTERM, callback=alarm) as self.signals:
            self._train()
        if self.samples is not None and (bad := self.samples.bad_files()):
            logging.getLogger(__name__).warning(f"{len(bad)} images were left out: {', '.join(bad)}")
        return getattr(self, "_last_eval_results", {})

    def _train(self) -> None:
        if self.start_iter >= self.max_iter > 0 and os.path.basename(self.checkpointer.loaded) != "model_final.pth":
            self._save_final()
        try:
            if self.best is not None and self.best.is_exhausted:
                raise EarlyStop(self.best.reason())
            super().train()
        except EarlyStop as stop:
            logging.getLogger(__name__).info(f"the training ends early: {stop}")
            self._save_final()

    def before_train(self) -> None:
        """Detectron2's, then the evaluation behind the last iteration, if the run was stopped before its end."""
        super().before_train()
        self.iter = min(self.iter, self.max_iter - 1)  # Else one more is counted if there is none to do.
        period, last = self.cfg.TEST.EVAL_PERIOD, self.start_iter - 1
        if not 0 <= last < self.max_iter - 1 or period <= 0 or self.start_iter % period or self.evaluated == last:
            return
        self.iter = self.storage.iter = last
        for hook in self._hooks:
            if isinstance(hook, (EvalHook, BestWeights)):
                hook.after_step()
        self.iter = self.storage.iter = self.start_iter

    def _save_final(self) -> None:
        """What the last iteration of a training writes."""
        if self.average is not None:
            self.average.save()
        self.checkpointer.save("model_final", iteration=self.iter)

    def stop(self, number: int) -> NoReturn:
        """Save the state after an iteration, if it is not yet, and end.

        Args:
            number: of the signal that asks for it.

        Raises:
            Stopped: always.
        """
        if comm.get_world_size() > 1:
            signal.alarm(0)
        iteration = min(self.iter, self.max_iter - 1)
        if self.checkpointer.iteration != iteration:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        raise Stopped(number, f"stopped; the state after iteration {iteration} is saved, continue with --resume")

    def _evaluate(self) -> dict:
        """Evaluate, beside the plain weights also the averaged ones; all processes get the results.

        Raises:
            Stopped: a signal came. Nothing is lost: a resumed run evaluates first.
        """
        try:
            with self.signals.raise_immediately(), prints_logged():
                results = self.test(self.cfg, self.model)
                if self.average is not None:
                    results.update(self._test_variant(self.cfg, self.average.model, "EMA"))
        except (RuntimeError, Stopped):  # The former: what other processes leave behind that stopped first.
            if not self.signals:
                raise
            self.stop(self.signals.number)
        self.evaluated = self.iter
        self._last_eval_results = comm.all_gather(results)[0]
        return self._last_eval_results

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            FloatingPointError: the loss or a gradient is NaN or infinite; the weights are not updated.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            last = next((f"resume from {path} with --resume" for path in self.checkpointer.files()), "start again")
            raise FloatingPointError(
                f"the loss or its gradient is NaN or infinite at iteration {self.iter} "
                f"({' '.join(str(error).split())}). Lower SOLVER.BASE_LR or enable SOLVER.CLIP_GRADIENTS, then {last}"
            ) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        dicts = cls.load_datasets(cfg, cfg.DATASETS.TRAIN)
        for prop in build_properties(cfg):
            if all(prop.name in image.get("unlabeled", ()) for image in dicts):
                keys = ", ".join(prop.annotation_keys)
                raise ValueError(f"no annotation of DATASETS.TRAIN has {keys}, so nothing would learn {prop.name}")
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            dicts = filter_images_with_only_crowd_annotations(dicts)
        if cfg.MODEL.KEYPOINT_ON:
            dicts = filter_images_with_few_keypoints(dicts, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)
        if not dicts:
            raise ValueError(
                "no image of DATASETS.TRAIN is left; DATALOADER.FILTER_EMPTY_ANNOTATIONS and "
                "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE say which are used"
            )
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return build_train_loader(cfg, dicts, seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        loader = build_detection_test_loader(
            cls.load_datasets(cfg, [dataset_name], looked_at=True),
            mapper=(OracleMapper if cfg.TEST.CENTERNET_ORACLE else CenterNetDatasetMapper)(cfg, False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        shield_workers_from_signals(loader)
        return loader

    @classmethod
    @prints_logged()
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None) -> dict:
        """Evaluate on DATASETS.TEST, and again in the other ways that TEST.AUG and TEST.CENTERNET_ORACLE ask for.

        Returns:
            Metrics by task (by data set, if there are several), and again with ``_TTA``, ``_ORACLE_heatmap``, ...
            behind the name. With given `evaluators` only the former.
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
        results = super().test(cfg, model, evaluators)
        for name, variant in variants.items():
            results.update(cls._test_variant(cfg, variant, name))
        return results

    @classmethod
    def _test_variant(cls, cfg: CfgNode, model: nn.Module, name: str) -> dict:
        """Evaluate another way of testing; metrics and result folder have its name."""
        logging.getLogger(__name__).info(f"evaluating with {name}")
        folders = [os.path.join(cfg.OUTPUT_DIR, f"inference_{name}", dataset) for dataset in cfg.DATASETS.TEST]
        pairs = zip(cfg.DATASETS.TEST, folders, strict=True)
        results = super().test(cfg, model, [cls.build_evaluator(cfg, dataset, folder) for dataset, folder in pairs])
        return {f"{key}_{name}": metrics for key, metrics in results.items()}

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """See :func:`centernet_d2.evaluation.build.build_evaluator`."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        """Everything that would otherwise fail at the first evaluation.

        Raises:
            ValueError: a data set is broken, has no evaluator, or the model does not predict the boxes to evaluate.
        """
        cls.load_datasets(cfg, cfg.DATASETS.TEST)
        for name in cfg.DATASETS.TEST:
            check_evaluation(cfg, name)

    @staticmethod
    def load_datasets(cfg: CfgNode, names: Sequence[str], *, looked_at: bool = False) -> list[dict]:
        """The images of data sets, once they are known to suit the config; see :func:`load_checked`.

        What the properties say of annotations is said before a training, and not again (`looked_at`) when evaluations
        of it load a data set.
        """
        node = cfg.MODEL.CENTERNET
        return load_checked(names, node.NUM_CLASSES, () if looked_at else build_properties(cfg), node.CLASS_NAMES)


def choose_loop(cfg: CfgNode) -> type[SimpleTrainer]:
    """The training loop for SOLVER.AMP and MODEL.DEVICE: Detectron2's, or ours for half precision on the CPU."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer
    return BFloat16Trainer if torch.device(cfg.MODEL.DEVICE).type == "cpu" else AMPTrainer


class BFloat16Trainer(SimpleTrainer):
    """Mixed precision on the CPU, where Detectron2 has none; the range of bfloat16 needs no loss scaling."""

    def run_step(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()
