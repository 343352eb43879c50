"""Files as an attacker, or twenty years of somebody's disk, would make them, as bytes."""

import base64
import io
import json
import os
import struct
import zipfile
import zlib

import av
import numpy as np
import pypdf
from PIL import Image
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

TAKEN = ""  # in place of a reason


def picture(kind, size=(40, 30), **options):
    """Pixels that do not compress, so that half a file is half a picture."""
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def sound(kind, codec, seconds=1.0, rate=16_000, hertz=440.0):
    """A tone, encoded by FFmpeg."""
    buffer = io.BytesIO()
    total = round(seconds * rate)
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        form = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(format=form, rate=rate)
        for start in range(0, total, 1 << 16):
            at = np.arange(start, min(total, start + (1 << 16)))
            wave_ = (np.sin(2 * np.pi * hertz * at / rate) * (16_000 if hertz else 0)).astype("<i2")
            frame = av.AudioFrame.from_ndarray(wave_[None], format="s16", layout="mono")
            frame.rate, frame.pts = rate, start
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wav(samples=None, rate=16_000, stated=None, form=1, bits=16):
    """A WAV whose header may state anything."""
    data = (np.sin(np.arange(16_000) / 9) * 9000).astype("<i2").tobytes() if samples is None else samples
    size = len(data) if stated is None else stated
    head = struct.pack("<HHIIHH", form, 1, rate, rate * bits // 8, bits // 8, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(0xFFFFFFFF, len(body))) + body


def png(width, height, *more, rows=b"", depth=8):
    """A grey PNG of chunks; ``more`` are pairs of a kind and its data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    between = b"".join(chunk(kind, data) for kind, data in more)
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def gif(width, height, frames):
    """Frames of one pixel each, on a screen of any size."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b"\x3b"


OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
OFF = b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"


def ply(vertices=4, faces=4, form="ascii"):
    """A tetrahedron whose header may state other counts."""
    head = f"ply\nformat {form} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    head += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    return head.encode() + OFF.split(b"\n", 2)[2]


def stl(stated=None, count=4, corner=1.0):
    """A binary STL of triangles."""
    corners = np.float32([[0, 0, 0], [corner, 0, 0], [0, 1, 0], [0, 0, 1]])
    body = b"".join(
        struct.pack("<3f", 0, 0, 0) + corners[list(face)].tobytes() + b"\0\0"
        for face in [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)][:count]
    )
    return b" " * 80 + struct.pack("<I", count if stated is None else stated) + body


def gltf(uri=None, *, count=4, triangles=4, binary=False, **other):
    """A tetrahedron as glTF, its buffer in the file unless another address is given."""
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).tobytes()
    data = corners + np.uint16([0, 2, 1, 0, 1, 3, 1, 2, 3, 0, 3, 2]).tobytes()
    if uri is None and not binary:
        uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    top = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(data)} | ({} if binary else {"uri": uri})],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 24},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3 * triangles, "type": "SCALAR"},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
        **other,
    }
    text = json.dumps(top).encode()
    if not binary:
        return text
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def pdf(words="The tide comes in at six.", password=None):
    """One page of words."""
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(300, 200)
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 12 Tf 20 100 Td ({words}) Tj ET".encode())
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    page[NameObject("/Contents")] = writer._add_object(stream)
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def archive(name="word/document.xml"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "<w:document/>")
    return buffer.getvalue()


