"""A saved mesh network as an encoder that loads when it is first used; neither torch nor the weights before that."""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.errors import ModelError
from llama_index_mm.media import Mesh

if TYPE_CHECKING:
    from llama_index_mm.embeddings.mesh_gcn import MeshGCNEncoder

__all__ = ["SavedMeshEncoder"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_FIELDS = ("graph", "up", "width", "layers", "dimension")  # of a MeshGCNConfig, whose module takes torch
_LENGTH = 8  # bytes of a safetensors file that say how long its head is


class SavedMeshEncoder(Encoder):
    """Meshes to vectors by a `MeshGCN` in a folder, as `MeshGCNEncoder` encodes them, bit for bit.

    Config and fingerprint, which is the same as that of `MeshGCNEncoder`, are read at once; the network is built when the first
    mesh is encoded. Safe to use from several threads.

    Args:
        folder: as `MeshGCN.save` wrote it.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises:
        ModelError: a file is missing or broken. That weights do not fit the config is told when the first mesh is encoded.
    """

    payload: Payload = "mesh"

    def __init__(self, folder: Path | str, *, device: str = "cpu") -> None:
        self.folder = Path(folder)
        self.device = device
        try:
            config = json.loads((self.folder / _CONFIG).read_text(encoding="utf-8"))
            self.dimension = int(config["dimension"])
            told = [config["model_type"].replace("_", "-"), config["version"], *(config[name] for name in _FIELDS)]
            digest = _digest((self.folder / _WEIGHTS).read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.folder} can't be read as a mesh network ({type(error).__name__}: {error}). "
                f"Give a folder with {_CONFIG} and {_WEIGHTS}, as MeshGCN.save writes it."
            ) from error
        self.fingerprint = fingerprint(*told, digest)
        self._lock = threading.Lock()
        self._loaded: MeshGCNEncoder | None = None

    def _encode(self, items: Sequence[Mesh], *, query: bool) -> NDArray[Any]:
        return self._load()._encode(items, query=query)

    def release(self) -> None:
        """Free the memory of the network; it is loaded again when it is next needed."""
        with self._lock:
            self._loaded = None

    def _load(self) -> "MeshGCNEncoder":
        with self._lock:
            if self._loaded is None:
                from llama_index_mm.embeddings.mesh_gcn import MeshGCNEncoder

                found = MeshGCNEncoder(self.folder, device=self.device)
                if found.fingerprint != self.fingerprint:
                    raise ModelError(
                        f"The network in {self.folder} is another one than when its encoder was made. Make the encoder anew."
                    )
                self._loaded = found
            return self._loaded


def _digest(data: bytes) -> str:
    """Digest of names and numbers in a safetensors file: that of `MeshGCNEncoder` over the tensors themselves."""
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    head: dict[str, Any] = json.loads(data[_LENGTH:start])
    digest = hashlib.sha256()
    for name, tensor in sorted(head.items()):
        if name != "__metadata__":
            low, high = tensor["data_offsets"]
            digest.update(name.encode() + data[start + low : start + high])
    return digest.hexdigest()
