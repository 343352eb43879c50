"""Files made to take memory, time or other files: each is refused with its reason, or decoded within the limits.

They are decoded in one child process whose address space is bounded, and whose greatest memory is measured.
"""

import contextlib
import gzip
import http.server
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import load_audio

av = pytest.importorskip("av")

ADDRESS_SPACE = 3 << 30  # bytes that the child may ask for
RESIDENT = 1250 << 20  # bytes that it may really take; a picture of 100 million pixels alone has 400 MB
SECONDS = 20.0  # for any one file, on a busy machine


# Pictures.


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *chunks, colour=2, pixels=None):
    rows = zlib.compress(b"\0" * (1 + 3 * width) * height) if pixels is None else pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def black(side, colour=0):
    """All the rows of a large black picture in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side * (3 if colour == 2 else 1))
    return b"".join(packer.compress(row) for _ in range(side)) + packer.flush()


def gif(*parts, size=(1, 1)):
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + b"\xff\0\0\0\0\0" + b"".join(parts) + b";"


GIF_FRAME = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"


def ifd(entries, following=0):
    rows = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + rows + struct.pack("<I", following)


def tiff(*entries, following=0, width=4, height=4, data=bytes(64)):
    """One directory right behind the header, and the strip behind it."""
    have = {entry[0] for entry in entries}
    at = 8 + 2 + 12 * (len(entries) + sum(tag not in have for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279))) + 4
    plain = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, at)]
    plain += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))]
    return b"II*\0" + struct.pack("<I", 8) + ifd([*entries, *(one for one in plain if one[0] not in have)], following) + data


def chain(length, loop_to=0):
    """A TIFF of many directories, each with a picture of one pixel."""
    size = len(ifd([(0, 0, 0, 0)] * 9))
    pages = []
    for at in range(length):
        following = 8 + (at + 1) * size if at + 1 < length else loop_to
        tags = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0)]
        pages.append(ifd([*tags, (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 1)], following))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def encoded(kind, size=(64, 64), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, kind, **options)
    return buffer.getvalue()


def patched(data, find, offset, new):
    data, at = bytearray(data), data.index(find) + offset
    data[at : at + len(new)] = new
    return bytes(data)


def jpeg_with(*segments):
    data = encoded("JPEG")
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(one) + 2) + one for one in segments) + data[2:]


def ico(*pictures):
    at = 6 + 16 * len(pictures)
    rows = []
    for one in pictures:
        rows.append(struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(one), at))
        at += len(one)
    return struct.pack("<HHH", 0, 1, len(pictures)) + b"".join(rows) + b"".join(pictures)


def webp(width, height):
    canvas = (
        b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@cache
def pictures():
    wide = 2**31 - 1
    selfish = b"Exif\0\0II*\0\x08\0\0\0" + ifd([(0x8769, 4, 1, 8), (0x0112, 3, 1, 6), (0x8825, 4, 1, 8)], 8)
    return {
        "header.png": png(wide, wide, pixels=b""),
        "header-10001.png": png(10_001, 10_001, pixels=b""),
        "lines.png": png(wide, 1, pixels=b""),
        "black.png": png(9_990, 9_990, colour=0, pixels=black(9_990)),
        "deep.png": png(9_990, 9_990, colour=2, pixels=black(9_990, 2)),
        "text.png": png(1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20)))),
        "profile.png": png(1, 1, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20)))),
        "texts.png": png(1, 1, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 400),
        "itxt.png": png(1, 1, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(64 << 20)))),
        "frames.png": png(
            1, 1, chunk(b"acTL", struct.pack(">II", wide, 0)), chunk(b"fcTL", struct.pack(">5I2H2B", 0, 1, 1, 0, 0, 1, 1, 0, 0))
        ),
        "exif.png": png(1, 1, chunk(b"eXIf", selfish[6:])),
        "canvas.gif": gif(GIF_FRAME, size=(65535, 65535)),
        "frame.gif": gif(b"\x2c" + struct.pack("<4HB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00"),
        "frames.gif": gif(GIF_FRAME * 1_000_000),
        "comments.gif": gif(b"\x21\xfe" + (b"\xff" + b"x" * 255) * 120_000 + b"\0", GIF_FRAME),
        "blocks.gif": gif(b"\x21\xff" + b"\x01x" * 1_000_000 + b"\0", GIF_FRAME),
        "endless.gif": gif(GIF_FRAME[:-1] + b"\x01\x44" * 500_000),
        "self.tif": tiff(following=8),
        "loop.tif": chain(3, loop_to=8),
        "chain.tif": chain(60_000),
        "tiles.tif": tiff((259, 3, 1, 8), (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 200), (325, 4, 1, 64)),
        "tile.tif": tiff((259, 3, 1, 8), (322, 4, 1, 2**31), (323, 4, 1, 16), (324, 4, 1, 200), (325, 4, 1, 64)),
        "samples.tif": tiff((277, 3, 1, 60_000)),
        "strips.tif": tiff((273, 4, 2**31, 200), (279, 4, 2**31, 200)),
        "count.tif": tiff((258, 3, 2**32 - 1, 8)),
        "size.tif": tiff(width=2**32 - 1, height=2**32 - 1),
        "strip.tif": tiff((259, 3, 1, 8), width=9_990, height=9_990, data=zlib.compress(bytes(9_990**2), 9)),
        "canvas.webp": webp(16_384, 16_384),
        "size.jp2": patched(encoded("JPEG2000", no_jp2=True), b"\xff\x51", 6, struct.pack(">II", 2**32 - 1, 2**32 - 1)),
        "grown.jp2": patched(encoded("JPEG2000", no_jp2=True), b"\xff\x51", 6, struct.pack(">II", 9_900, 9_900)),
        "tile.jp2": patched(encoded("JPEG2000", no_jp2=True), b"\xff\x51", 22, struct.pack(">II", 2**31, 2**31)),
        "size.jpg": patched(encoded("JPEG"), b"\xff\xc0", 5, struct.pack(">HH", 65535, 65535)),
        "grown.jpg": patched(encoded("JPEG"), b"\xff\xc0", 5, struct.pack(">HH", 9_900, 9_900)),
        "exif.jpg": jpeg_with(*[b"Exif\0\0" + bytes(65_000)] * 1_500),
        "loop.jpg": jpeg_with(selfish),
        "pages.jpg": jpeg_with()[:2]
        + b"\xff\xe2"
        + struct.pack(">H", 90)
        + b"MPF\0II*\0\x08\0\0\0"
        + ifd([(0xB001, 4, 1, 2**31), (0xB002, 7, 2**31, 0)])
        + bytes(46)
        + encoded("JPEG")[2:],
        "entries.ico": struct.pack("<HHH", 0, 1, 65535) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 99, 22) * 65535,
        "inside.ico": ico(png(13_000, 13_000, colour=0, pixels=black(13_000))),
        "header.ico": ico(png(wide, wide, pixels=b"")),
        "inside.icns": b"icns"
        + struct.pack(">I", 1 << 30)
        + b"ic10"
        + struct.pack(">I", 1 << 29)
        + png(wide, wide, pixels=b""),
        "size.psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 300_000, 300_000, 8, 3) + bytes(99),
        "size.bmp": patched(encoded("BMP"), b"BM", 18, struct.pack("<ii", 2**31 - 1, -(2**31) + 1)),
        "grown.bmp": patched(encoded("BMP"), b"BM", 18, struct.pack("<ii", 9_900, -9_900)),
        "size.pcx": patched(encoded("PCX"), b"\x0a", 8, struct.pack("<HH", 65535, 65535)),
        "size.ppm": b"P6 9999999 9999999 255\n" + bytes(99),
        "grown.ppm": b"P3 9900 9900 255\n" + b"1 " * 99,
        "digits.ppm": b"P6 " + b"9" * 5_000_000,
        "size.tga": patched(encoded("TGA"), b"\0", 12, struct.pack("<HH", 65535, 65535)),
        "size.dds": patched(encoded("DDS"), b"DDS ", 12, struct.pack("<II", 2**31 - 1, 2**31 - 1)),
        "size.qoi": b"qoif" + struct.pack(">IIBB", 2**32 - 1, 2**32 - 1, 4, 0) + bytes(99),
        "grown.qoi": b"qoif" + struct.pack(">IIBB", 9_900, 9_900, 4, 0) + b"\xfd" * 999,
        "size.sgi": patched(encoded("SGI"), b"\x01\xda", 6, struct.pack(">HH", 65535, 65535)),
        "colours.xpm": b'/* XPM */\nstatic char *x[] = {\n"9 9 999999999 4",\n',
        "size.avif": patched(encoded("AVIF"), b"ispe", 8, struct.pack(">II", 60_000, 60_000)),
        "grown.avif": patched(encoded("AVIF"), b"ispe", 8, struct.pack(">II", 9_900, 9_900)),
        "measured.png": gzip.compress(bytes(50 << 20)),
        "ghost.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n(%pipe%touch /tmp/x) (w) file\n",
    }


# Sound.


def wav(data, rate=16_000, channels=1, bits=16, code=1, align=None, stated=None):
    align = bits // 8 * channels % 65536 if align is None else align
    form = struct.pack("<HHIIHH", code, channels, rate, rate * align % 2**32, align, bits)
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data) if stated is None else stated) + data
    )
    return b"RIFF" + struct.pack("<I", len(body) % 2**32) + body


def silent_flac(hours, rate=8_000):
    """FLAC of silence: the same dozen bytes again and again."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono")
        for _ in range(12):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        length = stream.frame_size
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xf8"]
    return data[: starts[1]] + data[starts[1] : starts[2]] * round(hours * 3600 * rate / length)


