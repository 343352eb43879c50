"""How a run is spread over a Ray cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_index_mm.presets import Preset

__all__ = ["RayOptions"]


@dataclass(frozen=True)
class RayOptions:
    """How a run is spread over a Ray cluster.

    Attributes:
        address: ``"auto"`` or ``host:port`` of a cluster; None for the one that ``RAY_ADDRESS`` names or that this machine is
            part of, and a new one on this machine if there is none.
        actors: processes that work, each with the models of the preset; None for as many as the processors allow.
        cpus_per_actor: that each of them takes up.
        gpus_per_actor: that each of them takes up; may be a fraction.
        headroom_cpus: processors of the cluster that no actor takes up. With none left over, work that was lost with a machine
            has to wait until an actor elsewhere has nothing more to do.
        files_per_batch: that an actor gets at once. What is lost with a machine, and what a stopped run does again, is a few
            batches; and shards have one part for each.
        retries: how often a batch is tried again whose process was lost. Then its files are tried one by one, as often, and the
            one that takes its process along is noted as one that could not be taken.
        preset: makes the preset on every machine, for one that is not known by its name; in a module that all can import.
        shards: folder for the shards of an index that is in a folder, on a disk that every machine reaches; they stay there.
            Default is one in the index, which goes when it has been merged.

    Raises:
        ValueError: a number is out of range, or the address is that of a Ray client.
    """

    address: str | None = None
    actors: int | None = None
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    headroom_cpus: float = 1.0
    files_per_batch: int = 64
    retries: int = 2
    preset: Callable[[], Preset] | None = None
    shards: Path | str | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                f"Ray Data does not run through a Ray client ({self.address}). Start this program on a machine of the cluster "
                'with address="auto", or as a job of it.'
            )
        least = {"actors": 1, "files_per_batch": 1, "retries": 0, "gpus_per_actor": 0, "headroom_cpus": 0}
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise ValueError(f"Expected {name} of at least {value}, got {given}.")
        if self.cpus_per_actor <= 0:
            raise ValueError(f"Expected cpus_per_actor above 0, got {self.cpus_per_actor}.")
