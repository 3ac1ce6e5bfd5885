import numpy as np
import torch

from support.models import stub_model

from . import synthetic
from .comparison import checks


@checks("test_pipeline/coco_*", "test_pipeline/voc_*", "test_pipeline/wide_*", "test_pipeline/kitti_*")
def check_test_canvas(path, comparison, tmp_path):
    data = dict(np.load(path))
    height, width = (int(size) for size in data["image_hw"])
    scale = float(data["scale"])
    pixels = {"pixel_mean": (data["mean"] * 255).tolist(), "pixel_std": (data["std"] * 255).tolist()}
    model = stub_model(
        divisibility=int(data["pad"]) + 1,
        test_resolution=("fixed_width" if path.name.startswith("kitti") else "fixed") if data["fix_res"] else "keep",
        fixed_size=tuple(int(size) for size in data["opt_input_hw"]),
        **pixels,
    )
    image = torch.from_numpy(synthetic.image(height, width, int(data["image_k"])).transpose(2, 0, 1).copy())
    (canvas,), (geometry,) = model.preprocessor.canvases([{"image": image}], scale)
    mean, std = (np.array(pixels[name])[:, None, None] for name in ("pixel_mean", "pixel_std"))
    grey = model.preprocessor.batch([canvas])[0].numpy() * std + mean
    recorded = data["warped_u8"].transpose(2, 0, 1)
    # Copies of whole pixels are exact; resampling differs a little between versions of OpenCV.
    comparison.close("warped_u8", grey, recorded, atol=0.01 if scale == 1 and not data["fix_res"] else 3.01)
    comparison.close("warped_u8 (mean)", np.abs(grey - recorded).mean(), 0.0, atol=0.3)
    normalized = model.preprocessor.normalize(torch.from_numpy(recorded.astype(np.float32))).numpy()
    comparison.close("input_stride8", normalized[:, ::8, ::8], data.get("input_stride8"), atol=1e-5)
    comparison.equal("input_hw", geometry.input_size, data.get("input_hw"))
    comparison.equal("out_hw", [size // model.stride for size in geometry.input_size], data.get("out_hw"))
    comparison.equal("batch", 1 + int(data.get("flip_test", 0)), data.get("batch"))
    if path.name.startswith("kitti") and data["fix_res"]:
        # Of the size of the image, which the original keeps, only the width sets the window.
        comparison.equal("s of the image", (width, height), data.get("s"))
        data["s"] = data["s"][:1]
    compare_window(comparison, geometry, data, scale, model.stride)


def compare_window(comparison, geometry, data, scale, stride):
    """The recorded window, in the resized image, from the matrix that takes map pixels to the original image."""
    rows, columns = (size / stride for size in geometry.input_size)
    to_image = geometry.to_image.numpy() * scale
    center = to_image @ [columns / 2, rows / 2, 1]
    window = to_image[[0, 1], [0, 1]] * [columns, rows]
    comparison.close("c", center, data.get("c"), atol=1e-3)
    comparison.close("s", window[: len(data.get("s", ()))], data.get("s"), atol=1e-3)
