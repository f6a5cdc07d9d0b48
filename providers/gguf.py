"""What the header of a GGUF file says about a model, and what the model will need in memory.

Law: the file is hostile until proven otherwise. Every length is checked against the bytes that are left before anything
is read or allocated, every count has a ceiling, and what is wrong is said in one sentence.
Pure: a path in, values out.

Source: ggml's docs/gguf.md (layout, version 3), ggml-common.h (block sizes), llama.h (llama_ftype),
llama-arch.cpp (names of the keys).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_HEADER_MAX_BYTES = 128 << 20  # a vocabulary of 262,144 tokens with its merges takes about 16 MiB
_PIECE_BYTES = 1 << 20
_PAIRS_MAX = 65_536
_TENSORS_MAX = 1_000_000
_DIMENSIONS_MAX = 8  # ggml itself: 4
_TEXT_MAX_BYTES = 1 << 20  # of a string we keep; longer ones are skipped
_KEPT_NUMBERS = 4096  # longest numeric array kept: per-layer lists; longer ones are vocabularies' scores
_STRINGS_MAX = 8_000_000  # strings in all arrays: bounds the time for a file made to waste it
_PARTS_MAX = 1024
_NAME_OF_PART = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$")

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

# ggml type → (elements per block, bytes per block)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip

_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

Value = int | float | bool | str | tuple[int | float | bool, ...] | None


class GgufError(ValueError):
    """Not a GGUF file we can use; the message says what is wrong with it, and holds no folder."""


class GgufInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One model, its parts summed. Counts of heads are per layer where the file gives a list."""

    architecture: str
    name: str = ""
    size_label: str = ""  # "135M"
    quantisation: str = ""  # "Q4_K_M"
    context_length: int = 0  # tokens it was trained on
    block_count: int = 0
    embedding_length: int = 0
    head_count: int = 0
    head_count_kv: tuple[int, ...] = ()  # one per block
    key_length: int = 0
    value_length: int = 0
    sliding_window: int = 0  # tokens; 0: none
    sliding_layers: tuple[bool, ...] = ()  # one per block; empty: the file does not say which
    recurrent_bytes: int = 0  # state of one sequence, all layers (Mamba, RWKV)
    causal: bool = True
    pooling_type: int = 0  # llama_pooling_type; 0: none
    vocabulary_size: int = 0
    has_chat_template: bool = False
    tensor_bytes: int = 0  # what lies on disk of all parts' tensors, padding included
    parts: int = 1


