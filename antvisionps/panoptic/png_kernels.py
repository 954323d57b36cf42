"""The inner loops of `png.py`, compiled: a map's runs become the rows of a PNG, filtered and deflated.

Neither the map nor its rows are ever written out. Two walks along the runs, one a row behind the other, tell where a
pixel differs from the one above, and so what the filtered rows hold; all else in them is 0. Formats: RFC 1950 (zlib),
RFC 1951 (deflate), https://www.w3.org/TR/png-3/ (rows).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from antvisionps.fusion.compiled import compiled, filled, frozen, inlined

FILTER_UP = 2
CHANNELS = 3

# A symbol is a byte, or MATCH plus the length of a match, plus MATCH_PIXEL where it repeats not the byte but the pixel
# before it.
MATCH, MATCH_PIXEL = 256, 1024
SHORTEST_MATCH, LONGEST_MATCH = 3, 258

# What fits, for nothing here looks whether it does. An interval between two ends of runs, of a row or the row above it,
# puts at most 9 symbols: 4 for the zeros before it, a filter byte, three bytes, a last match. Besides these there is a
# symbol for each 258 bytes of rows. It has at most 15 + 5 + 1 bits. The rest is zlib's 6 bytes, the lengths of the
# codes, below 200, and 3 bytes that are written ahead.
SYMBOLS_OF_INTERVAL, BYTES_OF_SYMBOL, BYTES_BESIDE = 12, 3, 512

END_OF_BLOCK, LITERALS_AND_LENGTHS, LONGEST_CODE = 256, 286, 15
LENGTH_EXTRAS = np.array([0] * 8 + [bits for bits in range(1, 6) for _ in range(4)])
"""Bits that follow each symbol of a length, from that of 3 on; the longest has a symbol of its own, without any."""

FIRST_LENGTHS = SHORTEST_MATCH + np.append(0, np.cumsum(2**LENGTH_EXTRAS))[:-1]
SYMBOL_OF_LENGTH = np.searchsorted(FIRST_LENGTHS, np.arange(LONGEST_MATCH + 1), side="right") - 1 + END_OF_BLOCK + 1
SYMBOL_OF_LENGTH[LONGEST_MATCH] = LITERALS_AND_LENGTHS - 1

# Of distances the first, 1 byte, and the third, 3 bytes, get a code of one bit each.
DISTANCES = 3

# The code lengths themselves are written in a code of this fixed one, which suits a few dozen symbols out of all.
ZERO, SOME_ZEROS, MANY_ZEROS = 0, 17, 18
LENGTHS_OF_LENGTH_CODES = np.array([3, 5, 5, 5, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 0, 3, 3])
ORDER_OF_LENGTH_CODES = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])

ADLER_MODULUS = 65521


# From runs to symbols


@inlined
def _put_symbol(symbol: Any, symbols: Any, count: Any) -> Any:
    symbols[count] = symbol
    return count + 1


@inlined
def _put_matches(size: Any, kind: Any, symbols: Any, count: Any) -> Any:
    """Symbols for what repeats over `size` bytes; returns their number with that, and the bytes left over, below 3."""
    while size >= SHORTEST_MATCH:
        length = min(size, LONGEST_MATCH)
        count = _put_symbol(kind + length, symbols, count)
        size -= length
    return count, size


@inlined
def _put_zeros(zeros: Any, last: Any, symbols: Any, count: Any) -> Any:
    """Number of symbols with those of some zeros behind the byte `last`."""
    if zeros and last:
        count = _put_symbol(0, symbols, count)
        zeros -= 1
    count, zeros = _put_matches(zeros, MATCH, symbols, count)
    for _ in range(zeros):
        count = _put_symbol(0, symbols, count)
    return count


@inlined
def _put_byte(byte: Any, symbols: Any, state: Any) -> Any:
    """state: number of symbols, zeros that are not among them yet, the last byte before these."""
    count, zeros, last = state
    if byte == 0:
        return count, zeros + 1, last
    count = _put_zeros(zeros, last, symbols, count)
    return _put_symbol(byte, symbols, count), 0, byte


@inlined
def _put_pixels(number: Any, above: Any, pixels: Any, symbols: Any, state: Any) -> Any:
    """The state after the differences of neighbouring pixels to those above, and the differences' sum in a pixel and
    what it is if each counts as often as there are bytes of the pixel from it on."""
    if number == above:
        count, zeros, last = state
        return (count, zeros + CHANNELS * pixels, last), 0, 0
    total, weighted, byte = 0, 0, 0
    for channel in range(CHANNELS):
        byte = ((number >> (8 * channel)) - (above >> (8 * channel))) & 255
        total, weighted = total + byte, weighted + (CHANNELS - channel) * byte
        state = _put_byte(byte, symbols, state)
    if pixels > 1:
        count, zeros, last = state
        count = _put_zeros(zeros, last, symbols, count)
        count, _ = _put_matches(CHANNELS * (pixels - 1), MATCH + MATCH_PIXEL, symbols, count)
        state = (count, 0, byte)
    return state, total, weighted


@inlined
def _find_symbols(lengths: Any, numbers: Any, width: Any, pixels: Any, symbols: Any) -> Any:
    """Number of symbols of the filtered rows, and their Adler-32: the sum of 1 and all bytes, and above it the sum of
    these sums, to which a byte adds as often as there are bytes from it on."""
    left = pixels // width * (1 + CHANNELS * width)
    low, high = 1, left % ADLER_MODULUS
    state = (0, 0, 0)
    run, run_stop = 0, lengths[0] + 0
    run_above, above, above_stop = -1, 0, width
    start, row_stop = 0, 0
    while start < pixels:
        if start == row_stop:
            row_stop += width
            state = _put_byte(FILTER_UP, symbols, state)
            low, high = (low + FILTER_UP) % ADLER_MODULUS, (high + FILTER_UP * left) % ADLER_MODULUS
            left -= 1
        stop = min(run_stop, above_stop, row_stop)
        between = stop - start
        state, total, weighted = _put_pixels(int(numbers[run]), above, between, symbols, state)
        low += total * between
        # The last pixel's bytes count `weighted`, and each pixel before it `total` for each byte in between.
        behind = left - CHANNELS * between
        high += weighted * between + total * (behind * between + CHANNELS * (between * (between - 1) // 2))
        left = behind
        if stop == run_stop and stop < pixels:
            run += 1
            run_stop += lengths[run]
        if stop == above_stop:
            run_above += 1
            above = int(numbers[run_above])
            above_stop += lengths[run_above]
        start = stop
    count, zeros, last = state
    count = _put_zeros(zeros, last, symbols, count)
    return count, (high % ADLER_MODULUS) << 16 | low % ADLER_MODULUS


# From symbols to codes


@inlined
def _sort_used(frequencies: Any, order: Any) -> Any:
    """Number of symbols that occur, with which order begins, the rarest first, of equal ones the first."""
    used = 0
    for symbol in range(len(frequencies)):
        if frequencies[symbol]:
            place = used
            while place and frequencies[order[place - 1]] > frequencies[symbol]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = symbol
            used += 1
    return used


@inlined
def _find_code_lengths(frequencies: Any, order: Any, weights: Any, parents: Any, code_lengths: Any) -> Any:
    """Fills code_lengths (symbols,) with those of the shortest code (Huffman 1952) of two symbols or more; returns the
    longest, which may be above LONGEST_CODE."""
    used = _sort_used(frequencies, order)
    for place in range(used):
        weights[place] = frequencies[order[place]]
    # Leaves come first, then what joins two, which comes in the order of its weight by itself.
    leaf, joint = 0, used
    for node in range(used, 2 * used - 1):
        weights[node] = 0
        for _ in range(2):
            if leaf < used and (joint == node or weights[leaf] <= weights[joint]):
                child = leaf
                leaf += 1
            else:
                child = joint
                joint += 1
            parents[child] = node
            weights[node] += weights[child]
    depths, longest = weights, 0
    depths[2 * used - 2] = 0
    code_lengths[:] = 0
    for node in range(2 * used - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
        if node < used:
            code_lengths[order[node]] = depths[node]
            longest = max(longest, depths[node])
    return longest


@inlined
def _find_codes(code_lengths: Any, codes: Any) -> None:
    """The canonical code of each symbol (RFC 1951, section 3.2.2), its first bit the lowest."""
    code = 0
    for length in range(1, LONGEST_CODE + 1):
        for symbol in range(len(codes)):
            if code_lengths[symbol] == length:
                codes[symbol] = 0
                for bit in range(length):
                    codes[symbol] |= ((code >> bit) & 1) << (length - 1 - bit)
                code += 1
        code <<= 1


# From codes to bytes


@inlined
def _put_bits(value: Any, bits: Any, out: Any, written: Any) -> Any:
    """written: number of bytes in out, bits that do not fill one yet, their number. At most 25 bits at once, so that
    all fit into four bytes, which are written whether they are full or not: there is no branch to be guessed wrong."""
    size, held, held_bits = written
    held |= value << held_bits
    held_bits += bits
    for byte in range(4):
        out[size + byte] = (held >> (8 * byte)) & 255
    whole_bytes = held_bits >> 3
    return size + whole_bytes, held >> (8 * whole_bytes), held_bits & 7


@inlined
def _put_code_lengths(code_lengths: Any, length_codes: Any, out: Any, written: Any) -> Any:
    """The head of a block with codes of its own: of literals and lengths all, of distances three."""
    is_last, codes_of_its_own = 1, 2
    written = _put_bits(is_last | codes_of_its_own << 1, 3, out, written)
    written = _put_bits(LITERALS_AND_LENGTHS - 257, 5, out, written)
    written = _put_bits(DISTANCES - 1, 5, out, written)
    written = _put_bits(len(ORDER_OF_LENGTH_CODES) - 4, 4, out, written)
    for symbol in ORDER_OF_LENGTH_CODES:
        written = _put_bits(LENGTHS_OF_LENGTH_CODES[symbol], 3, out, written)
    place = 0
    while place < LITERALS_AND_LENGTHS:
        zeros = 0
        while place + zeros < LITERALS_AND_LENGTHS and code_lengths[place + zeros] == 0 and zeros < 138:
            zeros += 1
        if zeros >= 11:
            symbol, extra, extra_bits = MANY_ZEROS, zeros - 11, 7
        elif zeros >= 3:
            symbol, extra, extra_bits = SOME_ZEROS, zeros - 3, 3
        else:
            symbol, extra, extra_bits = code_lengths[place], 0, 0
        written = _put_bits(length_codes[symbol], LENGTHS_OF_LENGTH_CODES[symbol], out, written)
        written = _put_bits(extra, extra_bits, out, written)
        place += zeros if zeros >= 3 else 1
    for length in (1, 0, 1):
        written = _put_bits(length_codes[length], LENGTHS_OF_LENGTH_CODES[length], out, written)
    return written


@inlined
def _count_symbols(symbols: Any, frequencies: Any) -> None:
    frequencies[:] = 0
    frequencies[END_OF_BLOCK] = 1
    for place in range(len(symbols)):
        symbol = symbols[place]
        if symbol >= MATCH:
            symbol = SYMBOL_OF_LENGTH[(symbol & (MATCH_PIXEL - 1)) - MATCH]
        frequencies[symbol] += 1


@inlined
def _put_symbols(symbols: Any, codes: Any, code_lengths: Any, out: Any, written: Any) -> Any:
    for place in range(len(symbols)):
        symbol = int(symbols[place])
        if symbol < MATCH:
            written = _put_bits(codes[symbol], code_lengths[symbol], out, written)
            continue
        length = (symbol & (MATCH_PIXEL - 1)) - MATCH
        of_length = SYMBOL_OF_LENGTH[length]
        value, bits = codes[of_length], code_lengths[of_length]
        if length < LONGEST_MATCH:
            kind = of_length - END_OF_BLOCK - 1
            value |= (length - FIRST_LENGTHS[kind]) << bits
            bits += LENGTH_EXTRAS[kind]
        is_pixel = symbol >= MATCH_PIXEL
        written = _put_bits(value | is_pixel << bits, bits + 1, out, written)
    return _put_bits(codes[END_OF_BLOCK], code_lengths[END_OF_BLOCK], out, written)


@inlined
def _deflate(lengths: Any, numbers: Any, width: Any, pixels: Any, symbols: Any, tables: Any, out: Any) -> Any:
    frequencies, order, weights, parents, code_lengths, codes, length_codes = tables
    count, adler = _find_symbols(lengths, numbers, width, pixels, symbols)
    symbols = symbols[:count]
    _count_symbols(symbols, frequencies)
    while _find_code_lengths(frequencies, order, weights, parents, code_lengths) > LONGEST_CODE:
        for symbol in range(len(frequencies)):
            frequencies[symbol] = (frequencies[symbol] + 1) >> 1
    _find_codes(code_lengths, codes)
    _find_codes(LENGTHS_OF_LENGTH_CODES, length_codes)
    out[0], out[1] = 0x78, 0x01
    written = _put_code_lengths(code_lengths, length_codes, out, (2, 0, 0))
    written = _put_symbols(symbols, codes, code_lengths, out, written)
    size, _, _ = _put_bits(0, 7, out, written)
    for byte in range(4):
        out[size + byte] = (adler >> (24 - 8 * byte)) & 255
    return size + 4


@compiled(types.int64(frozen("int32", 1), frozen("int32", 1), types.int64, types.int64, filled("uint8", 1)))
def deflate_map(lengths: Any, numbers: Any, width: Any, pixels: Any, out: Any) -> int:
    """Number of bytes with which out begins: the zlib stream of a PNG's rows.

    lengths (runs,) above 0 are those of a map's runs in raster order, `pixels` together, some rows of `width`; numbers
    (runs,) are R + 256 G + 256² B of each. out has `largest_deflated` bytes.
    """
    symbols = np.empty(len(out) // BYTES_OF_SYMBOL, np.int16)
    tables = (
        *(np.empty(LITERALS_AND_LENGTHS, np.int64), np.empty(LITERALS_AND_LENGTHS, np.int64)),
        *(np.empty(2 * LITERALS_AND_LENGTHS, np.int64), np.empty(2 * LITERALS_AND_LENGTHS, np.int64)),
        *(np.empty(LITERALS_AND_LENGTHS, np.int64), np.empty(LITERALS_AND_LENGTHS, np.int64)),
        np.empty(len(LENGTHS_OF_LENGTH_CODES), np.int64),
    )
    return _deflate(lengths, numbers, width, pixels, symbols, tables, out)


def largest_deflated(*, runs: int, height: int, width: int) -> int:
    """Bytes that `deflate_map` writes at most."""
    intervals = 2 * runs + height + 1
    matches = height * (1 + CHANNELS * width) // (LONGEST_MATCH // 2)
    return BYTES_BESIDE + BYTES_OF_SYMBOL * (SYMBOLS_OF_INTERVAL * intervals + matches)
