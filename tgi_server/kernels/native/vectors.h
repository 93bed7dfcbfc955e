// Vectors of LANES numbers, GCC's own, as long as the processor's (of longer ones it makes poor code), and what a model
// computes in: float, or bfloat16 as its 16 bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__)
#define WIDE_VECTORS  // and 32 registers of them; else there are 16
#endif

struct bf16 {
    uint16_t bits;
};

#ifdef WIDE_VECTORS
static const long LANES = 16;
#else
static const long LANES = 8;
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

#ifdef WIDE_VECTORS
static const ivec NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
static const ivec NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7};
#endif

static inline vec load(const float* from) {
    vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
// 16 bits of each as 32, of which the upper half is 0.
static inline uvec load_halves(const void* from) {
    hvec half;
    std::memcpy(&half, from, sizeof half);
#if defined(WIDE_VECTORS)
    return (uvec)_mm512_cvtepu16_epi32((__m256i)half);
#elif defined(__AVX2__)
    return (uvec)_mm256_cvtepu16_epi32((__m128i)half);
#else
    return __builtin_convertvector(half, uvec);
#endif
}
static inline vec load(const bf16* from) { return (vec)(load_halves(from) << 16); }
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

// All numbers of a vector joined into one, by halves.
template <typename V, typename Join>
static inline auto joined(V x, Join join) {
#pragma GCC unroll 4
    for (long half = LANES / 2; half; half /= 2)
        x = join(x, __builtin_shuffle(x, (NUMBERS + static_cast<int32_t>(half)) & static_cast<int32_t>(LANES - 1)));
    return x[0];
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
static inline uvec repeated(uint32_t unit) {
    uvec same = uvec{} + unit;
#if defined(__AVX2__) && !defined(__AVX512F__)
    asm("" : "+x"(same));  // or the compiler computes with the unit before it repeats it, which takes longer
#endif
    return same;
}

// The first and the second bfloat16 numbers of units.
static inline vec firsts(uvec units) { return (vec)(units << 16); }
static inline vec seconds(uvec units) { return (vec)(units & 0xffff0000); }

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
    const uvec same = repeated(unit);
    sum += firsts(units) * firsts(same);
    return sum + seconds(units) * seconds(same);
#endif
}
