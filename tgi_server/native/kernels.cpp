// The decoder's small operations on a CPU, each one pass over its data.
//
// Compiled at run time for the processor at hand (see build.py); called through ctypes with raw pointers, so that no
// torch headers are needed. T is what the model computes in: float, or bfloat16 as its 16 bits. Vectors are the
// compiler's own (GCC and Clang split them into what the processor has), 16 numbers each.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

struct bf16 {
    uint16_t bits;
};

static const long LANES = 16;
typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t hvec __attribute__((vector_size(32)));

static inline vec load(const float* from) {
    vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
static inline vec load(const bf16* from) {
    hvec half;
    std::memcpy(&half, from, sizeof half);
    return (vec)(__builtin_convertvector(half, uvec) << 16);
}
static inline void store(vec x, float* to) { std::memcpy(to, &x, sizeof x); }
static inline void store(vec x, bf16* to) {  // round to nearest even; NaN stays NaN
    const uvec bits = (uvec)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const ivec nan = (ivec)((bits & 0x7fffffff) > 0x7f800000);
    const hvec half = __builtin_convertvector((uvec)(nan ? (ivec)((bits >> 16) | 0x40) : (ivec)rounded), hvec);
    std::memcpy(to, &half, sizeof half);
}

// The same for the last, shorter part of a row: `left` numbers are there.
template <typename T>
static inline vec load(const T* from, long left) {
    if (left >= LANES) return load(from);
    T part[LANES] = {};
    std::memcpy(part, from, left * sizeof(T));
    return load(part);
}
template <typename T>
static inline void store(vec x, T* to, long left) {
    if (left >= LANES) return store(x, to);
    T part[LANES];
    store(x, part);
    std::memcpy(to, part, left * sizeof(T));
}

// e^x to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients)
static inline vec exponential(vec x) {
    x = x < -87.0f ? vec{} - 87.0f : x;
    x = x > 88.0f ? vec{} + 88.0f : x;
    const vec shifted = x * 1.44269504088896341f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const vec n = shifted - 12582912.0f;
    const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const ivec power = __builtin_convertvector(n, ivec);
    return (vec)((ivec)y + (power << 23));
}

static inline float total(vec x) {
    float sum = 0;
    for (long i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

// Rows are shared among the threads only where that pays for waking them.
static inline bool worth(long elements) { return elements > 1 << 15; }

// residual += x (when there is one); out = residual / rms(residual) * weight
template <typename T>
static void add_norm(float* residual, const T* x, const float* weight, T* out, long rows, long size, float eps) {
#pragma omp parallel for if (worth(rows * size))
    for (long row = 0; row < rows; row++) {
        float* r = residual + row * size;
        vec squares{};
        for (long i = 0; i < size; i += LANES) {
            vec v = load(r + i, size - i);
            if (x) store(v += load(x + row * size + i, size - i), r + i, size - i);
            squares += v * v;
        }
        const float scale = 1.0f / std::sqrt(total(squares) / size + eps);
        for (long i = 0; i < size; i += LANES)
            store(load(r + i, size - i) * scale * load(weight + i, size - i), out + row * size + i, size - i);
    }
}

// silu(gate) * up, of rows that hold gate and up side by side
template <typename T>
static void gate(const T* gate_up, T* out, long rows, long inner) {
#pragma omp parallel for if (worth(rows * inner))
    for (long row = 0; row < rows; row++) {
        const T *g = gate_up + row * 2 * inner, *u = g + inner;
        for (long i = 0; i < inner; i += LANES) {
            const vec x = load(g + i, inner - i);
            store(x / (1.0f + exponential(-x)) * load(u + i, inner - i), out + row * inner + i, inner - i);
        }
    }
}

struct Heads {
    long query, kv, dim, block;  // heads of one rank, their width, positions in a cache block
};

template <typename T>
static inline void rotate(const T* in, const float* cos, const float* sin, T* out, long dim) {
    const long half = dim / 2;
    for (long i = 0; i < half; i += LANES) {
        const long n = half - i;
        const vec left = load(in + i, n), right = load(in + i + half, n), c = load(cos + i, n), s = load(sin + i, n);
        store(left * c - right * s, out + i, n);
        store(right * c + left * s, out + i + half, n);
    }
}

// Rows of query, key and value heads: rotate query and key by their position, put key and value in the cache.
template <typename T>
static void rotate_store(const T* qkv, const float* cos, const float* sin, const int64_t* positions,
                         const int64_t* slots, T* query, T* key, T* keys, T* values, long rows, Heads heads) {
    const long dim = heads.dim, width = (heads.query + 2 * heads.kv) * dim;
#pragma omp parallel for if (worth(rows * width))
    for (long row = 0; row < rows; row++) {
        const T* in = qkv + row * width;
        const float *c = cos + positions[row] * (dim / 2), *s = sin + positions[row] * (dim / 2);
        for (long h = 0; h < heads.query; h++)
            rotate(in + h * dim, c, s, query + (row * heads.query + h) * dim, dim);
        const long block = slots[row] / heads.block, offset = slots[row] % heads.block;
        for (long h = 0; h < heads.kv; h++) {
            const long place = ((block * heads.kv + h) * heads.block + offset) * dim;
            T* k = key + (row * heads.kv + h) * dim;
            rotate(in + (heads.query + h) * dim, c, s, k, dim);
            std::memcpy(keys + place, k, dim * sizeof(T));
            std::memcpy(values + place, in + (heads.query + heads.kv + h) * dim, dim * sizeof(T));
        }
    }
}

// Part of a softmax-weighted sum: the running maximum, and the sum of weights of one query head.
struct Partial {
    float maximum, sum;
};

// Sums of 16 vectors as one vector, by adding halves, quarters, ... of pairs.
static inline vec totals(vec* rows) {
    const ivec low[4] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                         {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                         {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                         {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}};
    const ivec high[4] = {low[0] + 8, low[1] + 4, low[2] + 2, low[3] + 1};
#pragma GCC unroll 4
    for (long level = 0; level < 4; level++) {
        const long half = 8 >> level;
#pragma GCC unroll 8
        for (long i = 0; i < half; i++)
            rows[i] = __builtin_shuffle(rows[i], rows[i + half], low[level]) +
                      __builtin_shuffle(rows[i], rows[i + half], high[level]);
    }
    return rows[0];
}

static const long BLOCK = 16;  // positions in a cache block: one vector of scores
static const ivec NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// One query head `q` (scaled, DV vectors) over positions [begin, end) of a block table, from a block's first position
// on (online softmax, arXiv:1805.02867). `keys` and `values` start at the head's part of block 0.
template <typename T, long DV>
static Partial attend_part(const float* q, const T* keys, const T* values, const int64_t* table, long block_size,
                           long begin, long end, float* out) {
    const long dim = DV * LANES;
    vec query[DV], acc[DV] = {};
    for (long j = 0; j < DV; j++) query[j] = load(q + j * LANES);
    float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
    for (long start = begin; start < end; start += BLOCK) {
        const T *k = keys + table[start / BLOCK] * block_size, *v = values + table[start / BLOCK] * block_size;
        const long count = std::min(end - start, BLOCK);
        vec rows[BLOCK];
#pragma GCC unroll 16
        for (long p = 0; p < BLOCK; p++) {
            rows[p] = load(k + p * dim) * query[0];
            for (long j = 1; j < DV; j++) rows[p] += load(k + p * dim + j * LANES) * query[j];
        }
        vec scores = totals(rows);
        scores = NUMBERS < static_cast<int32_t>(count) ? scores : vec{} - std::numeric_limits<float>::infinity();
        float best = maximum;
        for (long p = 0; p < BLOCK; p++) best = std::max(best, static_cast<float>(scores[p]));
        vec weights = exponential(scores - best);
        weights = NUMBERS < static_cast<int32_t>(count) ? weights : vec{};
        const float shrink = std::exp(maximum - best);
        maximum = best;
        sum = sum * shrink + total(weights);
        for (long j = 0; j < DV; j++) acc[j] *= shrink;
        for (long p = 0; p < count; p++)
            for (long j = 0; j < DV; j++) acc[j] += load(v + p * dim + j * LANES) * weights[p];
    }
    for (long j = 0; j < DV; j++) store(acc[j], out + j * LANES);
    return {maximum, sum};
}

static const long CHUNK = 512;  // positions that one task takes: long contexts are shared by the threads

// Each row is one query position that sees `contexts[row]` positions of the blocks `tables[sequences[row]]`.
template <typename T, long DV>
static void attend(const T* query, const T* keys, const T* values, const int64_t* tables, long table_width,
                   const int64_t* sequences, const int64_t* contexts, T* out, long rows, Heads heads, float scale) {
    const long dim = DV * LANES, group = heads.query / heads.kv, block_size = heads.kv * BLOCK * dim;
    const long longest = rows ? *std::max_element(contexts, contexts + rows) : 0;
    const long chunks = (longest + CHUNK - 1) / CHUNK, tasks = rows * heads.kv * chunks;
    std::vector<float> acc(tasks * group * dim);
    std::vector<Partial> state(tasks * group);
#pragma omp parallel if (worth(rows * heads.query * longest))
    {
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < tasks; task++) {
            const long chunk = task % chunks, head = task / chunks % heads.kv, row = task / chunks / heads.kv;
            const long begin = chunk * CHUNK, end = std::min(begin + CHUNK, static_cast<long>(contexts[row]));
            if (begin >= end) continue;
            const long place = head * BLOCK * dim;
            for (long g = 0; g < group; g++) {
                float q[dim];
                const T* in = query + (row * heads.query + head * group + g) * dim;
                for (long i = 0; i < dim; i += LANES) store(load(in + i) * scale, q + i);
                state[task * group + g] =
                    attend_part<T, DV>(q, keys + place, values + place, tables + sequences[row] * table_width,
                                       block_size, begin, end, acc.data() + (task * group + g) * dim);
            }
        }
#pragma omp for schedule(static)
        for (long item = 0; item < rows * heads.query; item++) {
            const long row = item / heads.query, h = item % heads.query, head = h / group, g = h % group;
            const long used = (contexts[row] + CHUNK - 1) / CHUNK, first = (row * heads.kv + head) * chunks;
            float best = -std::numeric_limits<float>::infinity(), sum = 0;
            for (long c = 0; c < used; c++) best = std::max(best, state[(first + c) * group + g].maximum);
            vec sums[DV] = {};
            for (long c = 0; c < used; c++) {
                const Partial& part = state[(first + c) * group + g];
                const float weight = std::exp(part.maximum - best);
                sum += part.sum * weight;
                for (long j = 0; j < DV; j++)
                    sums[j] += load(acc.data() + ((first + c) * group + g) * dim + j * LANES) * weight;
            }
            for (long j = 0; j < DV; j++) store(sums[j] / sum, out + item * dim + j * LANES);
        }
    }
}

// A kernel for each head width; the caller has checked that there is one.
template <typename T, typename... Arguments>
static void attend_any(long dim, Arguments... arguments) {
    switch (dim / LANES) {
        case 2: return attend<T, 2>(arguments...);
        case 4: return attend<T, 4>(arguments...);
        case 6: return attend<T, 6>(arguments...);
        case 8: return attend<T, 8>(arguments...);
    }
}

#define EXPORT(T, suffix)                                                                                            \
    extern "C" void add_norm_##suffix(float* residual, const T* x, const float* weight, T* out, long rows, long size, \
                                      float eps) {                                                                   \
        add_norm(residual, x, weight, out, rows, size, eps);                                                         \
    }                                                                                                                \
    extern "C" void gate_##suffix(const T* gate_up, T* out, long rows, long inner) { gate(gate_up, out, rows, inner); } \
    extern "C" void rotate_store_##suffix(const T* qkv, const float* cos, const float* sin, const int64_t* positions, \
                                          const int64_t* slots, T* query, T* key, T* keys, T* values, long rows,      \
                                          long q, long kv, long dim, long block) {                                   \
        rotate_store(qkv, cos, sin, positions, slots, query, key, keys, values, rows, Heads{q, kv, dim, block});     \
    }                                                                                                                \
    extern "C" void attend_##suffix(const T* query, const T* keys, const T* values, const int64_t* tables,           \
                                    long table_width, const int64_t* sequences, const int64_t* contexts, T* out,     \
                                    long rows, long q, long kv, long dim, long block, float scale) {                 \
        attend_any<T>(dim, query, keys, values, tables, table_width, sequences, contexts, out, rows,                 \
                      Heads{q, kv, dim, block}, scale);                                                              \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