class _Reader:
    """A cursor over the beginning of a file that never reads past what it was promised."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._limit_bytes = min(size_bytes, _HEADER_MAX_BYTES)
        self._buffer = bytearray()
        self._strings = 0
        self.at = 0

    def need(self, count: int) -> None:
        """Have `count` more bytes in the buffer. Raises: GgufError."""
        end = self.at + count
        if end > self._size_bytes:
            raise GgufError("the file ends inside its header: it is truncated or no GGUF file")
        if end > self._limit_bytes:
            raise GgufError(f"its header is larger than {_HEADER_MAX_BYTES >> 20} MiB")
        while len(self._buffer) < end:
            piece = self._file.read(max(_PIECE_BYTES, end - len(self._buffer)))
            if not piece:
                raise GgufError("the file became shorter while it was read")
            self._buffer += piece

    def number(self, layout: str) -> int | float | bool:
        """One scalar."""
        size = struct.calcsize(layout)
        self.need(size)
        (value,) = struct.unpack_from(layout, self._buffer, self.at)
        self.at += size
        return value

    def count(self, layout: str = "<Q") -> int:
        """One unsigned integer."""
        return int(self.number(layout))

    def text(self) -> str:
        """A string; one longer than we keep is skipped and empty."""
        length = self.count()
        self.need(length)
        start, self.at = self.at, self.at + length
        return self._buffer[start : self.at].decode("utf-8", "replace") if length <= _TEXT_MAX_BYTES else ""

    def skip_strings(self, count: int) -> None:
        """`count` strings. Each has at least its length's eight bytes."""
        self._strings += count
        if self._strings > _STRINGS_MAX:
            raise GgufError(f"it holds more than {_STRINGS_MAX} strings")
        self.need(count * 8)
        buffer, at = self._buffer, self.at
        for _ in range(count):
            end = at + 8
            if end > len(buffer):
                self.at = at
                self.need(8)
            length = int.from_bytes(buffer[at:end], "little")
            if end + length > len(buffer):
                self.at = end
                self.need(length)
            at = end + length
        self.at = at

    def value(self, kind: int) -> Value:
        """One metadata value that is no array."""
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise GgufError(f"it holds a value of unknown type {kind}")
        return self.number(_SCALARS[kind])

    def array(self) -> tuple[int, Value]:
        """Its length and numbers; strings, and more numbers than we keep, are skipped and give None."""
        kind, count = self.count("<I"), self.count()
        if kind == _STRING:
            self.skip_strings(count)
            return count, None
        if kind not in _SCALARS:
            raise GgufError(
                "it holds an array of arrays, which no model uses" if kind == _ARRAY else f"unknown type {kind}"
            )
        size = struct.calcsize(_SCALARS[kind])
        self.need(count * size)
        start, self.at = self.at, self.at + count * size
        if count > _KEPT_NUMBERS:
            return count, None
        layout = f"<{count}{_SCALARS[kind][1]}"
        return count, struct.unpack_from(layout, self._buffer, start)

    def pairs(self, count: int) -> tuple[dict[str, Value], dict[str, int]]:
        """The metadata: values, and the lengths of arrays."""
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key = self.text()
            kind = self.count("<I")
            if kind == _ARRAY:
                lengths[key], values[key] = self.array()
            else:
                values[key] = self.value(kind)
        return values, lengths

    def tensors_end(self, count: int) -> int:
        """Reads the tensor infos; how many bytes the data must have at least. Unknown types count as nothing."""
        end = 0
        for _ in range(count):
            self.text()
            dimensions = self.count("<I")
            if dimensions > _DIMENSIONS_MAX:
                raise GgufError(f"a tensor has {dimensions} dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self.count()
            per_block, block_bytes = _BLOCKS.get(self.count("<I"), (1, 0))
            end = max(end, self.count() + elements // per_block * block_bytes)
        return end


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensor_bytes: int


def read_info(path: Path) -> GgufInfo:
    """Read the header of a file, of all files where it is the first of several (`…-00001-of-00003.gguf`). Blocking.

    Raises:
        GgufError: it is none, is damaged, or a part is missing.
        OSError: it cannot be read.
    """
    paths = _parts(path)
    first, *others = [_read_part(part) for part in paths]
    try:
        return _info(first, sum(part.tensor_bytes for part in (first, *others)), len(paths))
    except GgufError as error:
        raise GgufError(f"{path.name}: {error}") from error


def _parts(path: Path) -> Sequence[Path]:
    match = _NAME_OF_PART.match(path.name)
    if match is None:
        return [path]
    parts = int(match["parts"])
    if int(match["part"]) != 1:
        raise GgufError(f"{path.name} is not the first part of the model; give the one with -00001-of-")
    if not 1 <= parts <= _PARTS_MAX:
        raise GgufError(f"{path.name} claims {parts} parts")
    paths = [path.with_name(f"{match['stem']}-{number:05d}-of-{parts:05d}.gguf") for number in range(1, parts + 1)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise GgufError(f"parts of the model are missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
    return paths


def _read_part(path: Path) -> _Part:
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(0)
            return _parse(_Reader(file, size_bytes), size_bytes)
    except GgufError as error:
        raise GgufError(f"{path.name}: {error}") from error


def _parse(reader: _Reader, size_bytes: int) -> _Part:
    reader.need(4)
    magic, version = reader.count("<I").to_bytes(4, "little"), reader.count("<I")
    if magic != _MAGIC:
        raise GgufError("it does not begin as a GGUF file does")
    if version not in _VERSIONS:
        raise GgufError(f"its GGUF version is {version}; 2 and 3 can be read (big-endian files cannot)")
    tensors, pairs = reader.count(), reader.count()
    if tensors > _TENSORS_MAX or pairs > _PAIRS_MAX:
        raise GgufError(f"it claims {tensors} tensors and {pairs} metadata pairs")
    values, lengths = reader.pairs(pairs)
    promised = reader.tensors_end(tensors)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise GgufError(f"its alignment is {alignment}")
    data_at = -(-reader.at // alignment) * alignment
    if data_at + promised > size_bytes:
        raise GgufError(
            f"it is truncated: {data_at + promised} bytes are promised, {size_bytes} are there; fetch it again"
        )
    return _Part(values=values, lengths=lengths, tensor_bytes=max(0, size_bytes - data_at) if tensors else 0)


class _Keys:
    """The metadata, with the architecture's prefix understood and types checked."""

    def __init__(self, part: _Part) -> None:
        self._values = part.values
        self.architecture = self.text("general.architecture")

    def get(self, key: str) -> Value:
        """A value of the architecture."""
        return self._values.get(f"{self.architecture}.{key}")

    def text(self, key: str) -> str:
        """A whole key's string, "" without."""
        value = self._values.get(key)
        return value if isinstance(value, str) else ""

    def integer(self, key: str, default: int = 0) -> int:
        """A non-negative integer; of a per-layer list the largest."""
        value = self.get(key)
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return value if isinstance(value, int) and value >= 0 else default

    def per_block(self, key: str, blocks: int, default: int) -> tuple[int, ...]:
        """One number for each block, from a scalar or a list."""
        value = self.get(key)
        if isinstance(value, tuple):
            numbers = tuple(max(0, int(item)) for item in value)[:blocks]
            return numbers + (max(numbers, default=default),) * (blocks - len(numbers))
        return (self.integer(key, default),) * blocks


def _info(part: _Part, tensor_bytes: int, parts: int) -> GgufInfo:
    keys = _Keys(part)
    if not keys.architecture:
        raise GgufError("it does not say which architecture the model has")
    blocks = keys.integer("block_count")
    if blocks > _KEPT_NUMBERS:
        raise GgufError(f"it claims {blocks} blocks")
    embedding, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    per_head = embedding // heads if heads else 0
    file_type = part.values.get("general.file_type")
    return GgufInfo(
        architecture=keys.architecture,
        name=keys.text("general.name"),
        size_label=keys.text("general.size_label"),
        quantisation=_FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        context_length=keys.integer("context_length"),
        block_count=blocks,
        embedding_length=embedding,
        head_count=heads,
        head_count_kv=keys.per_block("attention.head_count_kv", blocks, heads),
        key_length=keys.integer("attention.key_length", per_head),
        value_length=keys.integer("attention.value_length", per_head),
        sliding_window=keys.integer("attention.sliding_window"),
        sliding_layers=_sliding_layers(keys.get("attention.sliding_window_pattern"), blocks),
        recurrent_bytes=_recurrent_bytes(keys, blocks, embedding),
        causal=keys.get("attention.causal") is not False,
        pooling_type=keys.integer("pooling_type"),
        vocabulary_size=part.lengths.get("tokenizer.ggml.tokens", 0) or keys.integer("vocab_size"),
        has_chat_template=bool(keys.text("tokenizer.chat_template")),
        tensor_bytes=tensor_bytes,
        parts=parts,
    )


def _sliding_layers(pattern: Value, blocks: int) -> tuple[bool, ...]:
    """Which blocks see only the window: a flag each, or "every n-th block sees all"."""
    if isinstance(pattern, tuple) and len(pattern) >= blocks:
        return tuple(bool(flag) for flag in pattern[:blocks])
    if isinstance(pattern, int) and pattern > 1:
        return tuple((block + 1) % pattern != 0 for block in range(blocks))
    return ()


def _recurrent_bytes(keys: _Keys, blocks: int, embedding: int) -> int:
    """Float32 states of Mamba-like and RWKV blocks. Source: llama-hparams.cpp, n_embd_r and n_embd_s."""
    inner, state = keys.integer("ssm.inner_size"), keys.integer("ssm.state_size")
    groups, kernel = keys.integer("ssm.group_count"), keys.integer("ssm.conv_kernel")
    mamba = max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner
    rwkv = embedding * (keys.integer("wkv.head_size") + 2) if keys.integer("wkv.head_size") else 0
    return blocks * 4 * max(mamba, rwkv)


_CELLS = 256  # llama.cpp rounds every sequence's cache up to this many tokens
_MICRO_BATCH = 512  # llama.cpp's n_ubatch: tokens computed at once
# Calibrated with SmolLM2-135M Q4_1, its cache filled, one and four slots, 512 to 8,192 tokens: the rest beyond tensors
# and cache was 75–85 MiB, of which 30 MiB are there before a model is loaded and 17 MiB come with the first prompt.
_BASE_BYTES = 48 << 20
_VOCABULARY_ENTRY_BYTES = 256  # a token's text, its score and type, and its places in two hash tables
_ACTIVATIONS_PER_WIDTH = 64  # bytes per token of a micro batch and unit of the model's width: 16 buffers of float32


def kv_cache_bytes(info: GgufInfo, context_tokens: int, slots: int, bytes_per_element: int = 2) -> int:
    """The cache of keys and values, with the states of recurrent blocks, for `slots` sequences of `context_tokens`.

    Blocks with a sliding window count with that window only where the file says which blocks they are; else with the
    whole context, as an upper bound.
    """
    if not info.causal:
        return 0
    whole = -(-context_tokens // _CELLS) * _CELLS
    window = min(whole, -(-(info.sliding_window + _MICRO_BATCH) // _CELLS) * _CELLS)
    sliding = info.sliding_layers if info.sliding_window else ()
    cells = sum(
        heads * (window if block < len(sliding) and sliding[block] else whole)
        for block, heads in enumerate(info.head_count_kv)
    )
    return slots * (cells * (info.key_length + info.value_length) * bytes_per_element + info.recurrent_bytes)


def working_bytes(info: GgufInfo, micro_batch: int = _MICRO_BATCH) -> int:
    """What llama.cpp needs beside tensors and cache: activations of one micro batch. On the weights' device."""
    return micro_batch * info.embedding_length * _ACTIVATIONS_PER_WIDTH


def process_bytes(info: GgufInfo) -> int:
    """What its process needs in RAM wherever the weights are: the program, its libraries, the vocabulary."""
    return _BASE_BYTES + info.vocabulary_size * _VOCABULARY_ENTRY_BYTES
