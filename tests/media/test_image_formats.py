"""Every format of pictures that is taken, against pixels worked out here."""

import io
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.errors import DecodeError, MissingExtraError, UnsupportedMediaError
from llama_index_mm.media import PICTURE_SIDE, MediaLimits, Picture, load_image, load_picture, modality_of, suffixes
from llama_index_mm.media.formats import HEIF, NOT_TAKEN, PICTURES, UNTRUSTED
from llama_index_mm.media.frames import MOST_FRAMES

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source, **options):
    return np.asarray(load_image(source, **options)).astype(int)


def smooth(height, width):
    """A picture without sharp edges, which lossy formats keep well."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [127 + 120 * np.sin(2 * np.pi * (x * a / width + y * b / height)) for a, b in ((1, 0), (0, 1), (1, 1))]
    return np.stack(bands, 2).astype(np.uint8)


def dcx(page):
    return struct.pack("<4I", 0x3ADE68B1, 12, 0, 0)[:12] + page


def sun(array):
    height, width = array.shape[:2]
    return struct.pack(">8I", 0x59A66A95, width, height, 24, array.size, 1, 0, 0) + array[..., ::-1].tobytes()


def psd(array):
    height, width = array.shape[:2]
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3) + struct.pack(">III", 0, 0, 0)
    return head + struct.pack(">H", 0) + array.transpose(2, 0, 1).tobytes()


def cur(array):
    icon = bytearray(encoded(Image.fromarray(array), "ICO", sizes=[(array.shape[1], array.shape[0])], bitmap_format="bmp"))
    icon[2:4] = b"\2\0"
    return bytes(icon)


def xpm(array):
    height, width = array.shape[:2]
    names = [f"{at:04x}" for at in range(height * width)]
    lines = [f'"{width} {height} {height * width} 4",']
    lines += [f'"{name} c #{r:02x}{g:02x}{b:02x}",' for name, (r, g, b) in zip(names, array.reshape(-1, 3), strict=True)]
    lines += ['"' + "".join(names[row * width : (row + 1) * width]) + '",' for row in range(height)]
    return ("/* XPM */\nstatic char *x[] = {\n" + "\n".join(lines) + "\n};\n").encode()


IMAGE = Image.fromarray(COLOURS)
SQUARE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
# Files that hold exactly these colours, by ending.
EXACT = {
    ".png": encoded(IMAGE, "PNG"),
    ".apng": encoded(IMAGE, "PNG"),
    ".bmp": encoded(IMAGE, "BMP"),
    ".dib": encoded(IMAGE, "DIB"),
    ".ppm": encoded(IMAGE, "PPM"),
    ".pnm": encoded(IMAGE, "PPM"),
    ".webp": encoded(IMAGE, "WEBP", lossless=True),
    ".tif": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    ".tiff": encoded(IMAGE, "TIFF", compression="tiff_deflate"),
    ".jp2": encoded(IMAGE, "JPEG2000", irreversible=False),
    ".jpx": encoded(IMAGE, "JPEG2000", irreversible=False),
    ".jpf": encoded(IMAGE, "JPEG2000", irreversible=False),
    ".j2k": encoded(IMAGE, "JPEG2000", no_jp2=True),
    ".j2c": encoded(IMAGE, "JPEG2000", no_jp2=True),
    ".jpc": encoded(IMAGE, "JPEG2000", no_jp2=True),
    ".tga": encoded(IMAGE, "TGA"),
    ".icb": encoded(IMAGE, "TGA", compression="tga_rle"),
    ".vda": encoded(IMAGE, "TGA"),
    ".dds": encoded(IMAGE, "DDS"),
    ".qoi": encoded(IMAGE, "QOI"),
    ".pcx": encoded(IMAGE, "PCX"),
    ".dcx": dcx(encoded(IMAGE, "PCX")),
    ".sgi": encoded(IMAGE, "SGI"),
    ".rgb": encoded(IMAGE, "SGI"),
    ".rgba": encoded(IMAGE, "SGI"),
    ".psd": psd(COLOURS),
    ".ras": sun(COLOURS),
    ".xpm": xpm(COLOURS),
}
GREYS = {
    ".pgm": encoded(Image.fromarray(GREY), "PPM"),
    ".bw": encoded(Image.fromarray(GREY), "SGI"),
    ".gif": encoded(Image.fromarray(GREY), "GIF"),
}
BITS = Image.fromarray(GREY > 127)
LOSSY = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), encoded(Image.fromarray(smooth(48, 64)), "JPEG", quality=95))
LOSSY[".mpo"] = encoded(
    Image.fromarray(smooth(48, 64)), "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (64, 48))]
)


LOSSY |= dict.fromkeys((".avif", ".avifs"), encoded(Image.fromarray(smooth(48, 64)), "AVIF", quality=95))


def far(seen, wanted):
    """Mean and greatest difference of pixels."""
    off = np.abs(np.asarray(seen).astype(int) - np.asarray(wanted).astype(int))
    return float(off.mean()), int(off.max())


def assert_close(seen, wanted, mean=4, most=32):
    assert np.asarray(seen).shape == np.asarray(wanted).shape
    apart = far(seen, wanted)
    assert apart[0] <= mean
    assert apart[1] <= most


@pytest.mark.parametrize("suffix", sorted(EXACT))
def test_colours(make, suffix):
    path = make.bytes(f"a{suffix}", EXACT[suffix])
    assert modality_of(path) == "image"
    np.testing.assert_array_equal(pixels(path), COLOURS)
    assert load_picture(path) == Picture(load_picture(path).image, 32, 24, 1)


@pytest.mark.parametrize("suffix", sorted(GREYS))
def test_greys(make, suffix):
    np.testing.assert_array_equal(pixels(make.bytes(f"a{suffix}", GREYS[suffix])), np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".pbm", "PPM"), (".xbm", "XBM"), (".tif", "TIFF"), (".png", "PNG"), (".bmp", "BMP")]
)
def test_bits(make, suffix, kind):
    wanted = np.repeat(np.where(GREY > 127, 255, 0)[..., None], 3, 2)
    np.testing.assert_array_equal(pixels(make.bytes(f"a{suffix}", encoded(BITS, kind))) % 255, wanted % 255)
    seen = pixels(make.bytes(f"b{suffix}", encoded(BITS, kind)))
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("suffix", sorted(LOSSY))
def test_lossy(make, suffix):
    picture = load_picture(make.bytes(f"a{suffix}", LOSSY[suffix]))
    assert_close(picture.image, smooth(48, 64))
    assert (picture.width, picture.height, picture.frames) == (64, 48, 2 if suffix == ".mpo" else 1)


def test_a_phone_names_mpo_jpg(make):
    assert load_picture(make.bytes("IMG_1.jpg", LOSSY[".mpo"])).frames == 2


@pytest.mark.parametrize("suffix", [".ico", ".icns", ".cur"])
def test_icons(make, suffix):
    image = Image.fromarray(SQUARE)
    data = {
        ".ico": lambda: encoded(image, "ICO", sizes=[(32, 32)]),
        ".icns": lambda: encoded(image, "ICNS"),
        ".cur": lambda: cur(SQUARE),
    }
    seen = load_picture(make.bytes(f"a{suffix}", data[suffix]()))
    if suffix == ".icns":  # Apple's icons hold several sizes; the largest is taken
        assert seen.image.size == (1024, 1024)
        np.testing.assert_array_equal(np.asarray(seen.image.resize((32, 32), Image.Resampling.BOX)).shape, (32, 32, 3))
    else:
        np.testing.assert_array_equal(np.asarray(seen.image), SQUARE)
    assert seen.frames == 1


def test_every_ending_is_tested():
    named = {*EXACT, *GREYS, *LOSSY, ".pbm", ".xbm", ".ico", ".icns", ".cur", ".pfm", *HEIF}
    assert set(suffixes("image")) == named


def test_tables_cover_what_pillow_opens():
    Image.init()
    registered = {}
    for suffix, kind in Image.registered_extensions().items():
        registered.setdefault(kind, set()).add(suffix)
    ours = {*PICTURES, *UNTRUSTED}
    assert not set(PICTURES) & set(UNTRUSTED)
    assert {*Image.OPEN, *registered} - {"MPO", "HEIF", "AVIF_HEIF"} <= ours
    for kind, endings in PICTURES.items():
        taken = registered[kind] | ({".mpo"} if kind == "JPEG" else set())
        assert set(endings) <= taken
        assert taken - set(endings) <= {".vst"}  # also the name of plug-ins for sound
    refused = {suffix for kind in UNTRUSTED for suffix in registered.get(kind, ())}
    assert not refused & set(suffixes("image"))


@pytest.mark.parametrize("suffix", sorted(NOT_TAKEN))
def test_what_people_have_is_told_apart(suffix):
    with pytest.raises(UnsupportedMediaError, match=rf"^a\{suffix} (is|holds) .*(Export|Convert|Give|Render) ") as caught:
        modality_of(Path(f"a{suffix}"))
    assert "Taken are" not in str(caught.value)


# Content before name.


def test_content_wins_over_the_name(make):
    np.testing.assert_array_equal(pixels(make.bytes("a.jpg", EXACT[".png"])), COLOURS)
    np.testing.assert_array_equal(pixels(make.bytes("a.png", EXACT[".webp"])), COLOURS)
    assert_close(pixels(make.bytes("b.png", LOSSY[".jpg"])), smooth(48, 64))


def test_sound_named_as_a_picture(make):
    path = make.tone("song.wav").rename(make.path("song.jpg"))
    with pytest.raises(DecodeError, match=r"^song\.jpg can't be decoded as a picture: it seems to hold WAV sound\."):
        load_image(path)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript drawing"),
        (b"%PDF-1.7\n", "PDF document"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawing"),
        (b"PK\x03\x04" + bytes(60), "ZIP archive"),
        (b"\0\0\0\x18ftypisom" + bytes(30), "of the MP4 family"),
        (b"<!doctype html><HTML>", "web page"),
        (b"\xff\x0a" + bytes(20), "JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL picture"),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.tga"])
def test_what_pillow_must_not_try(make, name, data, content):
    with pytest.raises(DecodeError, match=content if name != "a.tga" else content + "|can't be decoded as a picture"):
        load_image(make.bytes(name, data))


def test_ghostscript_is_never_run(make, monkeypatch):
    Image.init()
    for kind in UNTRUSTED:
        if kind in Image.OPEN:
            monkeypatch.setitem(Image.OPEN, kind, (lambda *_: pytest.fail("opened"), None))
    with pytest.raises(DecodeError, match="PostScript"):
        load_image(make.bytes("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + bytes(99)))


# Colours, alpha, greys of many bits.


def png(array, depth, colour):
    """A PNG of 16-bit samples, which Pillow doesn't write for colours."""
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"]
    packed = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_sixteen_bit_colours():
    deep = RNG.integers(0, 65536, (8, 9, 3))
    np.testing.assert_array_equal(pixels(png(deep, 16, 2)), deep >> 8)


