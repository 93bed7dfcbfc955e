// The decoder's small operations, each one pass over its data; declared in operations.py.
#include "functions.h"
#include "norms.h"

#define ADD_NORM(member)                                                                       \
    member(float*, residual) member(const T*, x) member(T*, out) /* x and out: or none */      \
    member(int64_t, rows) member(int64_t, size) member(double, scale) NORM(member, norm) NORM(member, post)

template <typename T>
struct AddNorm {
    MEMBERS(ADD_NORM)
};

// row += scale * x, where at(i, left) gives numbers of x
template <typename At>
static inline void add(float* row, long size, float scale, At at) {
    for (long i = 0; i < size; i += LANES) {
        const long left = size - i;
        store(load(row + i, left) + at(i, left) * scale, row + i, left);
    }
}

template <typename T>
static void add_norm(const AddNorm<T>& a) {
#pragma omp for schedule(static)
    for (long r = 0; r < a.rows; r++) {
        const long size = a.size;
        float* row = a.residual + r * size;
        const T* x = a.x + r * size;
        const auto plain = [=](long i, long left) { return load(x + i, left); };
        Norm post = NORM_OF(a, post), norm = NORM_OF(a, norm);
        if (a.x && post.kind == NONE) add(row, size, a.scale, plain);
        if (a.x && post.kind != NONE) {
            post.measure(size, plain);
            add(row, size, a.scale, [=](long i, long left) { return post(plain(i, left), i, left); });
        }
        if (!a.out) continue;
        norm.measure(size, [=](long i, long left) { return load(row + i, left); });
        T* out = a.out + r * size;
        for (long i = 0; i < size; i += LANES) store(norm(load(row + i, size - i), i, size - i), out + i, size - i);
    }
}

#define MEAN_SQUARES(member)                                                                     \
    member(const T*, x) member(float*, out) member(int64_t, rows) member(int64_t, stride)         \
    member(int64_t, queries) member(int64_t, keys) /* numbers of a row, one after the other */    \
    member(double, query_total) member(double, key_total)

template <typename T>
struct MeanSquares {
    MEMBERS(MEAN_SQUARES)
};

template <typename T>
static inline float sum_of_squares(const T* x, long size) {
    vec sums{};
    for (long i = 0; i < size; i += LANES) {
        const vec some = load(x + i, size - i);  // zeros beyond the end
        sums += some * some;
    }
    return total(sums);
}

template <typename T>
static void mean_squares(const MeanSquares<T>& a) {
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const T* x = a.x + row * a.stride;
        a.out[2 * row] = sum_of_squares(x, a.queries) / a.query_total;
        a.out[2 * row + 1] = sum_of_squares(x + a.queries, a.keys) / a.key_total;
    }
}

#define ROTATE_STORE(member)                                                                                      \
    member(const T*, qkv) member(const float*, cos) member(const float*, sin) member(const int64_t*, slots)       \
    member(const float*, squares) /* of all queries and all keys of a row, or none */                             \
    member(T*, query) member(T*, key) member(T*, keys) member(T*, values)                                         \
    member(int64_t, rows) member(int64_t, heads) member(int64_t, kv) member(int64_t, key_width)                   \
    member(int64_t, value_width) member(int64_t, turned) NORM(member, query) NORM(member, key)

template <typename T>
struct RotateStore {
    MEMBERS(ROTATE_STORE)
};

// The first 2 * half numbers of a head turned, the others as they are; at(i, left) gives its numbers.
template <typename T, typename At>
static inline void rotate(At at, const float* cos, const float* sin, long half, long width, T* out) {
    for (long i = 0; i < half; i += LANES) {
        const long n = half - i;
        const vec left = at(i, n), right = at(i + half, n), c = load(cos + i, n), s = load(sin + i, n);
        store(left * c - right * s, out + i, n);
        store(right * c + left * s, out + i + half, n);
    }
    for (long i = 2 * half; i < width; i += LANES) store(at(i, width - i), out + i, width - i);
}

