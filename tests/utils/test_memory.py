import gc

import pytest

from centernet_d2.utils.memory import paused_collection


@paused_collection()
def fail():
    with paused_collection():
        pass
    assert not gc.isenabled()
    raise ZeroDivisionError


def test_collection_is_resumed_after_nested_blocks_and_errors():
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()
