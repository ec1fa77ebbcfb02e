"""Tensors and codecs, against gguf-py."""

import gguf
import numpy as np
import plmconv
import pytest
from gguf import quants

TYPES = [kind.name for kind in quants._type_traits]


@pytest.mark.parametrize("name", TYPES)
def test_blocks_decode_as_in_gguf_py(name):
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(7).standard_normal((6, 512)).astype(np.float32)
    try:
        blocks = plmconv.quantize_rows(values, name, importance=np.ones(512))
    except ValueError as error:
        pytest.fail(f"{name}: {error}")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert blocks.shape == (6, 512 // block * size)
    ours, theirs = plmconv.dequantize(blocks, name), quants.dequantize(blocks, kind)
    assert ours.shape == values.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-9)


def test_a_gguf_is_a_mapping_of_arrays(model, tmp_path):
    plmconv.quantize(model, tmp_path / "q4.gguf", "q4_k_m")
    tensors = plmconv.open(tmp_path / "q4.gguf")
    reader = gguf.GGUFReader(tmp_path / "q4.gguf")
    assert list(tensors) == [tensor.name for tensor in reader.tensors] and len(tensors) == len(reader.tensors)
    for tensor in reader.tensors:
        assert tensors.type(tensor.name) == tensor.tensor_type.name
        assert tensors.shape(tensor.name) == tuple(int(n) for n in reversed(tensor.shape))
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(tensors[tensor.name].ravel(), values.ravel(), rtol=2e-6, atol=1e-9)
    assert "no such tensor" not in tensors
    with pytest.raises(KeyError):
        tensors["no such tensor"]


def test_a_folder_and_a_safetensors_file_have_the_same_tensors(model):
    folder, file = plmconv.open(model), plmconv.open(model / "model.safetensors")
    for name in folder:
        np.testing.assert_array_equal(folder[name], file[name])


def test_shards_are_one_mapping(model, tmp_path):
    plmconv.quantize(model, tmp_path / "one.gguf", "q8_0")
    written = plmconv.quantize(model, tmp_path / "many.gguf", "q8_0", split_max_size="2M")
    assert len(written["files"]) > 1
    one, many = plmconv.open(tmp_path / "one.gguf"), plmconv.open(written["files"][0])
    assert set(one) == set(many)
    assert all((one.raw(name) == many.raw(name)).all() for name in one)


def test_wrong_arguments_are_value_errors():
    with pytest.raises(ValueError, match="whole"):
        plmconv.quantize_rows(np.zeros((2, 100)), "q4_k")
    with pytest.raises(ValueError, match="nearest|unknown|q4_k"):
        plmconv.quantize_rows(np.zeros((2, 256)), "q4_kk")
    with pytest.raises(ValueError, match="nan|NaN"):
        plmconv.quantize_rows(np.full((2, 256), np.nan), "q8_0")
    with pytest.raises(OSError, match="absent"):
        plmconv.open("absent.gguf")
