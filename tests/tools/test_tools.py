def test_flops_and_parameters_are_counted(load_script, capsys):
    load_script("tools/count_flops.py").main(["COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| `COCO-Detection/centernet_R_18_1x.yaml` | 14,437,349 | 14,437,349 | ")


def test_the_benchmark_compares_two_variants(load_script, capsys):
    arguments = ["COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64", "--runs", "2"]
    load_script("tools/benchmark.py").main([*arguments, "--vs", "MODEL.DEFORM_CONV", "torchvision"])
    out = capsys.readouterr().out
    assert "MODEL.DEFORM_CONV torchvision" in out
    assert "ratio" in out


def test_the_picture_of_the_conventions_is_drawn_and_small(load_script, tmp_path):
    load_script("tools/draw_conventions.py").main([str(tmp_path / "x.png")])
    assert 10_000 < (tmp_path / "x.png").stat().st_size < 150_000