def half(data):
    return data[: len(data) // 2]


NOISE = np.random.default_rng(3).bytes(5000)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="../outside/secret.png"/></svg>'
HTML = b"<!DOCTYPE html><html><body>404</body></html>"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"


def cases(outside):
    """Content of files by name, and what is said of each."""
    torn_picture = r"NAME (can't be decoded as a picture: |is broken)"
    torn_sound = r"NAME (can't be decoded as sound: |is broken)"
    empty = r"^NAME is empty \(0 bytes\)\.$"
    lie = rb"../outside/secret"
    away = os.fsencode(outside) + b"/secret"
    return {
        # nothing
        **{f"empty.{ending}": (b"", empty) for ending in ("png", "gif", "wav", "mp3", "obj", "ply", "glb", "txt", "pdf")},
        # halves: of most recordings and of text the half is good
        "half.png": (half(picture("PNG")), torn_picture),
        "half.jpg": (half(picture("JPEG")), torn_picture),
        "half.gif": (half(picture("GIF")), torn_picture),
        "half.webp": (half(picture("WEBP")), torn_picture),
        "half.tiff": (half(picture("TIFF")), torn_picture),
        "half.avif": (half(picture("AVIF")), torn_picture),
        "half.wav": (half(wav()), TAKEN),
        "half.flac": (half(sound("flac", "flac", 2.0)), TAKEN),
        "half.mp3": (half(sound("mp3", "mp3", 2.0)), TAKEN),
        "half.ogg": (half(sound("ogg", "libopus", 4.0)), TAKEN),
        "half.mp4": (half(sound("mp4", "aac", 2.0)), torn_sound),
        "head.wav": (wav()[:30], torn_sound),
        "head.flac": (sound("flac", "flac")[:60], torn_sound),
        "head.ogg": (sound("ogg", "libopus")[:100], torn_sound),
        "half.ply": (half(ply()), r"^NAME .*(is no PLY|breaks off)"),
        "half.obj": (OBJ[:36], r"^NAME .*(no face|at least one face|corners|breaks off)"),
        "half.stl": (half(stl()), r"^NAME .*breaks off: it states 4 faces"),
        "half.off": (half(OFF), r"^NAME .*(at least one face|breaks off)"),
        "half.glb": (half(gltf(binary=True)), r"^NAME .*breaks off: it states [0-9,]+ bytes"),
        "half.gltf": (half(gltf()), r"NAME has a JSON part that can't be read"),
        "half.pdf": (half(pdf()), r"^NAME .*can't be opened as a PDF"),
        # not what the name says
        "text.png": (b"Dear all, this is a text.\n" * 9, r"NAME can't be decoded as a picture: "),
        "web page.jpg": (HTML, r"NAME can't be decoded as a picture: .*holds? a web page"),
        "drawing.gif": (SVG, r"NAME can't be decoded as a picture: .*holds? an SVG drawing"),
        "archive.jpg": (archive(), r"NAME can't be decoded as a picture: .*holds? a ZIP archive"),
        "sound.webp": (wav(), r"NAME can't be decoded as a picture: .*holds? WAV sound"),
        "jpeg.png": (picture("JPEG"), TAKEN),
        "picture.wav": (picture("PNG", (41, 30)), r"NAME can't be decoded as sound: .*It seems to hold a PNG picture"),
        "page.mp3": (HTML + b"\n", r"NAME can't be decoded as sound: .*It seems to hold a web page"),
        "text.ogg": (b"Dear all, this is another text.\n" * 9, torn_sound),
        "flac.wav": (sound("flac", "flac"), TAKEN),
        "sound.obj": (wav(rate=8000), r"^NAME .*(at least one face|is no OBJ)"),
        "picture.ply": (picture("PNG", (42, 30)), r"^NAME .*is no PLY"),
        "page.off": (HTML + b"\n\n", r"^NAME .*(is no OFF|at least one face|OFF)"),
        "obj.stl": (OBJ, r"^NAME .*is no STL"),
        "off.glb": (OFF, r"^NAME .*is no GLB"),
        "ply.gltf": (ply(), r"NAME has a JSON part that can't be read"),
        "picture.txt": (picture("PNG", (43, 30)), r"NAME is not text in UTF-8"),
        "text.pdf": (b"Dear all, this is a third text.\n" * 9, r"NAME can't be opened as a PDF"),
        "noise.png": (NOISE, r"NAME can't be decoded as a picture"),
        "noise.mp3": (NOISE[1:], torn_sound),
        "noise.stl": (NOISE[2:], r"^NAME .*(is no STL|faces; at most|breaks off)"),
        "noise.md": (NOISE[3:], r"NAME is not text in UTF-8"),
        # of no kind that is taken
        "drawing.svg": (SVG, r"^NAME is a drawing made of lines.*Export it as PNG"),
        "letter.docx": (archive(), r"No decoder for '\.docx' \(NAME\)\. Taken are"),
        "no ending": (b"?", r"No decoder for a name without an ending \(NAME\)"),
        "list.m3u8": (HLS % away, r"^NAME is a list of recordings"),
        # pictures that become too large
        "wide.png": (png(100_000, 100_000), r"NAME has .*pixels.*; at most 100,000,000 are decoded"),
        "screen.gif": (gif(65_535, 65_535, 3000), r"NAME has .*pixels.*; at most 100,000,000 are decoded"),
        "comment.png": (
            png(2, 2, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28))), rows=bytes(6)),
            r"NAME .*(too large|text|memory)",
        ),
        "profile.png": (
            png(2, 2, (b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28))), rows=bytes(6)),
            r"NAME .*(too large|memory)",
        ),
        "within.png": (png(8000, 8000, rows=bytes(8001 * 8000)), TAKEN),
        "short.png": (png(9000, 9000, rows=bytes(100)), torn_picture),
        # sound that becomes too long, and headers that lie
        "silence.flac": (sound("flac", "flac", 3700.0, rate=1000, hertz=0.0), r"NAME is longer than 3,600 s"),
        "four gigabytes.wav": (wav(stated=0xFFFFFFFF), TAKEN),
        "one hertz.wav": (wav(rate=1), r"NAME has 1 samples a second; from 1,000 to 1,000,000"),
        "no hertz.wav": (wav(rate=0), r"^NAME .*can't be decoded as sound"),
        "no numbers.wav": (
            wav(np.full(9000, np.nan, "<f4").tobytes(), form=3, bits=32),
            r"NAME has samples that are not finite",
        ),
        "playlist.mp3": (HLS % away, torn_sound),
        "near playlist.mp3": (HLS % lie, torn_sound),
        "session.wav": (SDP, torn_sound),
        "concat.mp3": (b"ffconcat version 1.0\nfile '" + away + b"'\n", torn_sound),
        # meshes that state what they do not have
        "ascii billions.ply": (ply(4_000_000_000, 4), r"^NAME .*4,000,000,000 vertices"),
        "binary billions.ply": (
            ply(4_000_000_000, 4_000_000_000, "binary_little_endian"),
            r"^NAME .*(4,000,000,000 (faces|vertices))",
        ),
        "billions.stl": (stl(0xFFFFFFFF), r"^NAME .*4,294,967,295 faces"),
        "billions.off": (b"OFF\n3000000000 3000000000 0\n0 0 0\n", r"^NAME .*(3,000,000,000 (faces|vertices))"),
        "billions.gltf": (gltf(count=10**12), r"^NAME .*accessor 0 states 1,000,000,000,000 items"),
        "negative.gltf": (gltf(count=-4), r"^NAME .*'count' is -4"),
        "nodes.gltf": (gltf(nodes=[{"mesh": 0, "children": [0]}]), r"^NAME .*its own ancestor"),
        "leads out.gltf": (gltf("../outside/secret.bin"), r"^NAME .*outside of its folder"),
        "leads out by code.gltf": (gltf("%2e%2e/outside/secret.bin"), r"^NAME .*outside of its folder"),
        "address.gltf": (gltf("file://" + str(outside / "secret.bin")), r"^NAME .*only files in its own folder"),
        "web.gltf": (gltf("https://127.0.0.1:9/secret.bin"), r"^NAME .*only files in its own folder"),
        "no numbers.obj": (OBJ.replace(b"v 1 0 0", b"v nan nan nan"), r"NAME has vertices that are not finite"),
        "infinite.stl": (stl(corner=np.inf), r"NAME has vertices that are not finite"),
        "beyond.obj": (OBJ + b"f 1 2 99\n", r"^NAME .*point past its 4 vertices"),
        "beyond.off": (OFF.replace(b"3 0 3 2", b"3 0 3 99"), r"^NAME .*point past its 4 vertices"),
        "material.obj": (b"mtllib ../outside/secret.mtl\nusemtl a\n" + OBJ, TAKEN),
        "point.obj": (b"v 1 1 1\nf 1 1 1\n", r"NAME has no face with three corners"),
        # text
        "utf-16.txt": ("Grüße von der See".encode("utf-16"), TAKEN),
        "utf-16 unmarked.txt": ("Gruss von der See".encode("utf-16-le"), r"NAME is not text: it has NUL characters"),
        "latin-1.txt": ("Grüße von der See".encode("latin-1"), r"NAME is not text in UTF-8 .* Convert it"),
        "nul.md": (b"a\0b", r"NAME is not text: it has NUL characters"),
        "blank.rst": (b" \n\t\n", r"NAME has nothing but white space"),
        "a hole.txt": (b"a" + b" " * 2_000_000 + b"b", TAKEN),
        "one line.txt": (b"the tide comes in " * 60_000, TAKEN),
        # PDF
        "locked.pdf": (pdf(password="secret"), r"NAME wants a password"),
        "locked by nothing.pdf": (
            pdf().replace(b"/Root", b"/Encrypt << /Filter /None >> /Root"),
            r"^NAME .*can't be opened as a PDF",
        ),
        "no words.pdf": (pdf(words=""), r"NAME has no text on its 1 pages"),
        # names
        "two\nlines.txt": (b"a name of two lines", TAKEN),
        "bell\a and \x1b[31mred.txt": (b"a name that rings", TAKEN),
        "\u202egnp.txt": (b"a name from right to left", TAKEN),
        "n" * 251 + ".txt": (b"a name of 255 bytes", TAKEN),
        " .txt": (b"a name of a space", TAKEN),
        "-rf.txt": (b"a name like an option", TAKEN),
        "%s{0}$(id).txt": (b"a name like a program", TAKEN),
    }


def good():
    """Ten files of each modality."""
    found = {}
    for at in range(10):
        colour = np.full((9, 9 + at, 3), at * 20, np.uint8)
        found[f"good {at}.png"] = png(9 + at, 9, rows=(b"\0" + bytes(colour[0, :, 0])) * 9)
        found[f"good {at}.wav"] = wav((np.sin(np.arange(8000) * (at + 3) / 60) * 9000).astype("<i2").tobytes())
        found[f"good {at}.obj"] = OBJ.replace(b"v 1 0 0", b"v %d 0 0" % (at + 2))
        found[f"good {at}.txt"] = b"letter number %d" % at
    return found
