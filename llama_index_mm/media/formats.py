"""Which kinds of pictures and sound are decoded, by which parser, and what is said of those that are not."""

__all__ = ["CODECS", "DEMUXERS", "HEIF", "NOT_TAKEN", "PICTURES", "SOUNDS", "UNSIGNED", "UNTRUSTED", "content_of"]

# Pillow's parsers that are let near a file, with the endings of names, most common first.
PICTURES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "PSD": (".psd",),
    "DDS": (".dds",),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "DCX": (".dcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "TGA": (".tga", ".icb", ".vda"),
    "DIB": (".dib",),
}
# These have nothing at their beginning to be known by: they are tried only where the name says so.
UNSIGNED = ("TGA", "DIB")
HEIF = (".heic", ".heif", ".hif")  # by pillow-heif

# Pillow's other parsers, and why no file gets to them.
UNTRUSTED: dict[str, str] = {
    "EPS": "runs Ghostscript",
    "PDF": "is written, not read",
    "PALM": "is written, not read",
    "MPEG": "tells the size of a video, decodes nothing",
    "BUFR": "needs a handler that Pillow lacks",
    "GRIB": "needs a handler that Pillow lacks",
    "HDF5": "needs a handler that Pillow lacks",
    "WMF": "draws on Windows only",
    "FITS": "holds measurements; its gzip has no bound",
    "IPTC": "is a wire report with a picture somewhere",
    "MCIDAS": "holds measurements",
    "SPIDER": "holds measurements",
    "GBR": "is a brush, and the name of circuit board layers",
    "MSP": "is of Windows 2, and the name of installer patches",
    "PCD": "is of the Photo CD, and the name of point clouds",
    "XVTHUMB": "is a cache of one old viewer",
    "IMT": "is of one program",
    "IM": "is of one program",
    "PIXAR": "is of one machine",
    "BLP": "is of one game",
    "FTEX": "is of one game",
    "FLI": "is of one animation program",
}

# What PyAV opens. The demuxers are those that read one file and never another one, as playlists do.
SOUNDS = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".mp3", ".mp2", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".wma", ".amr", ".ac3", ".mka", ".weba", ".wv", ".tta"),
    # Videos: their sound.
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".ogv"),
)
DEMUXERS = (
    *("wav", "w64", "flac", "mp3", "ogg", "mov", "aac", "aiff", "au", "caf", "asf", "amr", "ac3", "eac3", "matroska"),
    *("wv", "tta", "avi", "flv", "mpeg", "mpegts"),
)
CODECS = frozenset(
    (
        *("aac", "aac_latm", "ac3", "eac3", "alac", "amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "flac"),
        *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis", "wavpack", "tta"),
        *("wmav1", "wmav2", "wmapro", "wmavoice", "wmalossless", "speex", "libspeex", "gsm", "gsm_ms", "libgsm", "libgsm_ms"),
        *("adpcm_ima_wav", "adpcm_ima_qt", "adpcm_ms", "adpcm_swf", "dca", "nellymoser", "pcm_alaw", "pcm_mulaw"),
        *("pcm_u8", "pcm_s8", "pcm_u16le", "pcm_u16be", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"),
        *("pcm_s32be", "pcm_s64le", "pcm_s64be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_bluray", "pcm_dvd"),
    )
)

_DRAWING = "is a drawing made of lines and shapes, not of pixels. Export it as PNG."
_RAW = "is what a camera's sensor saw, and has to be developed. Export it as JPEG or TIFF."
_LIST = "is a list of recordings, and lists are not followed. Give the recordings themselves."
_SCORE = "holds notes, not sound. Render it as WAV."
_RANGE = "holds light beyond what a screen shows. Export it as PNG."
_MEASURED = "holds measurements, not a picture. Export it as PNG."

# Endings that people do have in their folders, with what to do.
NOT_TAKEN: dict[str, str] = {
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".ai", ".cdr", ".wmf", ".emf"), _DRAWING),
    **dict.fromkeys((".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"), _RAW),
    **dict.fromkeys((".m3u", ".m3u8", ".pls", ".xspf", ".cue", ".mpd", ".sdp"), _LIST),
    **dict.fromkeys((".mid", ".midi"), _SCORE),
    **dict.fromkeys((".exr", ".hdr"), _RANGE),
    **dict.fromkeys((".fits", ".fit", ".grib", ".bufr"), _MEASURED),
    ".jxl": "is JPEG XL, for which there is no decoder here. Convert it to PNG.",
}

# Beginnings of files that were taken for something else.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"fLaC", "FLAC sound"),
    (b"OggS", "Ogg sound"),
    (b"ID3", "MP3 sound"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (b"PK\x03\x04", "a ZIP archive, as office documents are"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
)
_RIFF = {b"WAVE": "WAV sound", b"WEBP": "a WebP picture", b"AVI ": "an AVI video"}


def content_of(head: bytes) -> str | None:
    """Name what a file seems to hold by its first bytes (some hundred do), with its article; ``None`` if it isn't known."""
    for beginning, content in _BEGINNINGS:
        if head.startswith(beginning):
            return content
    if head[:4] in (b"RIFF", b"RF64"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "a picture or video of the MP4 family"
    if b"<svg" in head:
        return "an SVG drawing"
    if b"<html" in head.lower():
        return "a web page"
    return None