def test_sixteen_bit_colours_with_alpha():
    deep = RNG.integers(0, 65536, (8, 9, 4))
    colour, alpha = deep[..., :3] >> 8, (deep[..., 3:] >> 8) / 255
    wanted = colour * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(png(deep, 16, 6)) - wanted).max() <= 1


def test_sixteen_bit_tiff_colours():
    tifffile = pytest.importorskip("tifffile")
    deep = RNG.integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep, photometric="rgb")
    np.testing.assert_array_equal(pixels(buffer.getvalue()), deep >> 8)


def test_floats_spread_over_their_range():
    values = RNG.normal(0, 1e6, (50, 60)).astype(np.float32)
    wanted = ((values.astype(float) - values.min()) * (255 / (float(values.max()) - float(values.min())))).round()
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0], wanted)


def test_floats_that_are_no_numbers():
    values = np.array([[0, 33, 100, np.nan, np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 1], [0, 84, 255, 0, 255, 0])
    nothing = np.full((3, 3), np.nan, np.float32)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(nothing), "TIFF")), np.zeros((3, 3, 3)))


def test_portable_float_map(make):
    values = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    data = b"Pf\n4 3\n-1.0\n" + values[::-1].astype("<f4").tobytes()
    wanted = ((values.astype(float) + 1) * 127.5).round()
    np.testing.assert_array_equal(pixels(make.bytes("a.pfm", data))[..., 2], wanted)


