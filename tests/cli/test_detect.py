import json
import os
import re
import signal
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from centernet_d2 import load_config, model_zoo
from centernet_d2.cli import detect as demo
from centernet_d2.cli import detection
from centernet_d2.cli.sinks import ImageFolderSink, JsonSink, VideoSink
from centernet_d2.cli.sources import VideoSource, find_images, open_source
from centernet_d2.modeling import BoxHead, CenterNet
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, Box3DProperty, BoxProperty
from support.models import widen_boxes
from synthetic.shapes import draw_shapes

ZOO = "Shapes/centernet_R_18_shapes.yaml"


@pytest.fixture(autouse=True)
def _no_datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.manual_seed(0)
    model = CenterNet(load_config(model_zoo.get_config_file(ZOO)))
    widen_boxes(model.heads["BoxHead"])
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def call(weights, capsys):
    """Function (arguments...) -> exit code, standard output and standard error of the demo."""

    def run(*arguments, config=ZOO):
        options = ["--config-file", str(config), "--weights", str(weights), "--device", "cpu"]
        code = demo.main([*map(str, arguments), *options])
        return code, *capsys.readouterr()

    return run


def pixels(seed=0, size=(48, 70)):
    return draw_shapes(np.random.default_rng(seed), size)[0]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    """Images of all types, in a folder whose name contains spaces and non-ASCII characters."""
    root = tmp_path / "Bilder für später"
    write(root / "color.png", pixels(0))
    write(root / "photo ü.jpg", pixels(1, (64, 50)))
    write(root / "gray.png", pixels(2)[..., 0])
    write(root / "alpha.PNG", np.dstack([pixels(3), pixels(3)[..., :1]]))
    write(root / "gray16.png", pixels(4)[..., 0].astype(np.uint16) * 257)
    (root / "broken.png").write_bytes((root / "color.png").read_bytes()[:100])
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (70, 48))
    for seed in range(7):
        writer.write(pixels(seed))
    writer.release()
    return path


def frames(path):
    return [frame.image for frame in VideoSource(str(path))]


def test_folder_with_all_image_types_and_a_broken_file(call, folder, tmp_path):
    output, results = tmp_path / "Ergebnis ö" / "images", tmp_path / "Ergebnis ö" / "results.json"
    code, out, err = call(folder, "--output", output, "--json", results, "--batch-size", 4, "--threshold", 1)
    assert code == 1
    assert err.count("skipped: cannot read the image") == 1
    assert "broken.png" in err
    assert "5 images, " in out
    assert "1 unreadable, skipped" in out
    written = {path.name: cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1) for path in output.iterdir()}
    assert set(written) == {"color.png", "photo ü.png", "gray.png", "alpha.png", "gray16.png"}
    assert written["photo ü.png"].shape == (64, 50, 3)
    # 16-bit values are scaled. Before version 3.11, Matplotlib shifts images by a fraction of a pixel.
    assert abs(written["gray16.png"].mean() - pixels(4)[..., 0].mean()) < 1
    entries = json.loads(results.read_text(encoding="utf-8"))
    named = {"color.png", "photo ü.jpg", "gray.png", "alpha.PNG", "gray16.png"}
    assert {entry["file_name"] for entry in entries} == {str(folder / name) for name in named}
    assert {"image_id", "category_id", "bbox", "score", "file_name"} == set(entries[0])


def test_files_globs_and_config_file(call, folder, tmp_path):
    config = tmp_path / "my config.yaml"
    config.write_text(load_config(model_zoo.get_config_file(ZOO)).dump())
    arguments = [folder / "color.png", folder / "*.jpg", folder / "color.png"]
    code, out, _ = call(*arguments, "--output", tmp_path / "out", "--heatmap", config=config)
    assert code == 0
    assert "2 images, " in out
    drawn = cv2.imread(str(tmp_path / "out" / "color.png"))
    assert drawn.mean() < pixels(0).mean()  # The heatmap dims the image.


