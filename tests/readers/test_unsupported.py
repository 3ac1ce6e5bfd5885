import json

import pytest

from centernet_d2.readers import discover_dataset
from centernet_d2.readers.unsupported import FORMATS
from conftest import ROOT
from support.folders import write_image

BOX = {"x": 1, "y": 2, "width": 9, "height": 9}
VIA = {"a.jpg9": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect", **BOX}}]}}
KITTI_3D = "1.5 1.6 3.9 1 1.6 20 -1.57"

FILES = {
    "CVAT XML": ("annotations.xml", "<?xml version='1.0'?>\n<annotations><version>1.1</version><image id='0'/>"),
    "dlib imglab XML": ("a.xml", "<dataset><images><image file='a.jpg'><box top='1' left='2'/>"),
    "VIA JSON": ("via_project.json", {"_via_settings": {}, "_via_img_metadata": VIA}),
    "VIA CSV": ("via.csv", "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes\n"),
    "CreateML": ("c.json", [{"image": "a.jpg", "annotations": [{"label": "ant", "coordinates": BOX}]}]),
    "Label Studio": ("ls.json", [{"annotations": [{"result": [{"original_width": 64, "value": {}}]}], "data": {}}]),
    "Labelbox": ("export.ndjson", {"data_row": {"id": "x"}}),
    "Supervisely": ("ann/a.jpg.json", {"size": {}, "objects": [{"classTitle": "ant", "points": {}}]}),
    "Datumaro": ("default.json", {"info": {}, "categories": {}, "items": [{"id": "a"}]}),
    "BDD100K or Scalabel": ("bdd.json", [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {}}]}]),
    "Cityscapes": ("a_gtFine_polygons.json", {"imgHeight": 48, "objects": [{"label": "car", "polygon": []}]}),
    "COCO captions": ("captions.json", {"images": [], "annotations": [{"image_id": 1, "caption": "An ant."}]}),
    "COCO panoptic segmentation": ("p.json", {"images": [], "annotations": [{"segments_info": []}]}),
    "COCO detection results": ("results.json", [{"image_id": 1, "category_id": 1, "bbox": [], "score": 0.5}]),
    "Hugging Face metadata": ("metadata.jsonl", {"file_name": "a.jpg", "objects": {"bbox": []}}),
    "SageMaker manifest": ("output.manifest", {"source-ref": "s3://a.jpg"}),
    "KITTI tracking": ("label_02/0000.txt", f"0 0 Car 0 0 -1.57 13 16 38 31 {KITTI_3D}\n"),
    "DOTA": ("labelTxt/x.txt", "imagesource:x\ngsd:0.1\n13.0 16.0 38.0 16.0 38.0 31.0 13.0 31.0 small-vehicle 0\n"),
    "MOT Challenge": ("gt/gt.txt", "1,1,912,484,97,109,0,7,1\n"),
    "WIDER FACE": ("bbx_gt.txt", "0--Parade/a.jpg\n1\n449 330 122 149 0 0 0 0 0 0\n"),
    "image list with boxes (keras-yolo3)": ("boxes.txt", "images/a.jpg 1,2,9,9,0 3,4,9,9,1\n"),
    "CrowdHuman odgt": ("train.odgt", "{}"),
    "TFRecord": ("train.tfrecord", "x"),
    "Parquet or Arrow": ("train.parquet", "x"),
    "MATLAB": ("labels.mat", "x"),
    "LMDB or HDF5": ("data.mdb", "x"),
}


@pytest.mark.parametrize("name", [known.name for known in FORMATS])
@pytest.mark.parametrize("passed", ["folder", "file"])
def test_format_is_named_with_its_conversion(tmp_path, name, passed):
    file, content = FILES[name]
    write_image(tmp_path / "images" / "a.jpg")
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (remedy,) = [known.remedy for known in FORMATS if known.name == name]
    with pytest.raises(ValueError, match="which is not read") as error:
        discover_dataset(tmp_path if passed == "folder" else path)
    assert f"{file} is {name}, which is not read: {remedy} (docs/formats.md)" in str(error.value)


def test_documentation_lists_all_formats():
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [known.name for known in FORMATS if f"| {known.name} |" not in text] == []
