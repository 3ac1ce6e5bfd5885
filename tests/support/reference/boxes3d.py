import numpy as np
import torch

from centernet_d2.structures.boxes3d import (
    Boxes3D,
    alpha_to_rotation_y,
    location_from_center,
    orientation_to_alpha,
    project,
    rotation_y_to_alpha,
    unproject,
)

from .comparison import checks


@checks("post/ddd_utils*")
def check_utils(path, comparison, tmp_path):
    data = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    for parity, camera in enumerate((data["calib_even"], data["calib_odd"])):
        rows = slice(parity, None, 2)

        def close(name, ours, atol, rows=rows, parity=parity):
            comparison.close(f"{name} of rows {parity}::2", ours, data[name][rows], atol=atol)

        center, depth, dim, alpha = (data[name][rows] for name in ("center", "depth", "dim", "alpha"))
        close("unproj", unproject(center, depth, camera), 1e-4)
        location = location_from_center(center, depth, dim, camera)
        close("loc", location, 1e-4)
        rotation_y = alpha_to_rotation_y(alpha.float(), center[:, 0], camera)
        close("rot_y", rotation_y, 1e-5)
        close("alpha_back", rotation_y_to_alpha(rotation_y, center[:, 0], camera), 1e-5)
        boxes = Boxes3D(torch.cat([location, dim, rotation_y[:, None]], dim=1))
        close("box3d", boxes.corners(), 1e-4)
        close("orient", boxes.heading(), 1e-4)
        # Project the recorded corners, because near the camera a pixel is less than 0.1 millimeters.
        close("box2d", project(data["box3d"][rows], camera), 1e-3)


@checks("post/get_alpha*")
def check_alpha(path, comparison, tmp_path):
    data = np.load(path)
    comparison.close("alpha", orientation_to_alpha(torch.from_numpy(data["rot"])), data["alpha"], atol=1e-5)