// The same after a norm.
template <typename T>
static inline void turn(const T* in, Norm norm, const float* cos, const float* sin, long half, long width, T* out) {
    const auto plain = [=](long i, long left) { return load(in + i, left); };
    if (norm.kind == NONE) return rotate(plain, cos, sin, half, width, out);
    norm.measure(width, plain);
    rotate([=](long i, long left) { return norm(plain(i, left), i, left); }, cos, sin, half, width, out);
}

template <typename T>
static void rotate_store(const RotateStore<T>& a) {
    const long kw = a.key_width, vw = a.value_width, half = a.turned / 2;
    const Norm query_norm = NORM_OF(a, query), key_norm = NORM_OF(a, key);
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const T* queries = a.qkv + row * ((a.heads + a.kv) * kw + a.kv * vw);
        const T *keys = queries + a.heads * kw, *values = keys + a.kv * kw;
        const float *c = a.cos + row * half, *s = a.sin + row * half;
        const auto of_head = [&](const Norm& norm, long which, long h) {
            return a.squares && norm.kind != NONE ? norm.of_part(a.squares[2 * row + which], h * kw) : norm;
        };
        for (long h = 0; h < a.heads; h++)
            turn(queries + h * kw, of_head(query_norm, 0, h), c, s, half, kw, a.query + (row * a.heads + h) * kw);
        const long block = a.slots[row] / BLOCK, offset = a.slots[row] % BLOCK;
        for (long h = 0; h < a.kv; h++) {
            const long place = (block * a.kv + h) * BLOCK + offset;
            T* key = a.key + (row * a.kv + h) * kw;
            turn(keys + h * kw, of_head(key_norm, 1, h), c, s, half, kw, key);
            std::memcpy(a.keys + place * kw, key, kw * sizeof(T));
            std::memcpy(a.values + place * vw, values + h * vw, vw * sizeof(T));
        }
    }
}

#define GATE(member) \
    member(const T*, x) member(T*, out) member(int64_t, rows) member(int64_t, inner) \
    member(int64_t, activation) member(int64_t, gated) \
    member(double, slope) member(double, limit) member(double, offset) /* Clamp */

template <typename T>
struct Gate {
    MEMBERS(GATE)
};

static inline vec at_most(vec x, vec limit) { return x > limit ? limit : x; }

// activation(gate) * up of rows that hold gate and up side by side, or activation(x); in parts that threads share
template <typename T, typename Function>
static void gate_by(const Gate<T>& a, Function activation) {
    const long part = 256, parts = (a.inner + part - 1) / part;
    const vec limit = vec{} + static_cast<float>(a.limit);
    const float slope = a.slope, offset = a.offset, back = 1.0f / slope;
#pragma omp for schedule(static)
    for (long task = 0; task < a.rows * parts; task++) {
        const long row = task / parts, begin = task % parts * part, end = std::min(begin + part, long(a.inner));
        const bool gated = a.gated;
        const T *gate = a.x + row * (gated ? 2 : 1) * a.inner, *up = gate + a.inner;
        T* out = a.out + row * a.inner;
        for (long i = begin; i < end; i += LANES) {
            const vec x = load(gate + i, end - i);
            if (!gated) {
                store(activation(x), out + i, end - i);
                continue;
            }
            const vec y = activation(at_most(x, limit) * slope) * back;
            const vec linear = -at_most(-at_most(load(up + i, end - i), limit), limit);
            store(y * (linear + offset), out + i, end - i);
        }
    }
}

template <typename T>
static void gate(const Gate<T>& a) {
    switch (a.activation) {  // Activation
        case 0: return gate_by(a, [](vec x) { return silu(x); });
        case 1: return gate_by(a, [](vec x) { return gelu(x); });
        case 2: return gate_by(a, [](vec x) { return gelu_tanh(x); });
        case 3: return gate_by(a, [](vec x) { return relu(x); });
    }
}

KERNEL(add_norm, float32, AddNorm<float>)
KERNEL(add_norm, bfloat16, AddNorm<bf16>)
KERNEL(mean_squares, float32, MeanSquares<float>)
KERNEL(mean_squares, bfloat16, MeanSquares<bf16>)
KERNEL(rotate_store, float32, RotateStore<float>)
KERNEL(rotate_store, bfloat16, RotateStore<bf16>)
KERNEL(gate, float32, Gate<float>)
KERNEL(gate, bfloat16, Gate<bf16>)
