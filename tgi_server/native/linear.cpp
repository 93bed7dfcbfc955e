// Matrix products of a few or many rows with a weight kept in panels (see pack in kernels.py).
#include <vector>

#include "vectors.h"

typedef int8_t bytes __attribute__((vector_size(16)));

static inline vec widened(const int8_t* from) {
    bytes x;
    std::memcpy(&x, from, sizeof x);
#ifdef __AVX512F__
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)x));
#else
    return __builtin_convertvector(__builtin_convertvector(x, ivec), vec);
#endif
}

// One vector of units from weights stored as T, or as whole numbers up to 127, which T holds exactly.
template <typename T>
static inline uvec units(const T* from) {
    return load_units(from);
}
template <typename T>
static inline uvec units(const int8_t* from);
template <>
inline uvec units<float>(const int8_t* from) {
    return (uvec)widened(from);
}
template <>
inline uvec units<bf16>(const int8_t* from) {
#ifdef __AVX512BF16__
    return (uvec)_mm512_cvtne2ps_pbh((__m512)widened(from + LANES), (__m512)widened(from));
#else
    bf16 both[2 * LANES];
    store(widened(from), both);
    store(widened(from + LANES), both + LANES);
    return load_units(both);
#endif
}

static const long WIDTH = 2;              // vectors of outputs in a panel
static const long PANEL = WIDTH * LANES;  // outputs in a panel: their weights lie side by side, unit by unit
#ifdef __AVX512F__
static const long TILE = 12;  // rows whose sums stay in registers
#else
static const long TILE = 3;
#endif
static const long WIDEN_ONCE = 4 * TILE;  // rows from which a panel of small numbers is widened before its products

// What to fetch from memory during a tile, as the next panel is far away: `bytes` from `from` on for each unit.
struct Ahead {
    const char* from;
    long bytes;
};

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

template <typename T, typename W, typename O>
struct Linear {
    const T* x;
    const W* weight;
    const float *scale, *bias;  // one for each output, or none
    O* out;
    int64_t rows, inner, outer;
};

template <typename T, typename W, typename O, long R>
static void tile(const Linear<T, W, O>& a, long row, const W* panel, long first, Ahead ahead) {
    vec sums[R][WIDTH];
    multiply<T, W, R>(a.x + row * a.inner, panel, a.inner, ahead, sums);
    for (long v = 0; v < WIDTH; v++) {
        const long at = first + v * LANES, left = a.outer - at;
        if (left <= 0) return;
        const vec scale = a.scale ? load(a.scale + at, left) : vec{} + 1.0f;
        const vec bias = a.bias ? load(a.bias + at, left) : vec{};
        for (long r = 0; r < R; r++) store(sums[r][v] * scale + bias, a.out + (row + r) * a.outer + at, left);
    }
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
    const long tiles = (a.rows + TILE - 1) / TILE, size = a.inner * PANEL * sizeof(W);  // the next panel follows
    for (long t = 0; t < tiles; t++) {
        const long begin = a.rows * t / tiles, end = a.rows * (t + 1) / tiles;
        const Ahead ahead{reinterpret_cast<const char*>(panel) + size + size * t / tiles,
                          PANEL * PER_UNIT<T> * static_cast<long>(sizeof(W)) / tiles};
        tile_of<T, W, O, TILE>(end - begin, a, begin, panel, first, ahead);
    }
}

template <typename T>
static const T* widen(const int8_t* panel, long count) {
    static thread_local std::vector<T> wide;
    if (wide.size() < static_cast<size_t>(count)) wide.resize(count);
    for (long i = 0; i < count; i += LANES * PER_UNIT<T>) {
        const uvec u = units<T>(panel + i);
        std::memcpy(wide.data() + i, &u, sizeof u);
    }
    return wide.data();
}

// out = x @ weight.T * scale + bias
template <typename T, typename W, typename O>
static void linear(const Linear<T, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL, size = a.inner * PANEL;
#pragma omp for schedule(dynamic, 2)
    for (long p = 0; p < panels; p++) {
        const W* panel = a.weight + p * size;
        if constexpr (sizeof(W) != sizeof(T)) {
            if (a.rows > WIDEN_ONCE) {
                const Linear<T, T, O> same{a.x, nullptr, a.scale, a.bias, a.out, a.rows, a.inner, a.outer};
                all_rows(same, widen<T>(panel, size), p * PANEL);
                continue;
            }
        }
        all_rows(a, panel, p * PANEL);
    }
}

// Named by what x, the weight and the result are.
#define LINEAR(T, W, O, type) KERNEL(linear, Linear<T COMMA W COMMA O>, type)
#define COMMA ,
LINEAR(float, float, float, float32_float32_float32)
LINEAR(bf16, bf16, bf16, bfloat16_bfloat16_bfloat16)
LINEAR(bf16, bf16, float, bfloat16_bfloat16_float32)
LINEAR(float, int8_t, float, float32_int8_float32)
LINEAR(bf16, int8_t, bf16, bfloat16_int8_bfloat16)
