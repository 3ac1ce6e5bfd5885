import numpy as np
import torch

from centernet_d2.modeling.losses import focal_loss, focal_loss_with_logits, regression_loss
from centernet_d2.structures.points import DenseTarget, SparseTarget
from support.models import stub_heads

from .comparison import as_array, checks


def compare_loss(comparison, name, ours, recorded):
    comparison.close(name, ours, recorded, atol=1e-7, rtol=1e-5)


def compare_gradient(comparison, name, ours, recorded):
    if recorded is None:
        return
    recorded = as_array(recorded)
    comparison.close(name, ours, recorded, atol=1e-6, rtol=1e-4)
    # Zero gradients of the reference implementation are exactly zero.
    comparison.equal(f"{name} (zeros)", as_array(ours)[recorded == 0], recorded[recorded == 0])


def sparse_target(index, value, weight, width):
    """Build targets from recorded (B, M) rows."""
    batch, rows = index.shape
    image = torch.arange(batch).repeat_interleave(rows)
    cells = torch.stack([index % width, index // width], dim=2).flatten(0, 1)
    weight = weight.float()[..., None].expand_as(value) if weight.dim() == 2 else weight.float()
    return SparseTarget(image, cells, value.flatten(0, 1), weight.flatten(0, 1))


@checks("loss/focal*")
def check_focal(path, comparison, tmp_path):
    data = dict(np.load(path))
    target = torch.from_numpy(data["target"])
    logits = torch.from_numpy(data["logits"]).requires_grad_()
    compare_loss(comparison, "loss", focal_loss_with_logits(logits, target), data.get("loss"))
    (gradient,) = torch.autograd.grad(focal_loss_with_logits(logits, target), logits)
    compare_gradient(comparison, "grad_logits", gradient, data.get("grad_logits"))
    clamped = logits.detach().sigmoid().clamp(1e-4, 1 - 1e-4)
    probability = torch.from_numpy(data["prob"]) if "prob" in data else clamped.clone()
    (gradient,) = torch.autograd.grad(focal_loss(probability.requires_grad_(), target), probability)
    compare_gradient(comparison, "grad_prob", gradient, data.get("grad_prob"))
    comparison.close("prob", clamped, data.get("prob"), atol=1e-6)
    comparison.equal("num_pos", (target == 1).sum(), data.get("num_pos"))


@checks("loss/reg_losses*")
def check_regression(path, comparison, tmp_path):
    data = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}
    rows = data["ind"].numel()
    for name, mask, options in (
        ("l1", "mask", {}),
        ("smooth_l1", "mask", {"loss": "smooth_l1"}),
        ("weighted_l1", "elem_mask", {}),
        ("mean_l1", "mask", {"slots": rows}),
    ):
        if mask not in data:
            continue
        output = data["output"].clone().requires_grad_()
        target = sparse_target(data["ind"], data["target"], data[mask], output.shape[3])
        loss = regression_loss(target.gather(output), target.value, target.weight, **options)
        (gradient,) = torch.autograd.grad(loss, output)
        compare_loss(comparison, f"loss_{name}", loss, data.get(f"loss_{name}"))
        compare_gradient(comparison, f"grad_{name}", gradient, data.get(f"grad_{name}"))


@checks("loss/full_ctdet*")
def check_full_ctdet(path, comparison, tmp_path):
    data = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}
    suffixes = [name.removeprefix("out_hm") for name in data if name.startswith("out_hm")]
    class_specific = "batch_cat_spec_wh" in data
    loss = "smooth_l1" if "sl1" in path.name else "l1"
    heads = stub_heads(
        num_classes=data["batch_hm"].shape[1],
        offset="out_reg" + suffixes[0] in data,
        offset_loss=loss,
        box={"class_specific": class_specific, "loss": loss},
    )
    width = data["batch_hm"].shape[3]
    size, mask = ("cat_spec_wh", "cat_spec_mask") if class_specific else ("wh", "reg_mask")
    targets = {
        "heatmap": DenseTarget(data["batch_hm"]),
        "size": sparse_target(data["batch_ind"], data[f"batch_{size}"], data[f"batch_{mask}"], width),
    }
    names = {"heatmap": "hm", "size": "wh"}
    if "out_reg" + suffixes[0] in data:
        targets["offset"] = sparse_target(data["batch_ind"], data["batch_reg"], data["batch_reg_mask"], width)
        names["offset"] = "reg"
    outputs = {
        f"{short}{s}": data[f"out_{short}{s}"].clone().requires_grad_() for s in suffixes for short in names.values()
    }
    losses = {"loss_heatmap": 0, "loss_size": 0, "loss_offset": torch.zeros(())}
    for suffix in suffixes:
        maps = {name: outputs[f"{short}{suffix}"] for name, short in names.items()}
        for head in heads.values():
            for name, value in head.losses(maps, targets).items():
                losses[name] = losses[name] + value / len(suffixes)
    total = sum(losses.values())
    compare_loss(comparison, "stat_loss", total, data.get("stat_loss"))
    compare_loss(comparison, "stat_hm_loss", losses["loss_heatmap"], data.get("stat_hm_loss"))
    compare_loss(comparison, "stat_wh_loss", losses["loss_size"] / 0.1, data.get("stat_wh_loss"))
    compare_loss(comparison, "stat_off_loss", losses["loss_offset"], data.get("stat_off_loss"))
    for name, gradient in zip(outputs, torch.autograd.grad(total, list(outputs.values())), strict=True):
        compare_gradient(comparison, f"grad_{name}", gradient, data.get(f"grad_{name}"))
