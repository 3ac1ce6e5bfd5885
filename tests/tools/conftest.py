import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def forget_shapes():
    def forget():
        for name in ("shapes_train", "shapes_val"):
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)

    forget()
    yield
    forget()
