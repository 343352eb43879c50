import json

from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.media import MODALITIES
from llama_index_mm.models import MODELS
from llama_index_mm.presets import PRESETS, preset_facts

FREE = {"Apache-2.0", "MIT"}


def call(*args):
    result = CliRunner().invoke(app, ["presets", *args], catch_exceptions=False, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_tells_every_preset():
    told = {one["name"]: one for one in json.loads(call("--json"))}
    assert list(told) == list(PRESETS)
    for name, one in told.items():
        assert set(one["finds"]) == set(one["reach"]) == set(MODALITIES)
        assert one["megabytes"] == sum(model["megabytes"] for model in one["models"]) > 0
        assert set(one["licences"]) == {model["licence"] for model in one["models"]} <= FREE
        assert one["spaces"] == dict(preset_facts(name).spaces)
        assert one["origin"] == ("PyPI" if name.startswith("offline") else "hub")


def test_offline_sizes_are_those_of_the_wheels():
    needed = [spec for spec in MODELS.values() if not spec.optional]
    told = {one["name"]: one for one in json.loads(call("--json"))}
    assert told["offline"]["megabytes"] - 95 == sum(round(spec.size / 1e6) for spec in needed)
    assert {model["licence"] for model in told["offline"]["models"]} == {"MIT"} | {spec.licence for spec in needed}


def test_table_names_presets_models_and_what_is_found():
    out = call()
    for name in PRESETS:
        facts = preset_facts(name)
        assert f"{name}  {facts.does}" in out
        assert all(model.source in out for model in facts.models if "+" not in model.source)
        assert f"'llama-index-mm[{','.join(facts.extras)}]'" in out
    assert "text finds" in out