def box(name, *parts):
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + name + body


def mp4(*, samples=1, size=2, times=None, edits=b"", entry=None, tables=b"", timescale=16_000, data=b"\0" * 4000):
    """A recording of 16-bit samples in MP4, with whatever its tables state."""
    times = struct.pack(">IIII", 0, 1, samples, 1) if times is None else times
    sound = bytes(6) + struct.pack(">H8xHHIHH", 1, 1, 16, 0, 0, 0)[:-4] + struct.pack(">I", 16_000 << 16)
    dref = box(b"dref", struct.pack(">II", 0, 1), entry or box(b"url ", struct.pack(">I", 1)))
    table = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), box(b"sowt", sound)),
        box(b"stts", times),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, samples, 1)),
        box(b"stsz", struct.pack(">III", 0, size, samples)),
        box(b"stco", struct.pack(">III", 0, 1, 40)),
        tables,
    )
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, timescale, 2**31, 0, 0)),
        box(b"hdlr", struct.pack(">II4s12x", 0, 0, b"soun"), b"\0"),
        box(b"minf", box(b"smhd", bytes(8)), box(b"dinf", dref), table),
    )
    track = box(b"trak", box(b"tkhd", struct.pack(">IIIII", 7, 0, 0, 1, 0), bytes(64)), edits, media)
    head = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 2**31), bytes(80))
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + bytes(4)[:0] + box(b"mdat", data) + box(b"moov", head, track)


