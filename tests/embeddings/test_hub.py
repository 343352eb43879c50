import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from transformers import BertConfig, BertModel

from llama_index_mm.embeddings.hub import Batches, load_config, load_model, load_processor, pad_tokens, weights_fingerprint
from llama_index_mm.errors import ModelError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save_bert(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_loads_a_local_folder_for_inference(tmp_path):
    folder = save_bert(tmp_path / "model")
    model = load_model(str(folder), device="cpu")
    assert not model.training
    assert model.device.type == "cpu"
    assert model.dtype == torch.float32
    reference = BertModel.from_pretrained(folder)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight)


def test_dtype_is_what_was_asked_for_and_not_what_the_file_holds(tmp_path):
    folder = save_bert(tmp_path / "model")
    BertModel.from_pretrained(folder).half().save_pretrained(folder)
    assert load_model(str(folder), device="cpu").dtype == torch.float32
    assert load_model(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float", "no-such-type", "nn"])
def test_unknown_dtype(tmp_path, dtype):
    folder = save_bert(tmp_path / "model")
    if dtype == "float":  # torch's own other name
        assert load_model(str(folder), device="cpu", dtype=dtype).dtype == torch.float32
        return
    with pytest.raises(ModelError, match="dtype"):
        load_model(str(folder), dtype=dtype)


def test_unknown_device(tmp_path):
    with pytest.raises(ModelError, match="device"):
        load_model(str(save_bert(tmp_path / "model")), device="warp-drive")


def test_unreachable_hub(tmp_path):
    for load in (load_config, load_model, lambda name: load_processor("AutoTokenizer", name)):
        with pytest.raises(ModelError, match="offline") as caught:
            load("nobody/no-such-model")
        assert "nobody/no-such-model" in str(caught.value)
        assert "folder" in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder-here"])
def test_missing_folder(name):
    with pytest.raises(ModelError, match=r"no such folder.*offline"):
        load_model(name)


def test_empty_folder(tmp_path):
    with pytest.raises(ModelError, match="offline"):
        load_model(str(tmp_path))


def test_corrupted_weights(tmp_path):
    folder = save_bert(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="offline"):
        load_model(str(folder))
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="offline"):
        load_model(str(folder))


def test_pickled_weights_are_never_read(tmp_path):
    folder = save_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(BertModel(BertConfig.from_pretrained(folder)).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(folder))


def test_missing_tensors_are_an_error_and_not_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_bert(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("embeddings.word_embeddings.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"embeddings\.word_embeddings\.weight"):
        load_model(str(folder))
    load_model(str(folder), device="cpu", unused=["embeddings.word_embeddings.weight"])


def test_tensors_of_another_shape(tmp_path):
    folder = save_bert(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 4}))
    with pytest.raises(ModelError, match="offline"):
        load_model(str(folder))


def test_wrong_kind_of_model(tmp_path):
    folder = save_bert(tmp_path / "model")
    assert load_config(str(folder), kinds=["bert"]).hidden_size == 8
    with pytest.raises(ModelError, match=r"'bert'.*'clip'.*offline"):
        load_config(str(folder), kinds=["clip"])


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    folder = save_bert(tmp_path / "model")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert "evil" not in sys.modules


def test_fingerprint_of_a_folder_follows_its_content_and_not_its_place(tmp_path):
    first = save_bert(tmp_path / "a")
    same = save_bert(tmp_path / "b")
    other = save_bert(tmp_path / "c", seed=1)
    prints = [weights_fingerprint(str(folder), None, load_config(str(folder))) for folder in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]
    (same / "tokenizer.json").write_text("{}")
    assert weights_fingerprint(str(same), None, None) != prints[0]
    (first / "README.md").write_text("words that decide nothing")
    assert weights_fingerprint(str(first), None, None) == prints[0]


def test_fingerprint_of_a_hub_model_follows_its_commit():
    class Config:
        _commit_hash = "abc"

    known = weights_fingerprint("some/model", None, Config())
    assert known == weights_fingerprint("some/model", "v1", Config())
    assert known != weights_fingerprint("other/model", None, Config())
    assert weights_fingerprint("some/model", None, object()) == weights_fingerprint("some/model", "main", object())
    assert weights_fingerprint("some/model", "v1", object()) != weights_fingerprint("some/model", "v2", object())


def test_pad_tokens(caplog):
    log = logging.getLogger("test")
    ids, mask = pad_tokens([[1, 5, 2], [1, 5, 6, 7, 8, 2], [1, 2]], 4, log)
    np.testing.assert_array_equal(ids, [[1, 5, 2, 2], [1, 5, 6, 2], [1, 2, 2, 2]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    assert ids.dtype == mask.dtype == np.int64
    assert [record.getMessage()[:35] for record in caplog.records] == ["1 of 3 texts are longer than the mo"]
    caplog.clear()
    pad_tokens([[1, 5, 6, 2]], 4, log)
    assert not caplog.records


def test_batches_take_items_as_they_need_them_and_shrink_for_good():
    taken, sizes = [], []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return np.asarray(batch)

    batches = Batches()
    run = batches.run(items(), 8, forward)
    assert next(run).tolist() == [0, 1]
    assert taken == list(range(8))
    assert np.concatenate(list(run)).tolist() == list(range(2, 10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert [rows.tolist() for rows in batches.run([1, 2, 3], 8, forward)] == [[1, 2], [3]]
    batches.reset()
    assert [rows.tolist() for rows in batches.run([1, 2, 3], 8, forward)] == [[1, 2, 3]]
    assert list(batches.run([], 8, forward)) == []


def test_one_item_beyond_the_memory():
    def forward(batch):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)")

    with pytest.raises(ModelError, match=r"18\.00 GB.*bfloat16"):
        list(Batches().run([1, 2], 2, forward))
