"""Comparison with recorded outputs of the reference implementation.

Use --reference DIR for other files, and -s for a line per file.
"""

import pytest

from support.reference import Comparison, find_check


def test_reference(reference_file, tmp_path):
    kind = f"{reference_file.parent.name}/{reference_file.name}"
    check, reason = find_check(kind)
    if check is None:
        print(f"\nreference {kind}: skip {reason}")
        pytest.skip(reason)
    comparison = Comparison()
    try:
        check(reference_file, comparison, tmp_path)
    except Exception as error:
        comparison.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        print(f"\nreference {kind}: {comparison}")
    assert comparison.arrays > 0, "no arrays were compared"
    assert not comparison.failures, str(comparison)
