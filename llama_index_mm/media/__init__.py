"""From a file to pixels, a waveform or a mesh. Knows nothing of LlamaIndex or torch."""

from llama_index_mm.media.audio import SAMPLE_RATE, Waveform, load_audio, wav_bytes
from llama_index_mm.media.files import MODALITIES, Modality, digest_bytes, digest_file, modality_of, suffixes
from llama_index_mm.media.image import PICTURE_SIDE, Picture, image_bytes, load_image, load_picture
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.mesh import Mesh, MeshFacts, load_mesh
from llama_index_mm.media.views import contact_sheet, render_views, split_sheet

__all__ = [
    "LIMITS",
    "MODALITIES",
    "PICTURE_SIDE",
    "SAMPLE_RATE",
    "MediaLimits",
    "Mesh",
    "MeshFacts",
    "Modality",
    "Picture",
    "Waveform",
    "contact_sheet",
    "digest_bytes",
    "digest_file",
    "image_bytes",
    "load_audio",
    "load_image",
    "load_mesh",
    "load_picture",
    "modality_of",
    "render_views",
    "split_sheet",
    "suffixes",
    "wav_bytes",
]