def nested(depth):
    data = b""
    for _ in range(depth):
        data = box(b"moov", data)
    return box(b"ftyp", b"isom", bytes(4), b"isom") + data


def aiff(rate80):
    common = b"COMM" + struct.pack(">IhIh", 18, 1, 2**31 - 1, 16) + rate80
    body = b"AIFF" + common + b"SSND" + struct.pack(">III", 2**31 - 1, 0, 0) + bytes(4000)
    return b"FORM" + struct.pack(">I", len(body)) + body


@cache
def sounds():
    edit = box(b"edts", box(b"elst", struct.pack(">II", 1 << 24, 9) + struct.pack(">QqI", 2**62, -1, 1 << 16) * 9))
    return {
        "days.flac": silent_flac(2),
        "states-4GB.wav": wav(bytes(100), stated=2**32 - 16),
        "rate-1.wav": wav(bytes(200_000), rate=1),
        "rate-1-8bit.wav": wav(bytes(2_000_000), rate=1, bits=8),
        "rate-4G.wav": wav(bytes(4000), rate=2**32 - 1),
        "rate-0.wav": wav(bytes(4000), rate=0),
        "channels.wav": wav(bytes(200_000), channels=65_535),
        "channels-512.wav": wav(bytes(512 * 2 * 100), channels=512),
        "channels-63.wav": wav(bytes(63 * 2 * 10_000), channels=63),
        "align-0.wav": wav(bytes(4000), code=0x11, bits=4, align=0),
        "align.wav": wav(bytes(400_000), code=2, bits=4, align=65_535),
        "bits.wav": wav(bytes(4000), bits=65_528, align=2),
        "samples.mp4": mp4(samples=2**32 - 1, times=struct.pack(">IIII", 0, 1, 2**32 - 1, 1)),
        "samples-100M.mp4": mp4(samples=100_000_000),
        "wide.mp4": mp4(samples=1000, size=2**31 - 1),
        "times.mp4": mp4(samples=1000, times=struct.pack(">II", 0, 1) + struct.pack(">II", 2**32 - 1, 2**32 - 1)),
        "table.mp4": mp4(samples=1000, times=struct.pack(">II", 0, 2**32 - 1)),
        "edits.mp4": mp4(samples=1000, edits=edit),
        "edit-count.mp4": mp4(samples=1000, edits=box(b"edts", box(b"elst", struct.pack(">II", 0, 2**32 - 1)))),
        "timescale.mp4": mp4(samples=1000, timescale=0),
        "tables.mp4": mp4(samples=1000, tables=b"".join(box(b"ctts", struct.pack(">II", 0, 2**28)) for _ in range(50))),
        "nested.mp4": nested(3_000),
        "endless.mkv": b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(4000),
        "tags.mp3": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b"APIC" + b"\x7f\x7f\x7f\x7f\0\0" + bytes(4000),
        "nan.aiff": aiff(b"\x7f\xff\xc0" + bytes(7)),
        "rate.aiff": aiff(b"\x43\xff\xff\xff" + bytes(6)),
        "rate.au": b".snd" + struct.pack(">IIIII", 24, 2**32 - 1, 3, 2**32 - 1, 1) + bytes(4000),
        "channels.au": b".snd" + struct.pack(">IIIII", 24, 2**32 - 1, 3, 16_000, 2**32 - 1) + bytes(4000),
        "pages.ogg": (b"OggS\0\2" + struct.pack("<QIII", 2**63, 1, 0, 0) + b"\xff" + b"\xff" * 255) * 300,
    }


