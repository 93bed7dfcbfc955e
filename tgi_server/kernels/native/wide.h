// Products by vectors where there are 32 registers of 64 bytes.
#pragma once
#include "linear.h"

static const long TILE = 12;  // rows whose sums stay in registers
static const long MOST_ROWS = 1L << 40;  // that a panel meets before the next one
static const long WIDEN_ONCE = 4 * TILE;  // rows from which a panel of small numbers is widened before its products

// Sums of R rows of x with one panel.
template <typename T, typename W, long R>
static inline void multiply(const T* x, const W* panel, long inner, Ahead ahead, vec sums[R][WIDTH]) {
    // Sums in flight hide the latency of the additions; floats are added up in one order however many rows there are.
    constexpr long CHAINS = sizeof(T) == sizeof(float) ? 1 : R == 1 ? 4 : R <= 3 ? 2 : 1;
    constexpr long P = PER_UNIT<T>;
    vec part[CHAINS][R][WIDTH] = {};
    const long count = inner / P, whole = count / CHAINS * CHAINS;
    auto step = [&](long u, vec(&into)[R][WIDTH]) __attribute__((always_inline)) {
        __builtin_prefetch(ahead.from + u * ahead.bytes);
        __builtin_prefetch(ahead.from + u * ahead.bytes + ahead.bytes / 2);
        uvec w[WIDTH];
#pragma GCC unroll 2
        for (long v = 0; v < WIDTH; v++) w[v] = units<T>(panel + (u * WIDTH + v) * LANES * P);
#pragma GCC unroll 12
        for (long r = 0; r < R; r++) {
            const uint32_t unit = load_unit(x + r * inner + u * P);
#pragma GCC unroll 2
            for (long v = 0; v < WIDTH; v++) into[r][v] = multiply_add<T>(into[r][v], w[v], unit);
        }
    };
    for (long u = 0; u < whole; u += CHAINS)
#pragma GCC unroll 4
        for (long c = 0; c < CHAINS; c++) step(u + c, part[c]);
    for (long u = whole; u < count; u++) step(u, part[0]);
    for (long r = 0; r < R; r++)
        for (long v = 0; v < WIDTH; v++) {
            sums[r][v] = part[0][r][v];
            for (long c = 1; c < CHAINS; c++) sums[r][v] += part[c][r][v];
        }
}

template <typename T, typename W, typename O, long R>
static void tile(const Linear<T, W, O>& a, long row, const W* panel, long first, Ahead ahead) {
    vec sums[R][WIDTH];
    multiply<T, W, R>(a.x + row * a.inner, panel, a.inner, ahead, sums);
    finish(a, sums, row, R, first);
}

// The tile of R rows or fewer: one kernel for each number of rows.
template <typename T, typename W, typename O, long R>
static void tile_of(long rows, const Linear<T, W, O>& a, long row, const W* panel, long first, Ahead ahead) {
    if (rows == R) return tile<T, W, O, R>(a, row, panel, first, ahead);
    if constexpr (R > 1) tile_of<T, W, O, R - 1>(rows, a, row, panel, first, ahead);
}

// All rows with one panel, in tiles whose sizes differ by one at most.
template <typename T, typename W, typename O>
static void all_rows(const Linear<T, W, O>& a, const W* panel, long first) {
    const long tiles = (a.rows + TILE - 1) / TILE;
    for (long t = 0; t < tiles; t++) {
        const long begin = a.rows * t / tiles, end = a.rows * (t + 1) / tiles;
        tile_of<T, W, O, TILE>(end - begin, a, begin, panel, first, ahead_of<T>(panel, a.inner, t, tiles));
    }
}

template <typename T>
struct Products {
    // All rows with panel p; small numbers are widened once for many rows.
    template <typename W, typename O>
    void with(const Linear<T, W, O>& a, long p) const {
        const long size = a.inner * PANEL;
        const W* panel = a.weight + p * size;
        if constexpr (sizeof(W) != sizeof(T)) {
            if (a.rows > WIDEN_ONCE) {
                const Linear<T, T, O> same{a.x, nullptr, a.scale, a.bias, a.out, a.rows, a.inner, a.outer};
                return all_rows(same, widen<T>(panel, size), p * PANEL);
            }
        }
        all_rows(a, panel, p * PANEL);
    }
};
