// Matrix products of a few or many rows with a weight kept in panels: by vectors, or, of bfloat16, by tiles where the
// processor has them.
#include "linear.h"
#include "tiled.h"

#ifdef __AVX512F__
static const long TILE = 12;  // rows whose sums stay in registers
#else
static const long TILE = 3;
#endif
static const long WIDEN_ONCE = 4 * TILE;  // rows from which a panel of small numbers is widened before its products

// Sums of R rows of x with one panel.
template <typename T, typename W, long R>
static inline void multiply(const T* x, const W* panel, long inner, Ahead ahead, vec sums[R][WIDTH]) {
    constexpr long CHAINS = R == 1 ? 4 : R <= 3 ? 2 : 1;  // sums in flight hide the latency of the additions
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

// All rows with panel p; small numbers are widened once for many rows.
template <typename T, typename W, typename O>
static void panel_vectors(const Linear<T, W, O>& a, long p) {
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

template <typename T, typename W, typename O>
static void linear_vectors(const Linear<T, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL;
#pragma omp for schedule(dynamic, 2)
    for (long p = 0; p < panels; p++) panel_vectors(a, p);
}

// What becomes of tiles; build.py knows the numbers.
enum Tiles : int64_t { USED, OFF, REFUSED, ABSENT };
#ifdef TILES
static Tiles use = tiles_permitted() ? USED : REFUSED;  // asked when the library is loaded, for all threads
#else
static Tiles use = ABSENT;
#endif

extern "C" int64_t tiles() { return use; }
// Not while kernels run.
extern "C" void use_tiles(int64_t on) {
    if (use <= OFF) use = on ? USED : OFF;
}

template <typename T, typename W, typename O>
static void linear(const Linear<T, W, O>& a) {
#ifdef TILES
    if constexpr (sizeof(T) == sizeof(bf16))
        if (use == USED) return linear_tiles(a);
#endif
    linear_vectors(a);
}

#define GROUPED(member) \
    member(const int64_t*, starts) member(const int64_t*, active) /* as in Route (experts.cpp) */ LINEAR(member)

// Products of rows that are sorted by expert, each with its expert's weights: there are as many as experts of all.
template <typename T, typename W, typename O>
struct Grouped {
    MEMBERS(GROUPED)

    Linear<T, W, O> of(long expert) const {
        const long first = starts[expert], padded = (outer + PANEL - 1) / PANEL * PANEL;
        return {x + first * inner, weight + expert * padded * inner, scale ? scale + expert * outer : nullptr,
                bias ? bias + expert * outer : nullptr, out + first * outer, starts[expert + 1] - first, inner, outer};
    }
};

template <typename T, typename W, typename O>
static void grouped(const Grouped<T, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL;
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < a.active[0] * panels; task++) {
        const Linear<T, W, O> one = a.of(a.active[1 + task / panels]);
#ifdef TILES
        if constexpr (sizeof(T) == sizeof(bf16))
            if (use == USED) {
                shape_for(one.rows);
                parts_with(one, task % panels, 0, (one.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
                continue;
            }
#endif
        panel_vectors(one, task % panels);
    }
#ifdef TILES
    if (use == USED) tile_release();
#endif
}

// Named by what x, the weight and the result are.
KERNEL(linear, float32_float32_float32, Linear<float, float, float>)
KERNEL(linear, bfloat16_bfloat16_bfloat16, Linear<bf16, bf16, bf16>)
KERNEL(linear, bfloat16_bfloat16_float32, Linear<bf16, bf16, float>)
KERNEL(linear, float32_int8_float32, Linear<float, int8_t, float>)
KERNEL(linear, bfloat16_int8_bfloat16, Linear<bf16, int8_t, bf16>)
KERNEL(grouped, float32_float32_float32, Grouped<float, float, float>)
KERNEL(grouped, float32_int8_float32, Grouped<float, int8_t, float>)
KERNEL(grouped, bfloat16_bfloat16_bfloat16, Grouped<bf16, bf16, bf16>)
KERNEL(grouped, bfloat16_int8_bfloat16, Grouped<bf16, int8_t, bf16>)
