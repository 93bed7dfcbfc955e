// Vectors of 16 numbers, GCC's own (it splits them into what the processor has), and what a model computes in:
// float, or bfloat16 as its 16 bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

struct bf16 {
    uint16_t bits;
};

static const long LANES = 16;
typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t hvec __attribute__((vector_size(32)));

static const ivec NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

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
#ifdef __AVX512BF16__
    const __m256bh half = _mm512_cvtneps_pbh((__m512)x);
#else
    const uvec bits = (uvec)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const ivec nan = (ivec)((bits & 0x7fffffff) > 0x7f800000);
    const hvec half = __builtin_convertvector((uvec)(nan ? (ivec)((bits >> 16) | 0x40) : (ivec)rounded), hvec);
#endif
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

static inline float total(vec x) {
    float sum = 0;
    for (long i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

// A product's inner dimension goes in units of 32 bits: one float, or a pair of neighbouring bfloat16 numbers.
// A vector of units holds the same unit of 16 outputs.
template <typename T>
static const long PER_UNIT = sizeof(uint32_t) / sizeof(T);

static inline float as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uvec load_units(const void* from) {
    uvec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
static inline uint32_t load_unit(const void* from) {
    uint32_t x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

// sum + the products of each of 16 units with one unit
template <typename T>
static inline vec multiply_add(vec sum, uvec units, uint32_t unit);
template <>
inline vec multiply_add<float>(vec sum, uvec units, uint32_t unit) {
    return sum + (vec)units * as_float(unit);
}
template <>
inline vec multiply_add<bf16>(vec sum, uvec units, uint32_t unit) {
#ifdef __AVX512BF16__
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)units, (__m512bh)_mm512_set1_epi32(unit));
#else
    sum += (vec)(units << 16) * as_float(unit << 16);
    return sum + (vec)(units & 0xffff0000) * as_float(unit & 0xffff0000);
#endif
}
