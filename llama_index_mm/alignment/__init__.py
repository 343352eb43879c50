"""Fitting a new modality to an embedding space that is there, without touching what lives in it."""

from llama_index_mm.alignment.adapter import ADAPTERS, STARTS, Adapter, procrustes, ridge
from llama_index_mm.alignment.aligner import WAYS, Aligner
from llama_index_mm.alignment.card import AlignmentCard
from llama_index_mm.alignment.encoder import AlignedEncoder
from llama_index_mm.alignment.gate import check_adapter, gate
from llama_index_mm.alignment.geometry import Geometry, alignment_of, effective_rank, uniformity
from llama_index_mm.alignment.joining import beside, digest_vectors, join, with_encoder
from llama_index_mm.alignment.lora import LoraAligner
from llama_index_mm.alignment.lora_encoder import LoraCard, LoraEncoder, LoraOptions
from llama_index_mm.alignment.losses import LOSSES, info_nce, margin_loss, sigmoid_loss
from llama_index_mm.alignment.pairs import Pair, labelled, paired, with_views
from llama_index_mm.alignment.pretrain_card import PretrainCard, PretrainOptions
from llama_index_mm.alignment.pretraining import pretrain_gcn, similarity_distillation
from llama_index_mm.alignment.shapes import distorted, procedural_mesh
from llama_index_mm.alignment.tables import load_pairs
from llama_index_mm.alignment.training import Epoch, FitOptions
from llama_index_mm.alignment.zero_shot import Classified, zero_shot

__all__ = [
    "ADAPTERS",
    "LOSSES",
    "STARTS",
    "WAYS",
    "Adapter",
    "AlignedEncoder",
    "Aligner",
    "AlignmentCard",
    "Classified",
    "Epoch",
    "FitOptions",
    "Geometry",
    "LoraAligner",
    "LoraCard",
    "LoraEncoder",
    "LoraOptions",
    "Pair",
    "PretrainCard",
    "PretrainOptions",
    "alignment_of",
    "beside",
    "check_adapter",
    "digest_vectors",
    "distorted",
    "effective_rank",
    "gate",
    "info_nce",
    "join",
    "labelled",
    "load_pairs",
    "margin_loss",
    "paired",
    "pretrain_gcn",
    "procedural_mesh",
    "procrustes",
    "ridge",
    "sigmoid_loss",
    "similarity_distillation",
    "uniformity",
    "with_encoder",
    "with_views",
    "zero_shot",
]
