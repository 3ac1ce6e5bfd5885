import numpy as np
import torch

from centernet_d2.modeling.heatmap import peak_filter
from support.models import stub_heads, stub_model

from .comparison import checks


@checks("decode/ctdet_*")
def check_ctdet(path, comparison, tmp_path):
    data = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}
    heads = stub_heads(
        num_classes=data["hm"].shape[1], offset="reg" in data, box={"class_specific": data["wh"].shape[1] != 2}
    )
    maps = {"heatmap": data["hm"], "size": data["wh"], "offset": data.get("reg")}
    fields = stub_model(heads, max_detections=int(data["K"])).decode(maps)
    rows = [fields["boxes"], fields["scores"][..., None], fields["classes"][..., None]]
    comparison.close("dets", torch.cat(rows, dim=2), data["dets"], atol=1e-4)


@checks("decode/nms_*")
def check_peak_filter(path, comparison, tmp_path):
    data = np.load(path)
    comparison.close("nms", peak_filter(torch.from_numpy(data["hm"])), data["nms"], atol=1e-6)