@pytest.mark.parametrize(
    ("name", "start"), [("one.jpg", b"\xff\xd8\xff"), ("new/ONE.PNG", b"\x89PNG"), ("one.tif", b"II*")]
)
def test_single_image_output_file(call, folder, tmp_path, name, start):
    output = tmp_path / name
    assert call(folder / "color.png", "--output", output, "--threshold", 1)[0] == 0
    assert output.is_file()
    assert output.read_bytes().startswith(start)
    assert np.abs(cv2.imread(str(output)).astype(int) - pixels(0)).mean() < 12
    code, _, err = call(folder / "color.png", "--output", output)
    assert (code, "already exists and is not overwritten" in err) == (1, True)


def test_sample(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--sample", "--model", "cells", "--device", "cpu"]) == 0
    assert "WBC 1" in capsys.readouterr().out
    assert cv2.imread("output/detections/cells.png").shape == (480, 640, 3)


def test_released_weights_by_name(released, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(released))
    options = [str(folder / "color.png"), "--model", "r18-coco", "--device", "cpu", "--json", str(tmp_path / "r.json")]
    assert demo.main([*options, "--output", str(tmp_path / "drawn")]) == 0
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["color.png"]
    category_ids = {entry["category_id"] for entry in json.loads((tmp_path / "r.json").read_text())}
    assert category_ids
    assert category_ids <= MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "dla34-coco",
            "from https://drive.google.com/file/d/18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d and save it as",
        ),
        ("dla34-cocoo", "config file, run or model dla34-cocoo does not exist; did you mean dla34-coco?"),
    ],
)
def test_unavailable_weights_are_one_line(folder, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(tmp_path / "cache"))
    assert demo.main([str(folder / "color.png"), "--model", name, "--output", str(tmp_path / "drawn")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "drawn").exists()


def test_subfolders_are_reported(call, tmp_path):
    write(tmp_path / "set" / "a.png", pixels(0))
    write(tmp_path / "set" / "inner" / "b.png", pixels(1))
    code, out, err = call(tmp_path / "set", "--output", tmp_path / "out")
    assert (code, "1 image, " in out) == (0, True)
    assert f"{tmp_path / 'set'}: 1 subfolders are not searched; use '{tmp_path / 'set'}/**/*.jpg' to search them" in err
    code, out, err = call(f"{tmp_path / 'set'}/**/*.png", "--output", tmp_path / "all")
    assert "2 images, " in out
    assert "subfolders" not in err


def test_skipped_files_of_a_folder_are_reported(call, folder, tmp_path):
    (folder / "clip.mp4").write_bytes(b"")
    (folder / "\x1b]0;title\x07.txt").write_text("")
    (folder / "\x1b]0;title\x07.png").write_text("")
    _, out, err = call(folder, "--json", tmp_path / "r.json")
    assert f"{folder}: 3 files are not images, skipped (2 .txt, 1 .mp4)" in err
    assert r"\x1b]0;title\x07.png" in err
    assert "\x1b" not in out + err


def test_names_that_are_not_utf8_can_be_read_back(tmp_path):
    name = os.fsdecode(b"\xff\xe9\x80.png")
    with JsonSink(tmp_path / "r.json") as sink:
        sink.write([{"file_name": name, "other": "é"}])
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert "é" in text
    assert os.fsencode(json.loads(text)[0]["file_name"]) == b"\xff\xe9\x80.png"


@pytest.fixture
def server(tmp_path):
    """URL of a local server for the files in a temporary folder."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_stream(call, video, server, tmp_path):
    code, out, _ = call(f"{server}/clip.avi?channel=1", "--json", tmp_path / "r.json", "--output", tmp_path / "out.mp4")
    assert (code, "7 images, " in out) == (0, True)
    entries = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert {entry["file_name"] for entry in entries} <= {f"clip-{number:06d}" for number in range(1, 8)}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://127.0.0.1:9/stream1", "cannot open the stream rtsp://127.0.0.1:9/stream1"),
        ("http://127.0.0.1:9/clip.mp4", "cannot open the stream http://127.0.0.1:9/clip.mp4; images and other files"),
        ("http://127.0.0.1:9/photo.JPG?size=1", "is a URL, but URLs are not supported: download the file"),
        ("s3://bucket/clip.mp4", "is a URL, but URLs are not supported: download the file"),
        ("file:///etc/hosts", "is a URL, but URLs are not supported: download the file"),
    ],
)
def test_urls_that_cannot_be_opened(url, message):
    with pytest.raises(OSError, match=re.escape(message)):
        open_source([url])


@pytest.mark.parametrize("name", ["clip", "clip.m2ts", "clip.bin"])
def test_videos_are_detected_by_content(video, name):
    path = video.rename(video.with_name(name))
    source = open_source([str(path)])
    assert isinstance(source, VideoSource)
    assert len(list(source)) == 7


def test_images_are_detected_by_content(folder):
    path = (folder / "color.png").rename(folder / "color")
    (frame,) = open_source([str(path)])
    assert frame.image.shape == (48, 70, 3)


def test_truncated_videos_are_reported(call, video, tmp_path):
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    code, _, err = call(video, "--json", tmp_path / "r.json")
    assert code == 1
    assert re.search(r"skipped: the video .*clip.avi is truncated: [1-5] of 7 frames can be read", err)


def test_video_to_video(call, video, tmp_path):
    code, out, _ = call(video, "--output", tmp_path / "drawn.mp4", "--json", tmp_path / "r.json", "--threshold", 1)
    assert code == 0
    assert "7 images, " in out
    drawn = frames(tmp_path / "drawn.mp4")
    assert [frame.shape for frame in drawn] == [(48, 70, 3)] * 7
    assert np.abs(drawn[3].astype(int) - frames(video)[3]).mean() < 12
    assert {entry["image_id"] for entry in json.loads((tmp_path / "r.json").read_text())} == set(range(1, 8))


def test_video_to_image_folder(call, video, tmp_path):
    assert call(video, "--output", tmp_path / "frames", "--max-frames", 3, "--batch-size", 2)[0] == 0
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"clip-{number:06d}.png" for number in (1, 2, 3)]


def test_ctrl_c_leaves_complete_files(call, video, tmp_path, monkeypatch):
    process = detection.process

    def interrupted(batch, *rest, **options):
        if batch[0].number == 3:
            signal.raise_signal(signal.SIGINT)
        return process(batch, *rest, **options)

    monkeypatch.setattr(detection, "process", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = call(video, "--output", tmp_path / "drawn.avi", "--json", tmp_path / "r.json")
    assert (code, signal.getsignal(signal.SIGINT)) == (130, before)
    assert "3 images" in out
    assert "interrupted; the files written so far are complete" in err
    assert len(frames(tmp_path / "drawn.avi")) == 3
    assert {entry["image_id"] for entry in json.loads((tmp_path / "r.json").read_text())} == {1, 2, 3}


def test_default_output_is_a_new_folder(call, folder, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("detections", "detections-2"):
        code, out, _ = call(folder / "color.png")
        assert (code, out.splitlines()[-1]) == (0, f"results: output/{name}")
        assert [path.name for path in (tmp_path / "output" / name).iterdir()] == ["color.png"]
    code, out, _ = call(video, "--max-frames", 1)
    assert (code, out.splitlines()[-1]) == (0, "results: output/detections-3/clip.mp4")
    assert len(frames(tmp_path / "output" / "detections-3" / "clip.mp4")) == 1
    code, out, _ = call(folder / "gray.png", "--json", "r.json")
    assert (code, out.splitlines()[-1]) == (0, "results: r.json")
    assert len(list((tmp_path / "output").iterdir())) == 3


def test_overwrite_replaces_files_of_the_same_name(call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "output" / "detections" / "mine.png", pixels())
    (tmp_path / "r.json").write_text("mine")
    for _ in range(2):
        assert call(folder / "color.png", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "output" / "detections").iterdir()} == {"mine.png", "color.png"}
    assert call(folder / "color.png", "--json", "r.json", "--overwrite")[0] == 0
    assert isinstance(json.loads((tmp_path / "r.json").read_text()), list)
    for path in ("one.jpg", "one.mp4"):
        assert [call(folder / "color.png", "--output", path, "--overwrite")[0] for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "no model is specified: use --model MODEL or --weights FILE (see --help)"),
        (["--model", "r18-coco"], "no input is specified: add images, folders, globs or a video, or use --camera"),
        (
            ["{image}", "--model", "r19"],
            "model r19 does not exist; --list-models lists the names",
        ),
    ],
)
def test_incomplete_command_lines_are_one_line(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.argv", ["demo.py"])
    assert demo.main([argument.format(image=folder / "color.png") for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("demo: ")
    assert message in line


def test_missing_camera_is_one_line(capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["demo.py"])
    assert demo.main(["--camera", "77", "--model", "r18-coco"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("demo: cannot open camera 77: ")
    assert len(err.splitlines()) == 1


def test_existing_output_is_not_overwritten(call, folder, tmp_path):
    image = folder / "color.png"
    write(tmp_path / "full" / "color.png", pixels())
    (tmp_path / "r.json").write_text("mine")
    for option, path in (("--output", tmp_path / "full"), ("--json", tmp_path / "r.json")):
        code, _, err = call(image, option, path)
        assert code == 1
        assert f"{path} already exists and is not overwritten" in err
    assert (tmp_path / "r.json").read_text() == "mine"
    assert call(image, "--output", tmp_path / "drawn.mp4")[0] == 0
    assert call(image, "--output", tmp_path / "drawn.mp4")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "--json", "r.json"], "nowhere.png: no file, folder or glob match exists"),
        (["--json", "r.json"], "no input is specified"),
        (["color.png", "--camera", "0", "--json", "r.json"], "inputs and --camera are mutually exclusive"),
        (
            ["--camera", "77", "--json", "r.json"],
            "cannot open camera 77: connect it, ",
        ),
        (["clip.avi", "color.png", "--json", "r.json"], "a video or stream must be the only input"),
        (["color.png", "--json", "r.json", "--opts", "MODEL.NOTHING", "1"], "there is no key MODEL.NOTHING"),
        (
            ["color.png", "--json", "r.json", "--opts", "MODEL.WEIGHTS", ""],
            "MODEL.WEIGHTS is empty, but detection requires weights",
        ),
        (["clip.avi", "--output", "drawn.mov"], "drawn.mov: the suffix of a video must be .mp4 or .avi"),
        (["broken.avi", "--json", "r.json"], "cannot open the video broken.avi"),
        (["empty", "--json", "r.json"], "empty: the folder contains no images"),
        (["color.png", "--json", "r.json", "--max-frames", "0"], "--max-frames is 0, but must be at least 1"),
        (["color.png", "--json", "r.json", "--config-file", "bad.yaml"], "bad.yaml is not valid YAML"),
        (["color.png", "--json", "r.json", "--weights", "bad.yaml"], "bad.yaml is not a valid weights file"),
        (["color.png", "--json", "r.json", "--weights", "nope.pth"], "the weights file nope.pth does not exist"),
        (["color.png", "--json", "r.json", "--batch-size", "0"], "--batch-size is 0, but must be at least 1"),
        (["color.png", "--json", "empty"], "--json empty is a folder"),
        (["color.png", "--json", "r.json", "--threshold", "50"], "--threshold is 50, but must be from 0 to 1"),
        (["color.png", "--json", "r.json", "--threshold", "-0.1"], "--threshold is -0.1, but must be from 0 to 1"),
        (["color.png", "--json", "r.json", "--threshold", "nan"], "--threshold is nan, but must be from 0 to 1"),
        (
            ["color.png", "gray.png", "--output", "one.jpg"],
            "one.jpg is a single image, but the input is 2 images: specify a folder",
        ),
        (["clip.avi", "--output", "one.jpg"], "one.jpg is a single image, but the input is a video"),
        (["color.png", "--output", "one.mov"], "one.mov: the suffix of a video must be .mp4 or .avi"),
        (["color.png", "--output", "one.gif"], "one.gif: the suffix of an image must be one of .bmp, "),
        (
            ["nested", "--json", "r.json"],
            "the folder contains no images; nested: 1 subfolders are not searched",
        ),
        (["color.png", "--json", "r.json", "--device", "cuda:77"], "no GPU is available: set MODEL.DEVICE cpu"),
    ],
)
def test_invalid_arguments_are_one_line_and_create_no_files(
    weights, capsys, tmp_path, monkeypatch, arguments, message, video
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "color.png", pixels())
    (tmp_path / "broken.avi").write_text("nothing")
    (tmp_path / "bad.yaml").write_text("e: [1, 2\n")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write(tmp_path / "gray.png", pixels(2)[..., 0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "inner").mkdir(parents=True)
    before = {path.name for path in tmp_path.iterdir()}
    options = ["--config-file", ZOO, "--device", "cpu", *(["--weights", str(weights)] if "" not in arguments else [])]
    assert demo.main([*options, *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "named", "name"),
    [
        (["--joint-scores"], "--joint-scores", "keypoint"),
        (["--focal-length", "9"], "--focal-length", "box3d"),
        (["--calibration", "nowhere", "--focal-length", "9"], "--calibration, --focal-length", "box3d"),
    ],
)
def test_options_of_other_properties_are_rejected(call, folder, tmp_path, monkeypatch, options, named, name):
    monkeypatch.setattr("sys.argv", ["demo.py"])
    code, _, err = call(folder, "--json", tmp_path / "r.json", *options)
    assert code == 1
    assert err.splitlines()[-1] == f"demo: {named} requires the property {name}, which this config does not predict"
    assert not (tmp_path / "r.json").exists()


def test_subclass_of_property_with_options(monkeypatch):
    prop = type("OwnProperty", (Box3DProperty,), {"name": "own", "node": ""})
    head = type("OwnHead", (BoxHead,), {"property_type": prop})
    monkeypatch.setattr(POINT_HEAD_REGISTRY, "_obj_map", {**POINT_HEAD_REGISTRY._obj_map, "OwnHead": head})
    parser = demo.build_parser()
    detection.add_property_arguments(parser)
    args = parser.parse_args(["a.png", "--config-file", "a.yaml", "--weights", "a.pth", "--focal-length", "9"])
    detection.use_property_arguments(args, [Box3DProperty()])
    with pytest.raises(ValueError, match="--focal-length requires the property"):
        detection.use_property_arguments(args, [BoxProperty()])


def test_find_images_keeps_order_without_duplicates(folder):
    names = [path.name for path in find_images([str(folder / "gray.png"), str(folder)])]
    assert names == ["gray.png", "alpha.PNG", "broken.png", "color.png", "gray16.png", "photo ü.jpg"]
    assert len(open_source([str(folder)])) == 6


def test_repeated_names_are_numbered(tmp_path):
    with ImageFolderSink(tmp_path / "out") as sink:
        for name in ("a.png", "a.jpg", "A.png"):
            sink.write(name, pixels())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["A-3.png", "a-2.png", "a.png"]


def test_empty_json_and_resized_video_frames(tmp_path):
    with JsonSink(tmp_path / "r.json") as sink:
        sink.write([])
    assert json.loads((tmp_path / "r.json").read_text()) == []
    with VideoSink(tmp_path / "v.avi", 5) as sink:
        sink.write("", pixels())
        sink.write("", pixels(size=(30, 30)))
    assert len(frames(tmp_path / "v.avi")) == 2


def test_script_prints_help(load_script, capsys):
    with pytest.raises(SystemExit) as exit_info:
        load_script("demo.py").main(["--help"])
    assert exit_info.value.code == 0
    assert "--heatmap" in capsys.readouterr().out
