import os

import cv2
import numpy as np
import pytest
from PIL import Image

from centernet_d2.imaging.reading import (
    IMAGE_SUFFIXES,
    max_pixels,
    pillow_to_rgb,
    read_header,
    read_headers,
    read_image,
    to_uint8_color,
)

COLOR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_channel_order(tmp_path):
    path = save(tmp_path / "a.png", COLOR)
    assert (read_image(path, "RGB") == COLOR).all()
    assert (read_image(path) == COLOR[..., ::-1]).all()


def test_all_image_modes_are_read_as_three_channels(tmp_path):
    gray, alpha = COLOR[..., 0], np.full((6, 9, 1), 7, dtype=np.uint8)
    assert (read_image(save(tmp_path / "gray.png", gray)) == gray[..., None]).all()
    assert (read_image(save(tmp_path / "rgba.png", np.concatenate([COLOR, alpha], axis=2)), "RGB") == COLOR).all()
    for mode in ("P", "1", "LA", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.fromarray(COLOR).convert(mode).save(path)
        assert read_image(path).shape == (6, 9, 3)


def test_16_bit_values_are_scaled(tmp_path):
    image16 = (np.arange(54, dtype=np.uint16) * 1213).reshape(6, 9)
    expected = np.round(image16 / 257)[..., None].astype(np.uint8)
    assert (read_image(save(tmp_path / "image16.png", image16)) == expected).all()
    assert (to_uint8_color(image16) == expected).all()
    assert len(np.unique(expected)) == 54


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "rotated.png", COLOR, exif=exif)
    assert (read_image(path, "RGB") == np.rot90(COLOR, -1)).all()


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not an image", None])
def test_invalid_image_file_is_named(tmp_path, content):
    path = tmp_path / "größe 1.png"
    if content is None:
        save(path, COLOR)
        content = path.read_bytes()[:-30]
    path.write_bytes(content)
    with pytest.raises(OSError, match="cannot read the image .*größe 1.png"):
        read_image(path)
    with pytest.raises(FileNotFoundError, match="nowhere.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_float_image_file_raises(tmp_path):
    path = tmp_path / "float.tiff"
    save(path, np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(OSError, match="float.tiff: its values .float32. are not 16-bit gray values"):
        read_image(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), dtype=np.int64), "uint8, uint16 or float in 0..255, not int64"),
        (np.full((4, 4, 3), 0.5), "its values are in 0..1: multiply it by 255"),
        (np.full((4, 4, 3), 255.5), "in 255.5..255.5: clip it"),
        (np.full((4, 4, 3), -0.5), "in -0.5..-0.5: clip it"),
        (np.full((4, 4, 3), np.nan), "in nan..nan"),
        ([1, 2], "not list"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"not \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"not \(0, 4, 3\)"),
    ],
)
def test_invalid_array_raises(pixels, message):
    with pytest.raises(ValueError, match=message):
        to_uint8_color(pixels)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_arrays_are_rounded(kind):
    assert (to_uint8_color(COLOR.astype(kind)) == COLOR).all()
    assert to_uint8_color(np.array([[1.6, 0.4]], dtype=kind))[0, :, 0].tolist() == [2, 0]
    black = np.zeros((2, 2, 3), dtype=kind)
    assert (to_uint8_color(black) == 0).all()
    transparent = np.dstack([COLOR.astype(kind), np.full((6, 9), -1)])
    assert (to_uint8_color(transparent) == COLOR).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_of_all_modes(mode):
    image = Image.fromarray(COLOR).convert(mode)
    assert (pillow_to_rgb(image) == np.asarray(image.convert("RGB"))).all()


