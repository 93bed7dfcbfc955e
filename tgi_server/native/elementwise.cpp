// The decoder's small operations, each one pass over its data.
#include "vectors.h"

template <typename T>
struct AddNorm {
    float* residual;
    const T* x;  // or none
    const float* weight;
    T* out;
    int64_t rows, size;
    double eps;
};

// residual += x (when there is one); out = residual / rms(residual) * weight
template <typename T>
static void add_norm(const AddNorm<T>& a) {
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        float* r = a.residual + row * a.size;
        vec squares{};
        for (long i = 0; i < a.size; i += LANES) {
            vec v = load(r + i, a.size - i);
            if (a.x) store(v += load(a.x + row * a.size + i, a.size - i), r + i, a.size - i);
            squares += v * v;
        }
        const float scale = 1.0f / std::sqrt(total(squares) / a.size + static_cast<float>(a.eps));
        for (long i = 0; i < a.size; i += LANES) {
            const long left = a.size - i;
            store(load(r + i, left) * scale * load(a.weight + i, left), a.out + row * a.size + i, left);
        }
    }
}

template <typename T>
struct Gate {
    const T* gate_up;
    T* out;
    int64_t rows, inner;
};

// silu(gate) * up, of rows that hold gate and up side by side
template <typename T>
static void gate(const Gate<T>& a) {
    const long part = 256, parts = (a.inner + part - 1) / part;
#pragma omp for schedule(static)
    for (long task = 0; task < a.rows * parts; task++) {
        const long row = task / parts, begin = task % parts * part, end = std::min(begin + part, long(a.inner));
        const T *g = a.gate_up + row * 2 * a.inner, *u = g + a.inner;
        for (long i = begin; i < end; i += LANES) {
            const vec x = load(g + i, end - i);
            store(x / (1.0f + exponential(-x)) * load(u + i, end - i), a.out + row * a.inner + i, end - i);
        }
    }
}

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

template <typename T>
struct RotateStore {
    const T* qkv;
    const float *cos, *sin;
    const int64_t *positions, *slots;
    T *query, *key, *keys, *values;
    int64_t rows, heads, kv, dim, block;  // heads of one rank, their width, positions in a cache block
};

// Rows of query, key and value heads: rotate query and key by their position, put key and value in the cache.
template <typename T>
static void rotate_store(const RotateStore<T>& a) {
    const long dim = a.dim, width = (a.heads + 2 * a.kv) * dim;
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const T* in = a.qkv + row * width;
        const float *c = a.cos + a.positions[row] * (dim / 2), *s = a.sin + a.positions[row] * (dim / 2);
        for (long h = 0; h < a.heads; h++) rotate(in + h * dim, c, s, a.query + (row * a.heads + h) * dim, dim);
        const long block = a.slots[row] / a.block, offset = a.slots[row] % a.block;
        for (long h = 0; h < a.kv; h++) {
            const long place = ((block * a.kv + h) * a.block + offset) * dim;
            T* k = a.key + (row * a.kv + h) * dim;
            rotate(in + (a.heads + h) * dim, c, s, k, dim);
            std::memcpy(a.keys + place, k, dim * sizeof(T));
            std::memcpy(a.values + place, in + (a.heads + a.kv + h) * dim, dim * sizeof(T));
        }
    }
}

struct Best {
    const float* scores;
    int64_t* places;
    float* normalisers;
    int64_t rows, size;
};

// Where each row's largest number is (the first of them), and the logarithm of the sum of all their exponentials.
static void best(const Best& a) {
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const float *x = a.scores + row * a.size, nothing = -std::numeric_limits<float>::infinity();
        vec high = vec{} + nothing;
        ivec block{};  // which vector each lane's largest number is in
        const long whole = a.size / LANES;
        for (long i = 0; i < whole; i++) {
            const vec v = load(x + i * LANES);
            block = v > high ? ivec{} + static_cast<int32_t>(i) : block;
            high = v > high ? v : high;
        }
        float top = high[0];
        long place = block[0] * LANES;
        for (long lane = 1; lane < LANES; lane++) {
            const long at = block[lane] * LANES + lane;
            if (high[lane] > top || (high[lane] == top && at < place)) top = high[lane], place = at;
        }
        for (long i = whole * LANES; i < a.size; i++)
            if (x[i] > top) top = x[i], place = i;
        vec sums{};
        for (long i = 0; i < whole; i++) sums += exponential(load(x + i * LANES) - top);
        float sum = total(sums);
        for (long i = whole * LANES; i < a.size; i++) sum += std::exp(x[i] - top);
        a.places[row] = place;
        a.normalisers[row] = top + std::log(sum);
    }
}

extern "C" void best_float32(const void* arguments) { best(*static_cast<const Best*>(arguments)); }
KERNEL(add_norm, AddNorm<float>, float32)
KERNEL(add_norm, AddNorm<bf16>, bfloat16)
KERNEL(gate, Gate<float>, float32)
KERNEL(gate, Gate<bf16>, bfloat16)
KERNEL(rotate_store, RotateStore<float>, float32)
KERNEL(rotate_store, RotateStore<bf16>, bfloat16)
