"""GGUF headers: read right, and refused in time when they are wrong."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.gguf import GgufError, kv_cache_bytes, process_bytes, read_info, working_bytes

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10

Tensor = tuple[str, Sequence[int], int, int]  # name, dimensions, ggml type, offset


def text(value: str) -> bytes:
    """A GGUF string."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: object) -> bytes:
    """A typed GGUF value."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    items = cast("list[object]", item)
    first = items[0]
    kind = STRING if isinstance(first, str) else BOOL if isinstance(first, bool) else U32
    body = b"".join(text(each) if isinstance(each, str) else value(each)[4:] for each in items)
    return struct.pack("<IIQ", ARRAY, kind, len(items)) + body


def gguf(
    metadata: Mapping[str, object],
    tensors: Sequence[Tensor] = (),
    data: int = 0,
    version: int = 3,
    claims: int | None = None,
) -> bytes:
    """A whole file with `data` bytes behind its aligned header."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if claims is None else claims, len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    for name, dimensions, kind, offset in tensors:
        head += text(name) + struct.pack("<I", len(dimensions))
        head += b"".join(struct.pack("<Q", dimension) for dimension in dimensions) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + bytes(data)


LLAMA: dict[str, object] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.size_label": "1M",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.block_count": 4,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "", "ä" * 100],
    "tokenizer.chat_template": "{{ messages }}",
}
TENSORS: list[Tensor] = [("a", (64, 64), 0, 0), ("b", (256, 2), 12, 16384)]  # F32: 16,384 bytes; Q4_K: 288
DATA_BYTES = 16384 + 288


def written(tmp_path: Path, content: bytes, name: str = "model.gguf") -> Path:
    """A file."""
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_header_is_read_whole(tmp_path: Path, version: int) -> None:
    """What the catalogue shows and the estimate needs."""
    info = read_info(written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES, version)))
    assert (info.architecture, info.name, info.size_label, info.quantisation) == ("llama", "Tiny", "1M", "Q4_K_M")
    assert (info.context_length, info.block_count, info.embedding_length) == (2048, 4, 64)
    assert (info.head_count, info.head_count_kv, info.key_length, info.value_length) == (8, (2, 2, 2, 2), 8, 8)
    assert (info.vocabulary_size, info.has_chat_template, info.pooling_type) == (4, True, 0)
    assert (info.tensor_bytes, info.parts) == (DATA_BYTES, 1)


def test_cache_is_two_elements_per_head_layer_and_token(tmp_path: Path) -> None:
    """Keys and values, in 16 bits, each sequence rounded up to 256 tokens."""
    info = read_info(written(tmp_path, gguf(LLAMA)))
    per_token = 4 * 2 * (8 + 8) * 2
    assert kv_cache_bytes(info, 1024, 1) == 1024 * per_token
    assert kv_cache_bytes(info, 1000, 3) == 3 * 1024 * per_token
    assert kv_cache_bytes(info, 1024, 1, bytes_per_element=1) == 1024 * per_token // 2


def test_cache_follows_the_file_when_layers_differ(tmp_path: Path) -> None:
    """Lists of heads, windows where the file says which layers have one, else the upper bound."""
    heads = LLAMA | {"llama.attention.head_count_kv": [2, 0, 2, 0]}
    full = kv_cache_bytes(read_info(written(tmp_path, gguf(LLAMA))), 4096, 1)
    assert kv_cache_bytes(read_info(written(tmp_path, gguf(heads))), 4096, 1) == full // 2
    window = LLAMA | {"llama.attention.sliding_window": 512}
    assert kv_cache_bytes(read_info(written(tmp_path, gguf(window))), 4096, 1) == full
    flags = window | {"llama.attention.sliding_window_pattern": [True, True, True, False]}
    assert (
        kv_cache_bytes(read_info(written(tmp_path, gguf(flags))), 4096, 1) == full // 4 + full // 4 * 3 * 1024 // 4096
    )
    every = window | {"llama.attention.sliding_window_pattern": 2}
    assert kv_cache_bytes(read_info(written(tmp_path, gguf(every))), 4096, 1) == full // 2 + full // 2 * 1024 // 4096


def test_cache_is_the_state_when_the_model_is_recurrent(tmp_path: Path) -> None:
    """It does not grow with the context; an encoder has none at all."""
    mamba = {
        "general.architecture": "mamba",
        "mamba.block_count": 2,
        "mamba.embedding_length": 64,
        "mamba.ssm.inner_size": 128,
        "mamba.ssm.state_size": 16,
        "mamba.ssm.conv_kernel": 4,
    }
    info = read_info(written(tmp_path, gguf(mamba)))
    assert kv_cache_bytes(info, 256, 1) == kv_cache_bytes(info, 8192, 1) == 2 * 4 * (3 * 128 + 16 * 128)
    bert = {name.replace("llama", "bert"): item for name, item in LLAMA.items()}
    bert |= {"general.architecture": "bert", "bert.attention.causal": False, "bert.pooling_type": 1}
    encoder = read_info(written(tmp_path, gguf(bert)))
    assert (kv_cache_bytes(encoder, 512, 1), encoder.pooling_type) == (0, 1)