def test_16_bit_and_rotated_pillow_images(tmp_path):
    image16 = (np.arange(54, dtype=np.uint16) * 1213).reshape(6, 9)
    assert (pillow_to_rgb(Image.fromarray(image16)) == to_uint8_color(image16)).all()
    with pytest.raises(ValueError, match="its values .float32. are not 16-bit gray values"):
        pillow_to_rgb(Image.fromarray(np.zeros((4, 4), dtype=np.float32)))
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(save(tmp_path / "rotated.png", COLOR, exif=exif)) as image:
        assert (pillow_to_rgb(image) == np.rot90(COLOR, -1)).all()


def test_too_large_images_are_not_decoded(tmp_path, monkeypatch):
    # The file has 13 KB; the decoded image would have half a gigabyte.
    path = tmp_path / "bomb.png"
    Image.new("1", (13000, 13000)).save(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("the image was decoded"))
    for read in (read_image, read_header):
        with pytest.raises(OSError, match=r"bomb\.png: 13000 x 13000 pixels exceed .* 89478485; set .*MAX_PIXELS"):
            read(path)
    with Image.open(path) as image, pytest.raises(ValueError, match="pixels exceed the limit of 89478485"):
        pillow_to_rgb(image)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", str(13000**2))
    assert read_header(path)[:2] == (13000, 13000)


def test_pixel_limit_is_independent_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = save(tmp_path / "a.png", COLOR)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "54")
    assert (read_image(path, "RGB") == COLOR).all()
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "20")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(OSError, match="its pixels exceed the limit of 20; set the environment variable"):
        read_image(path)
    for wrong in ("many", "-1", "1e6", "0"):
        monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match=f"CENTERNET_D2_MAX_PIXELS is '{wrong}', but must be a positive integer"):
            read_image(path)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "")
    assert max_pixels() == 89478485


def test_no_program_is_started(tmp_path, monkeypatch):
    # Pillow would decode this file with Ghostscript.
    (tmp_path / "photo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with Image.open(tmp_path / "photo.png") as image:
        assert image.format == "EPS"
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started"))
    for read in (read_header, read_image):
        with pytest.raises(OSError, match=r"photo.png: it is damaged, or in none of the formats .*JPEG"):
            read(tmp_path / "photo.png")


def test_special_files_raise(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_image(path)


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "detectron2://a.png", "file:///etc/passwd", "s3://a/b.png"]
)
def test_urls_raise(url):
    for read in (read_image, read_header):
        with pytest.raises(FileNotFoundError, match=f"the image {url} is a URL, but URLs are not supported"):
            read(url)


def outcome(path, image_format="BGR"):
    """Return the pixels of a file, or the error message."""
    try:
        return read_image(path, image_format)
    except OSError as error:
        return str(error)


@pytest.fixture
def read_by_pillow(monkeypatch):
    """Function that reads images with Pillow only."""

    def read(path, image_format="BGR"):
        with monkeypatch.context() as patch:
            patch.setattr("centernet_d2.imaging.reading._decode_plain", lambda *_: None)
            return outcome(path, image_format)

    return read


SMOOTH = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8), (67, 45))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0, "quality": 95},
        {"progressive": True},
        {"optimize": True, "quality": 5},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
    ],
)
def test_plain_jpeg_is_decoded_by_opencv_with_equal_pixels(tmp_path, monkeypatch, read_by_pillow, options):
    path = save(tmp_path / "a.jpg", SMOOTH, **options)
    expected = {order: read_by_pillow(path, order) for order in ("BGR", "RGB")}
    monkeypatch.setattr("centernet_d2.imaging.reading.pillow_to_rgb", lambda _: pytest.fail("Pillow decoded it"))
    for order, pixels in expected.items():
        assert (read_image(path, order) == pixels).all()


