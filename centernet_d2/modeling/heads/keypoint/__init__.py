from .head import KeypointHead
from .prop import KeypointProperty
from .schema import KeypointSchema

__all__ = ["KeypointHead", "KeypointProperty", "KeypointSchema"]
