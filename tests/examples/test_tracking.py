"""The example of tracks: association of detections, evaluation, and videos of demo.py."""

import json

import cv2
import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.cli.detect import main as demo
from centernet_d2.utils.cli import import_user_modules

from .conftest import EXAMPLES

pytest.importorskip("norfair", reason="needs norfair-enough")
pytest.importorskip("trackeval", reason="needs trackeval")


@pytest.fixture
def tracking():
    (module,) = import_user_modules([str(EXAMPLES / "tracking" / "tracking.py")])
    return module


def frame(*objects):
    """Return detections from (x, embedding index) of each object."""
    boxes = torch.tensor([[x, 10.0, x + 20, 30] for x, _ in objects]).reshape(-1, 4)
    looks = torch.eye(4)[[look for _, look in objects]].reshape(-1, 4)
    return Instances(
        (64, 200),
        pred_boxes=Boxes(boxes),
        scores=torch.full((len(boxes),), 0.9),
        pred_classes=torch.zeros(len(boxes), dtype=torch.long),
        pred_embedding=looks,
    )


def run(prop, frames):
    step = prop.start_video()
    return [step(one).pred_track.tolist() for one in frames]


def test_object_that_hides_keeps_its_track_with_embeddings(tracking):
    frames = [frame((10 + 2 * i, 0)) for i in range(8)] + [frame()] * 15 + [frame((150 - 2 * i, 0)) for i in range(8)]
    together, boxes = (run(tracking.TrackProperty(embeddings=own), frames) for own in (True, False))
    assert together[7] == together[-1] == [1]
    assert boxes[7] == [1]
    assert boxes[-1] == [2]


def test_objects_that_exchange_positions_keep_their_tracks_with_embeddings(tracking):
    frames = [frame((10, 0), (100, 1))] * 6 + [frame((100, 0), (10, 1))] * 6
    together, boxes = (run(tracking.TrackProperty(embeddings=own), frames) for own in (True, False))
    assert together[-1] == together[5]
    assert boxes[-1] == boxes[5][::-1]


def test_low_scores_are_not_tracked(tracking):
    frames = [frame((10, 0), (100, 1)) for _ in range(6)]
    for one in frames:
        one.scores = torch.tensor([0.9, 0.2])
    assert run(tracking.TrackProperty(), frames)[-1] == [1, 0]


def test_videos_do_not_share_state(tracking):
    prop = tracking.TrackProperty()
    first, second = (run(prop, [frame((10, 0))] * 6) for _ in range(2))
    assert first == second == [[0]] * first.count([0]) + [[1]] * first.count([1])


def test_metrics_of_perfect_and_of_switched_tracks(tracking, tmp_path):
    tracking.write_walks(tmp_path, "val", range(3, 9), videos=2, frames=12)
    for name in ("perfect", "switched"):
        (tmp_path / "found" / name / "data").mkdir(parents=True)
    for path in (tmp_path / "val").glob("*/gt/gt.txt"):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        for name in ("perfect", "switched"):
            lines = []
            for row in rows:
                track = int(row[1]) + (50 if name == "switched" and int(row[0]) > 6 else 0)
                lines.append(",".join([row[0], str(track), *row[2:6], "1", "-1", "-1", "-1"]))
            (tmp_path / "found" / name / "data" / f"{path.parents[1].name}.txt").write_text("\n".join(lines) + "\n")
    table = tracking.evaluate_tracks(tmp_path / "val", tmp_path / "found", ["perfect", "switched"])
    assert table["perfect"] == {"HOTA": 100, "IDF1": 100, "MOTA": 100, "switches": 0}
    assert table["switched"]["switches"] > 0
    assert table["switched"]["IDF1"] < 80


@pytest.fixture
def weights(tracking, train, tmp_path):
    for name, identities in (("train", range(3)), ("val", range(3, 9))):
        tracking.write_walks(tmp_path / "walks", name, identities, videos=1, frames=6, step=2)
    options = {"MODEL__CENTERNET__TRACKS__COUNT": 3, "MODEL__CENTERNET__TRACKS__MIN_SCORE": 0.0}
    assert train("tracking", **options) == 0
    return tmp_path / "out" / "model_final.pth"


def test_video_of_demo_has_tracks(weights, tmp_path):
    video, mot, results = tmp_path / "walk.avi", tmp_path / "tracks.txt", tmp_path / "found.json"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 128))
    image = cv2.imread(str(tmp_path / "walks" / "val" / "01" / "img1" / "000001.png"))
    for _ in range(5):
        writer.write(image)
    writer.release()
    files = ["--import", str(EXAMPLES / "tracking" / "tracking.py"), "--weights", str(weights)]
    outputs = ["--output", str(tmp_path / "drawn.avi"), "--json", str(results), "--mot", str(mot), "--batch-size", "2"]
    assert demo([str(video), *files, *outputs]) == 0
    entries = json.loads(results.read_text())
    tracked = [one for one in entries if one["track"]]
    assert len(tracked) > 10
    assert len(mot.read_text().splitlines()) == len(tracked)
    assert demo([str(video), *files, *outputs[:4], "--overwrite", "--mot", str(mot)]) == 0
    assert demo([str(video), *files, "--json", str(tmp_path / "other.json"), "--mot", str(mot)]) == 1
    # Images are no video.
    assert demo([str(tmp_path / "walks/val/01/img1"), *files, "--json", str(results), "--overwrite"]) == 0
    assert all("track" not in one for one in json.loads(results.read_text()))


def test_evaluation_of_both_associations(tracking, weights, tmp_path, capsys):
    folder = tmp_path / "walks" / "val"
    assert tracking.main(["evaluate", str(weights), str(folder), str(tmp_path / "tracks"), "--device", "cpu"]) == 0
    assert "boxes and embeddings: HOTA" in capsys.readouterr().out
    table = json.loads((tmp_path / "tracks" / "metrics.json").read_text())
    assert set(table) == {"boxes", "boxes and embeddings"}
    assert tracking.main(["evaluate", str(weights), str(folder), str(tmp_path / "tracks")]) == 1
