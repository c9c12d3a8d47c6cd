"""llama.cpp's file of a sequence: cut into blocks and put together it is what it was; anything else is told, not guessed."""

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.backends.engines.llama_state import joined, parsed
from worker.core.tensor_file import unpacked

LAYERS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3)


def state(
    tokens: list[int], layers: list[tuple[int, int]], *, across: bool = False, counted: bool = True, streams: int = 1,
    more: tuple[int, ...] = (), fill: int = 0,
) -> bytes:  # fmt: skip
    """Return a state as llama.cpp writes it: keys of ``row`` bytes a cell, values of ``width`` components of two bytes."""
    cells, numbers = len(tokens), iter(range(fill, 10**9))

    def content(size: int) -> bytes:
        return bytes(next(numbers) % 251 for _ in range(size))

    payload = [-1, 1, cells, *tokens, 0] if counted else tokens
    out = struct.pack("<III", 0x67677371, 4, len(payload)) + array("i", payload).tobytes()
    out += struct.pack("<I", streams) + bytes(4 * (streams - 1)) + struct.pack("<I", cells)
    out += b"".join(struct.pack("<iIi", at, 1, streams - 1) for at in range(cells))
    out += struct.pack("<II", across, len(layers)) + array("i", more).tobytes()
    for row, _ in layers:
        out += struct.pack("<iQ", 1, row) + content(row * cells)
    for _, width in layers:
        out += struct.pack("<iII", 1, 2, width) if across else struct.pack("<iQ", 1, 2 * width)
        out += content(2 * width * cells)
    return out


@settings(max_examples=60)
@given(
    tokens=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=24), layers=LAYERS, across=st.booleans(),
    counted=st.booleans(), more=st.sampled_from([(), (0, 0), (7,)]), streams=st.integers(1, 3), block=st.integers(1, 5),
)  # fmt: skip
def test_blocks_put_together_are_the_state_that_they_were_cut_from(
    tokens: list[int], layers: list[tuple[int, int]], across: bool, counted: bool, more: tuple[int, ...],
    streams: int, block: int,
) -> None:  # fmt: skip
    """Of all tokens, or of fewer from the beginning; whichever stream the sequence was in."""
    whole = parsed(state(tokens, layers, across=across, counted=counted, more=more, streams=streams))
    assert (list(whole.tokens), tuple(whole.layout.more)) == (tokens, more)
    ends = [*range(block, len(tokens), block), len(tokens)]
    blocks = [whole.block(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    again = parsed(b"".join(joined(blocks, tokens)))
    assert again.layout == whole.layout
    assert again.block(0, len(tokens)) == whole.block(0, len(tokens))
    shorter = parsed(b"".join(joined(blocks[:1], tokens[: ends[0]])))
    assert shorter.block(0, ends[0]) == blocks[0]


@settings(max_examples=60)
@given(data=st.data())
def test_what_is_cut_short_or_longer_is_told(data: st.DataObject) -> None:
    """Whatever is missing, and whatever else is there: it is another kind of cache."""
    whole = state(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6)), data.draw(LAYERS))
    for wrong in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\0"):
        with pytest.raises(ValueError, match=r"."):
            parsed(wrong)


@settings(max_examples=100)
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_state_raises_nothing_else(at: int, value: int) -> None:
    """ValueError, or a state of the same size."""
    damaged = bytearray(state([1, 2, 3], [(4, 2), (4, 2)]))
    damaged[at % len(damaged)] = value
    try:
        found = parsed(damaged)
    except ValueError:
        return
    assert len(found.tokens) == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (state([5, 6], [(4, 2)]).replace(struct.pack("<iIi", 1, 1, 0), struct.pack("<iIi", 7, 1, 0)), "in their order"),
        (state([5, 6], [(4, 2)]).replace(struct.pack("<iIi", 1, 1, 0), struct.pack("<iIi", 1, 2, 0)), "in their order"),
        (state([5, -1, 6], [(4, 2)]), "no tokens"),
        (state([5, 6], [(4, 2)]).replace(array("i", [-1, 1, 2, 5, 6, 0]).tobytes(), array("i", [-1, 1, 2, 5, 6, 3]).tobytes()), "media"),
    ],
)  # fmt: skip
def test_other_caches_are_told_by_what_they_are(data: bytes, said: str) -> None:
    """Windows and shifted positions, media among the tokens."""
    with pytest.raises(ValueError, match=said):
        parsed(data)


def test_blocks_of_other_tokens_or_another_cache_make_no_state() -> None:
    """They are refused before llama.cpp sees them."""
    one, other = parsed(state([1, 2], [(4, 2)])), parsed(state([3, 4], [(4, 2)], across=True))
    with pytest.raises(ValueError, match="other tokens"):
        list(joined([one.block(0, 2)], [1, 9]))
    with pytest.raises(ValueError, match=r"unpack|many"):
        list(joined([one.block(0, 2), other.block(0, 2)], [1, 2, 3, 4]))
    with pytest.raises(ValueError, match="header"):
        list(joined([b"{}"], [1]))
    parts, said = unpacked(one.block(1, 2))
    assert (parts["k.0"].shape, parts["v.0"].shape, list(said)) == ((1, 4), (1, 4), ["layout"])