def test_working_memory_grows_with_width_and_vocabulary(tmp_path: Path) -> None:
    """The two things that are not in the tensors' size."""
    small = read_info(written(tmp_path, gguf(LLAMA)))
    wide = read_info(written(tmp_path, gguf(LLAMA | {"llama.embedding_length": 128})))
    many = read_info(written(tmp_path, gguf(LLAMA | {"tokenizer.ggml.tokens": ["x"] * 1000})))
    assert working_bytes(wide) == 2 * working_bytes(small) > 0
    assert process_bytes(many) > process_bytes(small) > 0


def test_parts_are_summed_when_the_model_is_split(tmp_path: Path) -> None:
    """The first part holds the metadata, every part its own tensors."""
    names = [f"big-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    first = written(tmp_path, gguf(LLAMA), names[0])
    second = written(tmp_path, gguf({}, TENSORS, DATA_BYTES), names[1])
    written(tmp_path, gguf({}, TENSORS, DATA_BYTES), names[2])
    info = read_info(first)
    assert (info.tensor_bytes, info.parts, info.block_count) == (2 * DATA_BYTES, 3, 4)
    with pytest.raises(GgufError, match="not the first part"):
        read_info(second)
    second.unlink()
    with pytest.raises(GgufError, match=f"parts of the model are missing: {names[1]}"):
        read_info(first)


HUGE = 1 << 60
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends inside its header"),
    "other magic": (b"PK\3\4" + bytes(60), "does not begin as a GGUF file does"),
    "version 1": (gguf({}, version=1), "version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "billion tensors": (gguf(LLAMA, claims=10**9), "claims 1000000000 tensors"),
    "a million tensors": (gguf(LLAMA, claims=10**6), "ends inside its header"),
    "endless pairs": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "metadata pairs"),
    "endless key": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE), "ends inside its header"),
    "endless string": (gguf({"k": struct.pack("<IQ", STRING, HUGE)}), "ends inside its header"),
    "endless array": (gguf({"k": struct.pack("<IIQ", ARRAY, U64, HUGE)}), "ends inside its header"),
    "endless strings": (gguf({"k": struct.pack("<IIQ", ARRAY, STRING, HUGE)}), "strings"),
    "endless string in an array": (gguf({"k": struct.pack("<IIQQ", ARRAY, STRING, 1, HUGE)}), "ends inside its header"),
    "nested arrays": (gguf({"k": struct.pack("<IIQ", ARRAY, ARRAY, HUGE)}), "array of arrays"),
    "unknown value": (gguf({"k": struct.pack("<I", 99)}), "unknown type 99"),
    "no architecture": (gguf({"general.name": "x"}), "which architecture"),
    "endless blocks": (gguf(LLAMA | {"llama.block_count": 2**32 - 1}), "blocks"),
    "flat alignment": (gguf(LLAMA | {"general.alignment": 0}), "alignment is 0"),
    "many dimensions": (gguf(LLAMA, [("t", (1,) * 9, 0, 0)]), "9 dimensions"),
    "endless tensor": (gguf(LLAMA, [("t", (2**64 - 1,) * 8, 0, 0)]), "truncated"),
    "half a download": (gguf(LLAMA, TENSORS, DATA_BYTES - 1), "truncated.*fetch it again"),
    "cut header": (gguf(LLAMA, TENSORS)[:100], "ends inside its header"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_error_says_what_is_wrong_when_the_file_is_hostile(tmp_path: Path, case: str) -> None:
    """Quickly, naming the file and not its folder, and without allocating what the file claims."""
    content, said = HOSTILE[case]
    path = written(tmp_path, content)
    began_s = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match=said) as caught:
            read_info(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began_s < 2
    assert peak_bytes < 8 << 20
    assert str(caught.value).startswith("model.gguf: ")
    assert str(tmp_path) not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 600), piece=st.binary(min_size=1, max_size=12))
def test_reading_ends_in_an_answer_or_a_gguf_error_when_bytes_are_changed(
    tmp_path_factory: pytest.TempPathFactory, at: int, piece: bytes
) -> None:
    """No other exception comes out of a damaged header."""
    content = bytearray(gguf(LLAMA | {"llama.rope.scale": 1.0}, TENSORS, DATA_BYTES))
    content[at : at + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    try:
        info = read_info(path)
    except GgufError:
        return
    assert kv_cache_bytes(info, 4096, 1) >= 0
    assert working_bytes(info) >= 0
    assert process_bytes(info) >= 0