def test_other_jpeg_is_decoded_read_by_pillow(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6
    rotated = save(tmp_path / "rotated.jpg", SMOOTH, exif=exif)
    assert read_image(rotated).shape == (67, 45, 3)
    longer = save(tmp_path / "longer.jpg", SMOOTH)
    longer.write_bytes(longer.read_bytes() + bytes(4))
    Image.fromarray(SMOOTH).convert("CMYK").save(tmp_path / "ink.jpg")
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("OpenCV decoded it"))
    for path in (rotated, longer, tmp_path / "ink.jpg", save(tmp_path / "gray.jpg", SMOOTH[..., 0])):
        assert read_image(path).ndim == 3
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "54")
    with pytest.raises(OSError, match=r"plain\.jpg: 67 x 45 pixels exceed the limit of 54"):
        read_image(save(tmp_path / "plain.jpg", SMOOTH))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_truncated_jpeg_raises(tmp_path, options):
    """OpenCV would fill the missing pixels with gray."""
    path = save(tmp_path / "cut.jpg", SMOOTH, **options)
    content = path.read_bytes()
    for length in range(0, len(content), 29):
        path.write_bytes(content[:length])
        with pytest.raises(OSError, match=r"cannot read the image .*cut\.jpg"):
            read_image(path)


def test_damaged_jpeg_matches_pillow(tmp_path, read_by_pillow):
    """Damaged bytes lead to the same pixels or the same error as in Pillow."""
    random, path = np.random.default_rng(0), tmp_path / "damaged.jpg"
    contents = [save(path, SMOOTH, **options).read_bytes() for options in ({}, {"progressive": True})]
    outcomes = set()
    for index in range(150):
        content = contents[index % 2]
        start, length = random.integers(len(content)), random.choice([1, 3, 40])
        damage = [random.bytes(length), content[start : start + length] * 2, b""][index % 3]
        path.write_bytes(content[:start] + damage + content[start + length :])
        ours, pillow = outcome(path), read_by_pillow(path)
        assert type(ours) is type(pillow)
        assert ours == pillow if isinstance(ours, str) else (ours == pillow).all()
        outcomes.add(type(ours))
    assert outcomes == {str, np.ndarray}


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "größe"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 8
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    Image.new("L", (50, 30)).save(folder / "b.jpg", exif=exif)
    (folder / "c.png").write_bytes(b"nothing")
    return [str(folder / name) for name in ("a.png", "b.jpg", "c.png", "d.png")]


def test_read_headers_keeps_order_and_returns_errors(paths):
    first, second, broken, missing = read_headers(paths, "headers")
    assert (tuple(first), first.upright_size) == ((60, 40, 1), (60, 40))
    assert (tuple(second), second.upright_size) == ((50, 30, 8), (30, 50))
    assert "cannot read the image" in str(broken)
    assert isinstance(missing, FileNotFoundError)
    assert read_headers([], "headers") == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm", ".tga", ".jp2", ".avif"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_truncated_files_are_found_by_their_header(tmp_path, suffix, options):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, **options)
    assert read_header(path)[:2] == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(OSError, match=r"cannot read the image .*a\."):
        read_header(path)


def test_complete_files_with_data_after_their_end_are_read(tmp_path):
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"a{suffix}"
        Image.new("RGB", (20, 10)).save(path)
        path.write_bytes(path.read_bytes() + b"\0" * 100)
        assert read_header(path)[:2] == (20, 10)


@pytest.mark.parametrize(("mode", "message"), [("F", "are not 16-bit gray values")])
def test_pixel_types_that_are_not_read_are_found_by_the_header(tmp_path, mode, message):
    Image.new(mode, (20, 10)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=message):
        read_header(tmp_path / "a.tif")


def test_limit_is_reported_without_a_warning_of_pillow(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "150")
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"20 x 10 pixels exceed the limit of 150; .*CENTERNET_D2_MAX_PIXELS"):
        read_header(tmp_path / "a.png")
    assert not recwarn.list


def test_formats_that_start_programs_are_not_images():
    assert {".avif", ".jp2", ".jpe", ".jfif", ".tga", ".qoi"} <= set(IMAGE_SUFFIXES)
    assert not {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5", ".mic"} & set(IMAGE_SUFFIXES)
