"""Comparison of detections as sets, because rows with nearly equal scores may swap."""

import torch


def as_tensors(instances):
    """Return all fields of detections as (N, ...) tensors."""
    return {name: getattr(value, "tensor", value) for name, value in instances.get_fields().items()}


def same_detections(first, second, rtol=1e-4, atol=1e-3, tie=1e-5):
    """Return True if each row of one set matches a different row of the other set.

    Rows whose scores tie with the lowest score may be missing in one set.

    Args:
        first, second: Instances with ``scores``.
        rtol, atol: tolerances of all values, as in torch.allclose.
        tie: maximum difference of tied scores.
    """
    one, other = as_tensors(first), as_tensors(second)
    if set(one) != set(other) or len(first) != len(second) or first.image_size != second.image_size:
        return False
    assert len(first), "two empty sets are equal, but compare nothing"
    close = torch.ones(len(first), len(first), dtype=torch.bool)
    for name in one:
        a, b = (fields[name].flatten(1) if fields[name].dim() > 1 else fields[name][:, None] for fields in (one, other))
        close &= torch.isclose(a.double()[:, None], b.double()[None], rtol=rtol, atol=atol).all(dim=2)
    last = torch.minimum(one["scores"].min(), other["scores"].min()) + tie
    left = set(range(len(first)))
    for row in range(len(first)):
        partner = next((column for column in close[row].nonzero()[:, 0].tolist() if column in left), None)
        if partner is not None:
            left.remove(partner)
        elif one["scores"][row] > last:
            return False
    return all(other["scores"][column] <= last for column in left)
