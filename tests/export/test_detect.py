"""The file detect.py: images of all kinds, errors, and a process without torch."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from centernet_d2 import Predictor
from centernet_d2.export import detect, export_model
from centernet_d2.imaging.reading import pillow_to_rgb, read_image, to_uint8_color
from support.tasks import task_model


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
    """Folder of an exported model for boxes, and its predictor."""
    folder = tmp_path_factory.mktemp("exported")
    predictor = Predictor(task_model("boxes"))
    predictor.export(folder, images=[record["file_name"] for record in images])
    return folder, predictor


def pixels(mode="RGB"):
    random = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return PIL.Image.fromarray(random).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_pixels_are_those_of_the_predictor(mode, tmp_path):
    deep = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16))
    image = deep if mode == "I;16" else pixels(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(detect.to_bgr(path), read_image(path))
    assert np.array_equal(detect.to_bgr(image), pillow_to_rgb(image)[..., ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    pixels().save(tmp_path / "a.jpg", exif=exif)
    assert np.array_equal(detect.to_bgr(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays(shape, dtype):
    array = (np.random.default_rng(0).random(shape) * (65535 if dtype == np.uint16 else 255)).astype(dtype)
    assert np.array_equal(detect.to_bgr(array), to_uint8_color(array))


def test_runs_without_torch(exported, images):
    folder, predictor = exported
    # A new process, in which torch, Detectron2 and this package cannot be imported.
    script = "import sys; sys.modules.update(dict.fromkeys(['torch', 'detectron2', 'centernet_d2', 'cv2']));"
    script += "sys.argv[0] = 'detect.py'; import detect; detect.main()"
    names = [images[0]["file_name"], images[1]["file_name"]]
    command = [sys.executable, "-c", script, "model.onnx", *names, "--threshold", "0.09", "--json"]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    entries = json.loads(output)
    assert {entry["image_id"] for entry in entries} == set(names)
    expected = [len(result["instances"]) for result in predictor(names, threshold=0.09)]
    assert len(entries) == pytest.approx(sum(expected), abs=2)
    assert len(entries) > 10


def run_main(monkeypatch, capsys, *arguments):
    """Return exit code or message, and standard output, of the command line."""
    monkeypatch.setattr("sys.argv", ["detect.py", *map(str, arguments)])
    try:
        code = detect.main()
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out


def test_command_line(exported, images, monkeypatch, capsys, tmp_path):
    folder, _ = exported
    code, output = run_main(monkeypatch, capsys, folder / "model.onnx", images[0]["file_name"], "--threshold", 0)
    assert code is None
    assert output.startswith(f"{images[0]['file_name']}: ")
    assert run_main(monkeypatch, capsys, folder / "no.onnx", "a.jpg")[0].endswith("no.onnx'")
    code, _ = run_main(monkeypatch, capsys, folder / "model.onnx", tmp_path / "none.jpg")
    assert "none.jpg" in code


def test_damaged_and_foreign_files(exported, tmp_path):
    import onnx

    folder, _ = exported
    content = (folder / "model.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="half.onnx is damaged, or not a file of centernet-export"):
        detect.Detector(tmp_path / "half.onnx")
    model = onnx.load(folder / "model.onnx")
    metadata = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**metadata, "format": 99})
    onnx.save(model, tmp_path / "future.onnx")
    with pytest.raises(ValueError, match=r"future.onnx has format 99: use the detect.py of its export"):
        detect.Detector(tmp_path / "future.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="foreign.onnx is damaged, or not a file of centernet-export"):
        detect.Detector(tmp_path / "foreign.onnx")


def test_canvases_of_another_size(images, tmp_path):
    export_model(task_model("boxes").eval(), tmp_path, form="canvas", check=False)
    detector = detect.Detector(tmp_path / "model.onnx")
    assert detector.run({"canvases": np.zeros((3, 3, 64, 96), dtype=np.uint8)})["boxes"].shape == (3, 100, 4)
    with pytest.raises(ValueError, match="the canvases are 64 x 90, but must be multiples of 32"):
        detector.run({"canvases": np.zeros((1, 3, 64, 90), dtype=np.uint8)})
    with pytest.raises(ValueError, match="exported with --form canvas"):
        detector(images[0]["file_name"])


def test_supervision():
    pytest.importorskip("supervision", reason="needs the package supervision")
    outputs = {"boxes": np.array([[1.0, 2, 3, 4]]), "scores": np.array([0.5]), "classes": np.array([1])}
    found = detect.Detections(outputs, {"class_names": ["a", "b"]}).to_supervision()
    assert found.xyxy.tolist() == [[1, 2, 3, 4]]
    assert found.confidence.tolist() == [0.5]
    assert found.class_id.tolist() == [1]
    assert found["class_name"].tolist() == ["b"]


def test_detector_fits_on_two_screens(exported):
    lines = (exported[0] / "detect.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert not any("import centernet_d2" in line or "from centernet_d2" in line for line in lines)
