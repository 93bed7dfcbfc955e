// Keys and values of one head in one cache block, in the order in which the products of attention want them.
#pragma once
#include "kernel.h"
#include "vectors.h"

static const long SPAN = BLOCK / LANES;  // vectors that hold the scores of a block

// Columns of a LANES x LANES matrix as rows, by exchanging quarters, then quarters of these, ...
static inline void transpose(uvec* rows) {
#ifdef WIDE_VECTORS
    static const ivec low[4] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                                {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                                {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                                {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}};
#else
    static const ivec low[3] = {{0, 1, 2, 3, 8, 9, 10, 11}, {0, 1, 8, 9, 4, 5, 12, 13}, {0, 8, 2, 10, 4, 12, 6, 14}};
#endif
#pragma GCC unroll 4
    for (long level = 0, half = LANES / 2; half; level++, half /= 2)
#pragma GCC unroll 16
        for (long i = 0; i < LANES; i++) {
            if (i & half) continue;
            const uvec a = rows[i], b = rows[i + half];
            rows[i] = __builtin_shuffle(a, b, low[level]);
            rows[i + half] = __builtin_shuffle(a, b, low[level] + static_cast<int32_t>(half));
        }
}

// The widths of a head are multiples of 16 up to WIDEST.
template <typename T>
struct Block {
    static constexpr long PAIRS = BLOCK / PER_UNIT<T>;  // units of positions, of the values
    const long units, groups;                           // units of a key; vectors of a value
    uvec keys[SPAN * WIDEST / PER_UNIT<T>];             // [units][SPAN], each a unit of LANES positions
    uvec values[PAIRS * WIDEST / LANES];                // [PAIRS][groups], each a unit of positions for LANES numbers

    Block(long key_width, long value_width) : units(key_width / PER_UNIT<T>), groups(value_width / LANES) {}

    // `next` is the block that is wanted after this one: the memory is told in time.
    void read_keys(const T* k, const T* next) {
        for (long s = 0; s < SPAN; s++, k += LANES * units * PER_UNIT<T>, next += LANES * units * PER_UNIT<T>) {
            long u = 0;
            for (; u + LANES <= units; u += LANES) read_units<LANES>(k, next, u, s);
            if (u < units) read_units<LANES / 2>(k, next, u, s);
        }
    }
    // Positions outside [first, end) of the block may hold anything, NaN too: they are left out.
    void read_values(const T* v, const T* next, long first, long end) {
        if (groups % 4) return read_groups<1>(v, next, first, end);
        read_groups<4>(v, next, first, end);
    }

  private:
    // N units of LANES keys, from number u on.
    template <long N>
    inline void read_units(const T* k, const T* next, long u, long s) {
        uvec rows[LANES];
        const T *upper = k + u * PER_UNIT<T>, *lower = upper + LANES / 2 * units * PER_UNIT<T>;
        next += u * LANES * PER_UNIT<T>;
#pragma GCC unroll 8
        for (long p = 0; p < LANES / 2; p++) {  // in the order in which they are exchanged
            rows[p] = read<N>(upper);
            rows[p + LANES / 2] = read<N>(lower);
            upper += units * PER_UNIT<T>, lower += units * PER_UNIT<T>;
            asm("" : "+r"(upper), "+r"(lower));  // two pointers that move on: there are no registers for 16
        }
#pragma GCC unroll 16
        for (long i = 0; i < N; i++) __builtin_prefetch(next + i * LANES * PER_UNIT<T>);
        transpose(rows);
#pragma GCC unroll 16
        for (long i = 0; i < N; i++) keys[(u + i) * SPAN + s] = rows[i];
    }
    // All values, N vectors of each at a time.
    template <long N>
    inline void read_groups(const T* v, const T* next, long first, long end) {
        const long width = groups * LANES;
        uvec* to = values;
        for (long p = 0; p < BLOCK; p += PER_UNIT<T>, v += PER_UNIT<T> * width) {
            const bool lower = first <= p && p < end, upper = PER_UNIT<T> > 1 && first <= p + 1 && p + 1 < end;
            for (long j = 0; j < width; j += N * LANES, to += N, next += N * LANES * PER_UNIT<T>)
#pragma GCC unroll 4
                for (long i = 0; i < N; i++) {
                    uvec unit{};
                    if (lower) unit = bits(v + j + i * LANES);
                    if (upper) unit |= bits(v + width + j + i * LANES) << 16;
                    to[i] = unit;
                    __builtin_prefetch(next + i * LANES * PER_UNIT<T>);
                }
        }
    }
    template <long N>
    static uvec read(const T* from) {
        uvec row{};
        std::memcpy(&row, from, N * sizeof(uint32_t));
        return row;
    }
    static uvec bits(const float* from) { return load_units(from); }
    static uvec bits(const bf16* from) { return load_halves(from); }
};
