# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: jupytext,kernelspec,-jupytext.text_representation.jupytext_version
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial: train, inspect, export, extend
#
# Train a detector of blood cells in minutes, read its report, detect cells, run the model without torch, and add a
# property to every object.

# %% [markdown]
# ## Install
#
# The cell does nothing if the package is installed. It was written for Colab, but not run there: upload a clone of the
# repository and set `REPOSITORY` to its folder.

# %%
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(os.environ.get("REPOSITORY", "..")).resolve()  # this notebook is in its folder docs/

if importlib.util.find_spec("centernet_d2") is None:
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"{REPOSITORY}[export]"], check=True)
    # Detectron2 as pure Python
    target = ["--python-version", "3.10", "--target", sysconfig.get_path("purelib")]
    subprocess.run([*pip, "--no-deps", "--only-binary=:all:", *target, "sal-detectron2==0.7.2"], check=True)

# %% [markdown]
# Settings, and a function that shows an image:

# %%
DATA = os.environ.get("DATA", "BCCD_Dataset/BCCD")
LENGTH = os.environ.get("LENGTH", "--epochs 8")  # of the training on blood cells
ITERATIONS = os.environ.get("ITERATIONS", "150")  # of the training on rotated boxes
BARS = os.environ.get("BARS", "200")  # synthetic images with rotated boxes

# %%
import io

from IPython.display import Image, display
from PIL import Image as Pillow


def show(image, width=800):
    """Show an image or a file as a small JPEG."""
    image = image if isinstance(image, Pillow.Image) else Pillow.open(image)
    image = image.convert("RGB")
    image.thumbnail((width, 2 * width))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    display(Image(buffer.getvalue()))


# %% [markdown]
# ## Look at the data
#
# [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT license) contains images of blood cells with boxes, in the
# layout of Pascal VOC. The download below was not run: the outputs come from a local copy of 350 images. For your own
# images, set `DATA` to their folder.

# %%
if not Path(DATA).exists():
    subprocess.run(["git", "clone", "--depth", "1", "https://github.com/Shenggan/BCCD_Dataset"], check=True)

# %% [markdown]
# `centernet-visualize DATA` draws labeled images, and network inputs after augmentation. Check the labels before
# training.

# %%
from centernet_d2.cli import visualize

assert visualize.main([DATA, "--output", "output/data", "--count", "6"]) == 0
show("output/data/images.jpg")

# %% [markdown]
# ## Train
#
# `centernet-train --data DATA --epochs 8` chooses network, input size, batch size and schedule, and prints them.
# Append `KEY VALUE` to override them. `--minutes N` sets the time instead of the epochs. The saved outputs are from
# two CPU cores, where this notebook took four minutes.

# %%
from centernet_d2.cli import train

assert train.run(["--data", DATA, *LENGTH.split(), "OUTPUT_DIR", "output/cells"]) == 0

# %% [markdown]
# Ground truth, detections and center heatmap of validation images:

# %%
show("output/cells/predictions.jpg")

# %% [markdown]
# ## Read the report
#
# `output/cells/report.html` shows the dataset, the training and the errors of the model; `report.json` contains the
# same numbers.

# %%
import json

report = json.loads(Path("output/cells/report.json").read_text())
for name, evaluation in report["evaluation"].items():
    print(name)
    for row in evaluation["ap"]["classes"]:
        print(f"  {row['name']:10} AP {row['AP'] or 0:5.1f}  AP50 {row['AP50'] or 0:5.1f}  ({row['objects']} objects)")

# %% [markdown]
# Error types: the AP50 that is gained if all errors of one type are corrected.

# %%
for kind, error in next(iter(report["evaluation"].values()))["error_types"]["types"].items():
    print(f"{kind:12} +{100 * error['cost']:.1f}")

# %% [markdown]
# ## Predict
#
# `Predictor` accepts paths, Pillow images, arrays, and lists of these.

# %%
from centernet_d2 import Predictor

photo = sorted(Path(DATA, "JPEGImages").glob("*.jpg"))[-1]
predictor = Predictor("output/cells")
result = predictor(photo)
show(result.draw(), 480)

# %%
instances = result["instances"]
print(f"{len(instances)} detections with a score of at least {predictor.threshold:.2f}")
for name, score, box in list(zip(result.class_names, instances.scores, instances.pred_boxes, strict=True))[:3]:
    print(f"{name:10} {score:.2f}  {[round(value) for value in box.tolist()]}")

# %% [markdown]
# ## Export, and run without torch
#
# The export (`centernet-export --model output/cells --output exported`) is compared with the model before it is saved.

# %%
from centernet_d2.cli import export

assert export.main(["--model", "output/cells", "--output", "exported"]) == 0

# %% [markdown]
# The folder contains `detect.py`, which needs only NumPy, Pillow and onnxruntime:

# %%
command = [sys.executable, "exported/detect.py", "exported/model.onnx", photo]
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

# %% [markdown]
# ## Add a property: the angle of rotated boxes
#
# One file outside of the package adds an angle to every object: annotation, loss, decoding, errors and visualization.

# %%
example = REPOSITORY / "examples" / "rotated_boxes"
source = (example / "rotated_boxes.py").read_text()
print(source[source.index("class AngleHead") : source.index("def rotated_corners")])

# %% [markdown]
# `--import` loads the file, and its config adds the head to the network. The dataset is synthetic.

# %%
sys.path.append(str(example))
import rotated_boxes

os.environ["DETECTRON2_DATASETS"] = "datasets"
assert rotated_boxes.main(["datasets/bars", "--train", BARS, "--val", "20"]) == 0

# %%
config = str(example / "rotated_boxes.yaml")
options = ["OUTPUT_DIR", "output/bars", "SOLVER.MAX_ITER", ITERATIONS, "SOLVER.STEPS", "()"]
options += ["SOLVER.AMP.ENABLED", "True"]
assert train.run(["--import", str(example / "rotated_boxes.py"), "--config-file", config, *options]) == 0

# %%
bars = Predictor("output/bars")
result = bars(sorted(Path("datasets/bars/val").iterdir())[0])
print("angles in degrees:", result["instances"].pred_angle.round().int().tolist())
show(result.draw(), 400)

# %% [markdown]
# ## Next
#
# | task | page |
# |---|---|
# | train on your own images | [own_data.md](own_data.md) |
# | understand a report | [report.md](report.md) |
# | detect in folders, videos and cameras | [inference.md](inference.md) |
# | deploy | [deploy.md](deploy.md), [serving.md](serving.md) |
# | write a head | [heads.md](heads.md) |
