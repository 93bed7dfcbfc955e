// The arguments of a product with a weight that is kept in panels (pack in linear.py), and what its ways share.
#pragma once
#include <vector>

#include "kernel.h"
#include "vectors.h"

static const long WIDTH = PANEL / LANES;  // vectors of outputs in a panel: their weights lie side by side, unit by unit

#define LINEAR(member)                                                                        \
    member(const T*, x) member(const W*, weight)                                              \
    member(const float*, scale) member(const float*, bias) /* one for each output, or none */ \
    member(O*, out) member(int64_t, rows) member(int64_t, inner) member(int64_t, outer)

// out = x @ weight.T * scale + bias
template <typename T, typename W, typename O>
struct Linear {
    MEMBERS(LINEAR)

    // The same for `count` rows from `first` on.
    Linear part(long first, long count) const {
        return {x + first * inner, weight, scale, bias, out + first * outer, count, inner, outer};
    }
};

// Results of `rows` rows from `row` on and the panel whose first output is `first`, from their sums.
template <typename T, typename W, typename O>
static inline void finish(const Linear<T, W, O>& a, const vec (*sums)[WIDTH], long row, long rows, long first) {
    for (long v = 0; v < WIDTH; v++) {
        const long at = first + v * LANES, left = a.outer - at;
        if (left <= 0) return;
        const vec scale = a.scale ? load(a.scale + at, left) : vec{} + 1.0f;
        const vec bias = a.bias ? load(a.bias + at, left) : vec{};
        for (long r = 0; r < rows; r++) store(sums[r][v] * scale + bias, a.out + (row + r) * a.outer + at, left);
    }
}

// What to fetch from memory during a tile, as the next panel is far away: `bytes` from `from` on for each unit.
struct Ahead {
    const char* from;
    long bytes;
};

// The share of part `t` of `parts` in fetching the panel after this one.
template <typename T, typename W>
static inline Ahead ahead_of(const W* panel, long inner, long t, long parts) {
    const long size = inner * PANEL * sizeof(W);
    return {reinterpret_cast<const char*>(panel) + size + size * t / parts,
            PANEL * PER_UNIT<T> * static_cast<long>(sizeof(W)) / parts};
}

typedef int8_t bytes __attribute__((vector_size(LANES)));

static inline vec widened(const int8_t* from) {
    bytes x;
    std::memcpy(&x, from, sizeof x);
#if defined(WIDE_VECTORS)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)x));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
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
    const ivec pairs = (ivec)load_halves(from);
    const vec first = __builtin_convertvector(pairs << 24 >> 24, vec);
    const vec second = __builtin_convertvector(pairs << 16 >> 24, vec);
    return (uvec)first >> 16 | ((uvec)second & 0xffff0000);
#endif
}

// Memory of the thread for `count` numbers.
template <typename T>
static inline T* own_memory(long count) {
    static thread_local std::vector<T> memory;
    if (memory.size() < static_cast<size_t>(count)) memory.resize(count);
    return memory.data();
}

// A panel of small numbers as T, in memory of the thread.
template <typename T>
static const T* widen(const int8_t* panel, long count) {
    T* wide = own_memory<T>(count);
    for (long i = 0; i < count; i += LANES * PER_UNIT<T>) {
        const uvec u = units<T>(panel + i);
        std::memcpy(wide + i, &u, sizeof u);
    }
    return wide;
}