CHILD = """
import json, resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from llama_index_mm.media import PICTURE_SIDE, MediaLimits, load_audio, load_picture
hour = MediaLimits(seconds=3600)
load = {"pictures": lambda path: load_picture(path, longest=PICTURE_SIDE), "sounds": lambda path: load_audio(path, limits=hour)}
for path in sorted(Path(sys.argv[1]).glob("*/*")):
    began = time.monotonic()
    print(json.dumps({"name": path.name}), flush=True)
    try:
        got = load[path.parent.name](path)
        said = f"{got.width} x {got.height}, {got.frames}" if hasattr(got, "frames") else f"{got.seconds:.1f} s"
        kind = "decoded"
        del got
    except Exception as error:
        kind, said = type(error).__name__, str(error)[:300]
    if sys.platform == "linux":  # ru_maxrss is that of the parent, if it was larger
        peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"name": path.name, "kind": kind, "said": said, "seconds": time.monotonic() - began, "peak": peak}
    print(json.dumps(told), flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What became of each file."""
    folder = tmp_path_factory.mktemp("hostile")
    for kind, files in (("pictures", pictures()), ("sounds", sounds())):
        (folder / kind).mkdir()
        for name, data in files.items():
            (folder / kind / name).write_bytes(data)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(ADDRESS_SPACE)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (lines[-1:], child.stderr[-2000:])
    return {line["name"]: line for line in lines if "kind" in line}


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the address space, which Linux does")
def test_every_file_is_refused_or_within_the_limits(told):
    assert set(told) == {*pictures(), *sounds()}
    assert len(told) >= 60
    wrong = {name: one for name, one in told.items() if one["kind"] not in ("decoded", "DecodeError")}
    assert not wrong
    unnamed = [one for name, one in told.items() if one["kind"] == "DecodeError" and not one["said"].startswith(f"{name} ")]
    assert not unnamed
    assert {name: one["seconds"] for name, one in told.items() if one["seconds"] > SECONDS} == {}
    assert max(one["peak"] for one in told.values()) < RESIDENT


