// Products with bfloat16 by tile registers: a panel is what they load, rows of 16 outputs' units, 128 bytes apart.
#pragma once
#include "linear.h"
#include "tiles.h"

#ifdef TILES
static const long DEEP = TILE_BYTES / sizeof(bf16);  // inputs in a row of a tile
static const long ROWS_AT_ONCE = 2 * TILE_ROWS;      // rows that go through the registers together

// Bytes of inputs that all panels meet before the next ones: half the second cache of any processor with tiles.
static const long NEAR = 1 << 20;

// Registers 0 to 3 hold sums (upper rows, then lower ones, by 16 outputs each), 4 and 5 inputs, 6 and 7 weights.
static inline void shape_for(long rows) {
    TileShapes shapes;
    const long upper = std::clamp(rows, 1L, TILE_ROWS), lower = std::clamp(rows - TILE_ROWS, 1L, TILE_ROWS);
    for (long tile : {0, 1, 4}) shapes.set(tile, upper);
    for (long tile : {2, 3, 5}) shapes.set(tile, lower);
    for (long tile : {6, 7}) shapes.set(tile, TILE_ROWS);
    tile_shapes(shapes);
}

// The weights of DEEP inputs from k on: where they are, or written to `space`, widened or with zeros after the last.
template <typename W>
static inline const void* deep_weights(const W* panel, long k, long inner, bf16* space) {
    const long count = std::min(DEEP, inner - k) / 2 * WIDTH;  // vectors of units
    panel += k * PANEL;
    if (sizeof(W) == sizeof(bf16) && k + DEEP <= inner) return panel;
    for (long i = 0; i < count; i++) {
        const uvec u = units<bf16>(panel + i * 2 * LANES);
        std::memcpy(space + i * 2 * LANES, &u, sizeof u);
    }
    std::memset(space + count * 2 * LANES, 0, (DEEP * PANEL - count * 2 * LANES) * sizeof(bf16));
    return space;
}

// The last inputs of each row, fewer than DEEP, with zeros after them.
static inline const bf16* padded(const bf16* x, long inner, long rows, bf16* space) {
    const long count = inner % DEEP;
    std::memset(space, 0, ROWS_AT_ONCE * TILE_BYTES);
    for (long r = 0; r < rows; r++) std::memcpy(space + r * DEEP, x + (r + 1) * inner - count, count * sizeof(bf16));
    return space;
}

// Sums [ROWS_AT_ONCE][PANEL] of up to ROWS_AT_ONCE rows with one panel.
template <typename W>
static inline void multiply_tiles(const bf16* x, const W* panel, long inner, long rows, Ahead ahead,
                                  vec (*sums)[WIDTH]) {
    alignas(64) bf16 weights[2][DEEP * PANEL], inputs[ROWS_AT_ONCE * DEEP];  // two: one is written while one is read
    tile_zero(0); tile_zero(1); tile_zero(2); tile_zero(3);
    for (long k = 0; k < inner; k += DEEP) {
        for (long i = 0; i < DEEP / 2 * ahead.bytes; i += 64)
            __builtin_prefetch(ahead.from + k / 2 * ahead.bytes + i, 0, 2);
        const void* w = deep_weights(panel, k, inner, weights[k / DEEP % 2]);
        const bool whole = k + DEEP <= inner;
        const bf16* in = whole ? x + k : padded(x, inner, rows, inputs);
        const long stride = whole ? inner : DEEP;
        tile_load(6, w, PANEL * 4);
        tile_load(7, static_cast<const char*>(w) + TILE_BYTES, PANEL * 4);
        tile_load(4, in, stride * sizeof(bf16));
        tile_multiply_add(0, 4, 6);
        tile_multiply_add(1, 4, 7);
        if (rows <= TILE_ROWS) continue;
        tile_load(5, in + TILE_ROWS * stride, stride * sizeof(bf16));
        tile_multiply_add(2, 5, 6);
        tile_multiply_add(3, 5, 7);
    }
    tile_store(0, sums[0], sizeof sums[0]);
    tile_store(1, &sums[0][WIDTH / 2], sizeof sums[0]);
    tile_store(2, sums[TILE_ROWS], sizeof sums[0]);
    tile_store(3, &sums[TILE_ROWS][WIDTH / 2], sizeof sums[0]);
}

// Rows that go through the registers together.
struct Rows {
    long first, count;
};

// Part `t` of `rows` rows. The last, smaller part is filled up with rows before it, whose results are the same again:
// so registers keep one shape, as new ones take their time.
static inline Rows rows_of(long t, long rows) {
    const long left = rows - t * ROWS_AT_ONCE, count = std::min(rows, left > TILE_ROWS ? ROWS_AT_ONCE : TILE_ROWS);
    return {std::min(t * ROWS_AT_ONCE, rows - count), count};
}

// Parts [begin, end) of the rows with panel p; small numbers are widened once for all of them.
template <typename W, typename O>
static void parts_with(const Linear<bf16, W, O>& a, long p, long begin, long end) {
    const W* panel = a.weight + p * a.inner * PANEL;
    const bf16* wide = nullptr;
    if constexpr (sizeof(W) != sizeof(bf16))
        if (end - begin > 1) wide = widen<bf16>(panel, a.inner * PANEL);
    for (long t = begin; t < end; t++) {
        const Rows rows = rows_of(t, a.rows);
        const bf16* x = a.x + rows.first * a.inner;
        const Ahead ahead = ahead_of<bf16>(panel, a.inner, t - begin, end - begin);
        vec sums[ROWS_AT_ONCE][WIDTH];
        if (wide) multiply_tiles(x, wide, a.inner, rows.count, ahead, sums);
        else multiply_tiles(x, panel, a.inner, rows.count, ahead, sums);
        finish(a, sums, rows.first, rows.count, p * PANEL);
    }
}

// All panels, each read once for as many rows as stay near; that is all of them but in a long prompt. Two parts at
// least: then one that is filled up shares its rows with a part of the same task, and no two threads write the same.
template <typename W, typename O>
static void linear_tiles(const Linear<bf16, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL, parts = (a.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const long bytes = ROWS_AT_ONCE * a.inner * sizeof(bf16), near = std::max(2L, NEAR / bytes);  // parts
    const long chunks = (parts + near - 1) / near;
    shape_for(a.rows);
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < chunks * panels; task++) {
        const long chunk = task / panels;
        parts_with(a, task % panels, parts * chunk / chunks, parts * (chunk + 1) / chunks);
    }
    tile_release();
}
#endif
