import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version():
    """Read the version of the package, which cannot be imported before Detectron2 is installed."""
    source = (ROOT / "centernet_d2" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]


setup(
    name="centernet_d2",
    version=version(),
    description="CenterNet (Objects as Points) for Detectron2: 2-D boxes, keypoints and 3-D boxes from single images",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)],
    python_requires=">=3.10",
    # The folder configs in the root of the repository is installed as the package centernet_d2.configs.
    packages=[*find_packages(include=["centernet_d2", "centernet_d2.*"]), "centernet_d2.configs"],
    package_dir={"centernet_d2.configs": "configs"},
    package_data={
        "centernet_d2": ["py.typed"],
        "centernet_d2.configs": ["*.yaml", "*/*.yaml", "lazy/*.py", "lazy/common/*.py"],
    },
    entry_points={
        "console_scripts": [
            "centernet-train = centernet_d2.cli.train:run",
            "centernet-detect = centernet_d2.cli.detect:main",
            "centernet-visualize = centernet_d2.cli.visualize:main",
            "centernet-convert = centernet_d2.cli.convert:main",
            "centernet-benchmark = centernet_d2.cli.benchmark:main",
        ]
    },
    # `pip install -e` adds the folder of the clone to sys.path. The default of setuptools, an import hook, has lower
    # priority: in the parent folder of a clone named centernet_d2, the clone would shadow the package.
    options={"editable_wheel": {"mode": "compat"}},
    # Detectron2 is required but not on PyPI; README.md describes its installation.
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "numpy",
        "opencv-python",
        "fvcore",
        "pillow",
        "pycocotools",
        "pyyaml",
        "tqdm",
    ],
    extras_require={
        # Downloads the weights of the reference implementation from Google Drive.
        "weights": ["gdown==6.5.1"],
        # Faster implementation of the metrics of pycocotools.
        "fast-eval": ["faster-coco-eval==1.8.0"],
    },
)
