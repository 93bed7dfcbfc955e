// Products by vectors where there are 16 registers, and no instruction for bfloat16: numbers are multiplied as floats.
// The sums of a row are added up input by input, however many rows there are.
#pragma once
#include "linear.h"

static const long TILE = 6;        // rows whose sums with half a panel stay in registers,
static const long FEW = 3;         // and with a whole one
static const long WIDEN_ONCE = 8;  // rows from which weights are turned into floats before their products
static const long CHUNK = 256;     // inputs whose weights, as floats, stay in the first cache
static const long MOST_ROWS = 96;  // that a panel meets before the next one

// A unit of weights of LANES outputs as floats, a vector for each of its inputs.
static inline void numbers(const float* from, vec (&to)[1]) { to[0] = load(from); }
static inline void numbers(const int8_t* from, vec (&to)[1]) { to[0] = widened(from); }
static inline void numbers(const bf16* from, vec (&to)[2]) {
    const uvec pairs = load_units(from);
    to[0] = firsts(pairs), to[1] = seconds(pairs);
}
static inline void numbers(const int8_t* from, vec (&to)[2]) {
    const ivec pairs = (ivec)load_halves(from);
    to[0] = __builtin_convertvector(pairs << 24 >> 24, vec);
    to[1] = __builtin_convertvector(pairs << 16 >> 24, vec);
}

// Weights of V vectors of outputs: P inputs a unit, which are `line` numbers apart.
template <typename W, long P, long V>
struct Weights {
    const W* from;
    long line;
};

// Adds the products of `count` units of R rows, `stride` apart, to their sums.
template <long R, typename W, long P, long V>
static inline void multiply(const float* x, long stride, Weights<W, P, V> weights, long count, Ahead ahead,
                            vec (*sums)[WIDTH]) {
    vec part[R][V];
    for (long r = 0; r < R; r++)
        for (long v = 0; v < V; v++) part[r][v] = sums[r][v];
    for (long u = 0; u < count; u++) {
        __builtin_prefetch(ahead.from + u * ahead.bytes);
        if (V == WIDTH) __builtin_prefetch(ahead.from + u * ahead.bytes + ahead.bytes / 2);
        vec w[V][P];
#pragma GCC unroll 4
        for (long v = 0; v < V; v++) numbers(weights.from + u * weights.line + v * LANES * P, w[v]);
#pragma GCC unroll 2
        for (long p = 0; p < P; p++)
#pragma GCC unroll 6
            for (long r = 0; r < R; r++) {
                const float one = x[r * stride + u * P + p];
#pragma GCC unroll 4
                for (long v = 0; v < V; v++) part[r][v] += one * w[v][p];
            }
    }
    for (long r = 0; r < R; r++)
        for (long v = 0; v < V; v++) sums[r][v] = part[r][v];
}

// The same of R rows or fewer: one kernel for each number of rows.
template <long R, typename W, long P, long V>
static void multiply_rows(long rows, const float* x, long stride, Weights<W, P, V> weights, long count, Ahead ahead,
                          vec (*sums)[WIDTH]) {
    if (rows == R) return multiply<R>(x, stride, weights, count, ahead, sums);
    if constexpr (R > 1) multiply_rows<R - 1>(rows, x, stride, weights, count, ahead, sums);
}

template <typename T>
class Products {
  public:
    // All rows, MOST_ROWS at most, with panel p.
    template <typename W, typename O>
    void with(const Linear<T, W, O>& a, long p) {
        vec sums[MOST_ROWS][WIDTH];
        std::memset(sums, 0, a.rows * sizeof sums[0]);
        see(a.x, a.rows, a.inner);
        for (long k = 0; k < a.inner; k += CHUNK)
            add_chunk(a.weight + (p * a.inner + k) * PANEL, a.inner, k, std::min(CHUNK, a.inner - k), a.rows, sums);
        finish(a, sums, 0, a.rows, p * PANEL);
    }

  private:
    static constexpr long P = PER_UNIT<T>, HALF = WIDTH / 2;
    const T* seen = nullptr;  // rows, and the same as floats
    const float* x = nullptr;
    long stride = 0;

    // Takes other rows. They do not lie at distances of which two are kept in the same few places of a cache.
    void see(const T* from, long rows, long inner) {
        if (from == seen) return;
        seen = from;
        if constexpr (sizeof(T) == sizeof(float)) {
            x = from, stride = inner;
        } else {
            stride = (inner / LANES + 3) * LANES;
            float* to = own_memory<float>(rows * stride);
            x = to;
            for (long r = 0; r < rows; r++, from += inner, to += stride)
                for (long i = 0; i < inner; i += LANES) store(load(from + i, inner - i), to + i);
        }
    }

    // Adds the products of `count` inputs from number k on, whose weights lie at `from`.
    template <typename W>
    void add_chunk(const W* from, long inner, long k, long count, long rows, vec (*sums)[WIDTH]) const {
        const long line = PANEL * P, bytes = count * PANEL * sizeof(W);
        Ahead ahead{reinterpret_cast<const char*>(from + inner * PANEL), bytes};  // the same of the next panel
        if (rows <= FEW) return add_tiles<FEW>(Weights<W, P, WIDTH>{from, line}, k, count, rows, ahead, sums);
        ahead.bytes /= 2;
        for (long h = 0; h < 2; h++, from += HALF * LANES * P, ahead.from += ahead.bytes) {
            vec(*half)[WIDTH] = reinterpret_cast<vec(*)[WIDTH]>(&sums[0][h * HALF]);
            const Weights<W, P, HALF> weights{from, line};
            alignas(64) float wide[CHUNK * HALF * LANES];
            if (rows <= WIDEN_ONCE) add_tiles<TILE>(weights, k, count, rows, ahead, half);
            else add_tiles<TILE>(widen_into(wide, weights, count / P), k, count, rows, ahead, half);
        }
    }

    // The same of V vectors of outputs, in tiles of R rows at most whose sizes differ by one at most.
    template <long R, typename W, long Q, long V>
    void add_tiles(Weights<W, Q, V> weights, long k, long count, long rows, Ahead ahead, vec (*sums)[WIDTH]) const {
        const long tiles = (rows + R - 1) / R, each = ahead.bytes / tiles;
        for (long t = 0; t < tiles; t++) {
            const long begin = rows * t / tiles, end = rows * (t + 1) / tiles;
            multiply_rows<R>(end - begin, x + begin * stride + k, stride, weights, count / Q,
                             Ahead{ahead.from + t * each, each * Q / count}, sums + begin);
        }
    }

    template <typename W, long V>
    static Weights<float, 1, V> widen_into(float* wide, Weights<W, P, V> weights, long count) {
        for (long u = 0; u < count; u++)
            for (long v = 0; v < V; v++) {
                vec w[P];
                numbers(weights.from + u * weights.line + v * LANES * P, w);
                for (long p = 0; p < P; p++) store(w[p], wide + ((u * P + p) * V + v) * LANES);
            }
        return {wide, V * LANES};
    }
};