DECODED = {
    "black.png": "9990 x 9990, 1",
    "frames.gif": "1 x 1, 10000",
    "frames.png": "1 x 1, 10000",
    "chain.tif": "1 x 1, 10000",
    "loop.tif": "1 x 1, 3",
    "self.tif": "4 x 4, 1",
    "loop.jpg": "64 x 64, 1",
    "states-4GB.wav": "0.0 s",
}
REFUSED = {
    "header.png": "pixels",
    "header-10001.png": "has 10001 x 10001 pixels; at most 100,000,000",
    "canvas.gif": "pixels",
    "comments.gif": "1,048,576 bytes of comments",
    "exif.jpg": "4,194,304 bytes of EXIF",
    "tiles.tif": "has tiles of 60000 x 60000 pixels",
    "inside.ico": "pixels",
    "ghost.png": "seems to hold a PostScript drawing",
    "days.flac": "is longer than 3,600 s",
    "rate-1.wav": "has 1 samples a second; from 1,000 to 1,000,000 are taken",
}


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the address space, which Linux does")
@pytest.mark.parametrize("name", sorted(DECODED | REFUSED))
def test_what_is_said(told, name):
    if name in DECODED:
        assert (told[name]["kind"], told[name]["said"]) == ("decoded", DECODED[name])
    else:
        assert told[name]["kind"] == "DecodeError"
        assert REFUSED[name] in told[name]["said"]


# Files that point at others.


@pytest.fixture
def server():
    """An address on this machine, and what was asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def pointers(target):
    """Files whose content names another file or address."""
    alias = b"\0" * 10 + b"\0" * 140 + struct.pack(">hh", 18, len(target)) + target.encode() + struct.pack(">hh", -1, 0)
    return {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL><SegmentList>'
        f'<SegmentURL media="{target}"/></SegmentList></Representation></AdaptationSet></Period></MPD>'.encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "smil": f'<smil><body><audio src="{target}"/></body></smil>'.encode(),
        "mov": mp4(samples=1000, entry=box(b"alis", struct.pack(">I", 0), alias)),
    }


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.mp3", "list.m3u8"])
@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "sdp", "smil", "mov"])
def test_no_other_file_or_address_is_opened(make, server, kind, name):
    address, asked = server
    other = make.tone("other.wav", seconds=5)
    for target in (str(other), other.name, f"file:{other}", f"{address}/a.ts", f"concat:{other}|{other}"):
        path = make.bytes(name, pointers(target)[kind])
        for source in (path, path.read_bytes()):
            with contextlib.suppress(DecodeError):
                assert load_audio(source).seconds < 1
    assert asked == []


def test_ffmpeg_would_follow_a_playlist(make, server):
    """What the test before this one guards against does happen with plain PyAV."""
    address, asked = server
    path = make.bytes("a.m3u8", pointers(f"{address}/a.ts")["hls"])
    with pytest.raises((av.FFmpegError, OSError)), av.open(str(path), options={"protocol_whitelist": "file,http,tcp"}):
        pass
    assert asked
    with pytest.raises(DecodeError):
        load_audio(path)
