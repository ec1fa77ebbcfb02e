"""A model by its name on the hub, with an adapter: what a newcomer types."""

from pathlib import Path

import hub
import plmconv
import pytest

ADAPTER = Path(__file__).parents[2] / "fixtures" / "tiny-lora"


@pytest.fixture
def served(model, tmp_path, monkeypatch):
    server, address = hub.serve("plm/tiny-plm", model)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield "plm/tiny-plm"
    server.shutdown()


def test_a_name_is_fetched_and_an_adapter_merged(served, model, tmp_path):
    plmconv.quantize(served, tmp_path / "named.gguf", "q8_0")
    plmconv.quantize(model, tmp_path / "local.gguf", "q8_0")
    named, local = plmconv.open(tmp_path / "named.gguf"), plmconv.open(tmp_path / "local.gguf")
    assert all((named.raw(name) == local.raw(name)).all() for name in local)
    plmconv.quantize(served, tmp_path / "merged.gguf", "q8_0", lora=ADAPTER)
    merged = plmconv.open(tmp_path / "merged.gguf")
    assert any((merged.raw(name) != local.raw(name)).any() for name in local)


def test_a_name_that_nobody_knows_is_said(served, tmp_path):
    with pytest.raises(plmconv.Failure, match="no such model on the hub"):
        plmconv.quantize("plm/another", tmp_path / "x.gguf", "q8_0")
