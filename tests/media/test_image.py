import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import LIMITS, image_bytes, load_image

QUARTERS = ["red", "lime", "blue", "white"]  # upper left, upper right, lower left, lower right
ORIENTATION = 0x0112


def quarters(size=(32, 48)):
    """Four colours, so that every turn and mirroring shows."""
    image = Image.new("RGB", size)
    width, height = size[0] // 2, size[1] // 2
    for at, colour in enumerate(QUARTERS):
        image.paste(colour, (at % 2 * width, at // 2 * height, (at % 2 + 1) * width, (at // 2 + 1) * height))
    return image


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image).astype(int)


UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", UNDO)
def test_exif_orientation_is_undone(make, orientation):
    upright = quarters()
    stored = upright if UNDO[orientation] is None else upright.transpose(UNDO[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = make.bytes("turned.png", encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(pixels(load_image(path)), pixels(upright))


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage", b"II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_broken_exif_leaves_the_picture(kind, exif):
    image = Image.new("RGB", (16, 8), "white")
    np.testing.assert_array_equal(pixels(load_image(encoded(image, kind, exif=exif))), pixels(image))


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    loaded = load_image(encoded(image, "JPEG", quality=100))
    assert loaded.mode == "RGB"
    assert np.abs(pixels(loaded) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_spread_over_eight(kind):
    ramp = np.linspace(1000, 61000, 64).astype(np.uint16).reshape(8, 8)
    loaded = pixels(load_image(encoded(Image.fromarray(ramp), kind)))
    wanted = ((ramp - 1000.0) * 255 / 60000).round()
    np.testing.assert_array_equal(loaded, np.repeat(wanted[..., None], 3, 2))


def test_even_sixteen_bits():
    loaded = load_image(encoded(Image.fromarray(np.full((4, 4), 700, np.uint16)), "PNG"))
    assert loaded.mode == "RGB"
    assert np.ptp(pixels(loaded)) == 0


@pytest.mark.parametrize(("alpha", "wanted"), [(0, (255, 255, 255)), (255, (255, 0, 0)), (51, (255, 204, 204))])
def test_transparent_parts_lie_on_white(alpha, wanted):
    loaded = load_image(encoded(Image.new("RGBA", (3, 3), (255, 0, 0, alpha)), "PNG"))
    np.testing.assert_array_equal(pixels(loaded), np.full((3, 3, 3), wanted))


def test_grey_with_alpha():
    loaded = load_image(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG"))
    np.testing.assert_array_equal(pixels(loaded), np.full((2, 2, 3), 255))


def test_transparent_palette():
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (2, 0, 4, 2))
    loaded = pixels(load_image(encoded(image, "PNG", transparency=0)))
    np.testing.assert_array_equal(loaded[:, :2], np.full((2, 2, 3), 255))
    np.testing.assert_array_equal(loaded[:, 2:], np.full((2, 2, 3), (200, 100, 50)))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "lime", "blue")]
    loaded = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(pixels(loaded), np.full((5, 5, 3), (255, 0, 0)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "I", "F", "LAB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("L", (4, 4), 9).convert("RGB").convert(mode) if mode == "LAB" else Image.new(mode, (4, 4))
    loaded = load_image(encoded(image, "TIFF"))
    assert (loaded.mode, loaded.size) == ("RGB", (4, 4))


def test_path_text_and_bytes_give_the_same(make):
    path = make.bytes("four.png", encoded(quarters(), "PNG"))
    wanted = pixels(quarters())
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(pixels(load_image(source)), wanted)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated(make, kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    path = make.bytes("half.png", data[: int(len(data) * share)])
    with pytest.raises(DecodeError, match=r"half\.png .*complete"):
        load_image(path)


def bomb(width, height):
    """A PNG that is all header: decoding it would fail, not only take long."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
def test_too_many_pixels_are_refused_by_the_header(make, side, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    path = make.bytes("bomb.png", bomb(side, side))
    with pytest.raises(DecodeError, match=rf"^bomb\.png .*pixels.*{LIMITS.pixels:,}.*Scale it down"):
        load_image(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is a letter to my grandmother, no picture", "can't be decoded as a picture"),
        (b"\x89PNG\r\n\x1a\n", "can't be decoded as a picture"),
        (b"\0" * 100, "can't be decoded as a picture"),
    ],
)
def test_no_picture(make, data, reason):
    with pytest.raises(DecodeError, match=rf"^no\.png .*{reason}|^no\.png is {reason}"):
        load_image(make.bytes("no.png", data))
    with pytest.raises(DecodeError, match="given as bytes"):
        load_image(data)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DecodeError, match="is missing"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(DecodeError, match="no regular file"):
        load_image(tmp_path)


def test_image_bytes_round_trip():
    image = quarters()
    np.testing.assert_array_equal(pixels(load_image(image_bytes(image, kind="PNG"))), pixels(image))
    assert load_image(image_bytes(image)).size == image.size


@pytest.mark.parametrize(("longest", "wanted"), [(24, (16, 24)), (48, (32, 48)), (500, (32, 48))])
def test_image_bytes_scales_down_only(longest, wanted):
    image = quarters()
    assert load_image(image_bytes(image, longest=longest)).size == wanted
    assert image.size == (32, 48)