def test_blocks_cover_a_picture_beyond_their_size():
    values = np.arange(2100 * 4100, dtype=np.uint16).reshape(2100, 4100)
    seen = pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    np.testing.assert_array_equal(seen, (values * (255.0 / 65535)).round())


def test_lab():
    lab = np.zeros((4, 4, 3), np.uint8)
    lab[..., 0] = 128
    image = Image.frombytes("LAB", (4, 4), lab.tobytes())
    seen = pixels(encoded(image, "TIFF"))
    f = (128 / 255 * 100 + 16) / 116  # CIE: L = 116 f(Y) - 16
    linear = f**3
    grey = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(seen - grey).max() <= 2


@pytest.mark.parametrize("transform", [0, 2])
def test_adobe_inverts_cmyk(transform):
    """CMYK and YCCK with Adobe's marker: the stored inks are inverted."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :8] = (200, 40, 10, 0)
    inks[:, 8:] = (0, 90, 180, 60)
    image = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    data = encoded(image, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data
    if transform == 2:
        data = ycck(inks)
    wanted = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(pixels(data) - wanted).max() <= 4


def ycck(inks):
    """The inks as YCbCr plus K, in a JPEG whose Adobe marker says so; written as plain CMYK, then marked."""
    cmy = inks[..., :3].astype(float)
    y = cmy @ (0.299, 0.587, 0.114)
    cb, cr = 128 + (cmy[..., 2] - y) / 1.772, 128 + (cmy[..., 0] - y) / 1.402
    planes = np.stack([y, cb, cr, 255.0 - inks[..., 3]], 2).round().clip(0, 255).astype(np.uint8)
    data = bytearray(encoded(Image.frombytes("CMYK", (16, 16), (255 - planes).tobytes()), "JPEG", quality=100, subsampling=0))
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    return bytes(data)


def test_palette_with_several_alphas():
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    seen = pixels(encoded(image, "PNG", transparency=bytes([0, 128, 255])))[0]
    np.testing.assert_array_equal(seen, [(255, 255, 255), (127, 227, 127), (0, 0, 200)])


def test_colour_that_stands_for_transparent():
    image = Image.new("RGB", (2, 1), (9, 8, 7))
    image.putpixel((1, 0), (1, 2, 3))
    np.testing.assert_array_equal(pixels(encoded(image, "PNG", transparency=(9, 8, 7)))[0], [(255, 255, 255), (1, 2, 3)])


# Frames, pages, layers.


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_frames_are_counted_and_the_first_is_shown(kind, frames):
    images = [Image.new("RGB", (20, 10), (40 * at, 200 - 20 * at, 90)) for at in range(frames)]
    picture = load_picture(encoded(images[0], kind, save_all=True, append_images=images[1:], lossless=True))
    assert (picture.width, picture.height, picture.frames) == (20, 10, frames)
    assert np.abs(np.asarray(picture.image).astype(int) - (0, 200, 90)).max() <= 3


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])  # (True, ">") Pillow doesn't know
def test_pages_of_a_tiff(big, order):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack([GREY] * 5), photometric="minisblack", bigtiff=big, byteorder=order, metadata=None)
    picture = load_picture(buffer.getvalue())
    assert picture.frames == 5
    np.testing.assert_array_equal(np.asarray(picture.image)[..., 0], GREY)


def test_frames_are_counted_up_to_a_bound():
    one = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\xff\0\0\0\0\0"
    assert load_picture(head + one * (MOST_FRAMES - 1) + b";").frames == MOST_FRAMES - 1
    assert load_picture(head + one * 3 * MOST_FRAMES + b";").frames == MOST_FRAMES


# Size.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000"])
@pytest.mark.parametrize(
    ("size", "longest", "wanted"),
    [
        ((300, 200), 100, (100, 67)),
        ((200, 300), 150, (100, 150)),
        ((300, 200), 300, (300, 200)),
        ((300, 200), 999, (300, 200)),
        ((900, 2), 100, (100, 1)),
    ],
)
def test_longest(kind, size, longest, wanted):
    image = Image.fromarray(smooth(size[1], size[0]))
    picture = load_picture(encoded(image, kind), longest=longest)
    assert (picture.image.size, picture.width, picture.height) == (wanted, *size)
    assert picture.image.mode == "RGB"


@pytest.mark.parametrize("longest", [30, 64, 100, 128, 255, 256, 400, 512])
def test_fast_scaling_is_as_good_as_the_slow_one(longest):
    image = Image.fromarray(smooth(600, 1024))
    data = encoded(image, "JPEG", quality=95)
    wanted = image.resize((longest, round(600 * longest / 1024)), Image.Resampling.LANCZOS)
    seen = pixels(data, longest=longest)
    assert seen.shape[1] == longest
    assert_close(seen, wanted, 1, 8)


@pytest.mark.parametrize("longest", [0, -1])
def test_longest_of_nothing(longest):
    with pytest.raises(ValueError, match=rf"Expected longest to be 1 pixel or more, got {longest}"):
        load_picture(EXACT[".png"], longest=longest)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("longest", [None, 40, 80])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_of_a_turned_picture(kind, longest, orientation):
    upright = Image.fromarray(smooth(160, 240))
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # the turn that stores it so
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(encoded(stored, kind, exif=exif), longest=longest)
    assert (picture.width, picture.height) == (240, 160)
    assert picture.image.size == ((240, 160) if longest is None else (longest, round(160 * longest / 240)))
    wanted = upright.resize(picture.image.size, Image.Resampling.LANCZOS)
    assert_close(picture.image, wanted)


def test_picture_side():
    assert PICTURE_SIDE == 1024


def test_limit_on_pixels():
    with pytest.raises(DecodeError, match="has 32 x 24 pixels; at most 767 are decoded"):
        load_image(EXACT[".png"], limits=MediaLimits(pixels=767))
    load_image(EXACT[".png"], limits=MediaLimits(pixels=768))


# HEIC.


@pytest.mark.parametrize("suffix", HEIF)
@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(make, suffix, orientation):
    heif = pytest.importorskip("pillow_heif")
    upright = Image.fromarray(smooth(64, 96))
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = make.path(f"a{suffix}")
    heif.from_pillow(stored).save(path, quality=95, exif=exif.tobytes())
    picture = load_picture(path)
    assert modality_of(path) == "image"
    assert (picture.width, picture.height, picture.frames) == (96, 64, 1)
    assert_close(picture.image, smooth(64, 96))
    assert load_picture(path.rename(make.path("a.jpg")), longest=48).image.size == (48, 32)
    assert "HEIF" not in Image.OPEN  # nothing is registered with Pillow


def test_heic_of_many_pictures(make):
    heif = pytest.importorskip("pillow_heif")
    many = heif.from_pillow(Image.new("RGB", (64, 64), "red"))
    many.add_from_pillow(Image.new("RGB", (64, 64), "blue"))
    path = make.path("a.heic")
    many.save(path)
    picture = load_picture(path)
    assert picture.frames == 2
    assert np.abs(np.asarray(picture.image).astype(int) - (255, 0, 0)).max() <= 8


def test_heic_without_its_package(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(MissingExtraError, match=r"llama-index-mm\[heic\]"):
        load_image(make.bytes("a.heic", data))


# Warnings are the process's.


def test_filters_of_warnings_are_left_as_they_were(make):
    path = make.bytes("a.jpg", LOSSY[".jpg"])
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [load_image(path) for _ in range(40)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
