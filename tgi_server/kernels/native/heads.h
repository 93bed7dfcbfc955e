// Query heads that meet one block after the other: scores, softmax, sums of values.
#pragma once
#include <limits>

#include "blocks.h"
#include "functions.h"

static const float NOTHING = -std::numeric_limits<float>::infinity();

// A query head of a row: what it sees, and the softmax-weighted sum of values so far (online softmax,
// arXiv:1805.02867); `sum` is still to be added up.
template <typename T>
struct Head {
    const T* query;
    float* sums;
    long position, first, end;
    float slope;
    const float* biases;  // that of distance 0, or none
    float maximum = NOTHING;
    vec sum{};
};

static inline vec larger(vec a, vec b) { return a > b ? a : b; }

// The biases of LANES distances in a row, the first of them `first`; those beyond `reach` have that of `reach`.
static inline vec biases_of(const float* biases, long first, long reach) {
    if (-reach <= first && first + LANES - 1 <= reach) return load(biases + first);
    vec found;
    for (long i = 0; i < LANES; i++) found[i] = biases[std::max(-reach, std::min(first + i, reach))];
    return found;
}

struct Scoring {
    float scale, softcap;
    long reach;     // of the biases
    bool adjusted;  // by a softcap, slopes or biases
};

// What not every layer wants of its scores, softcap * tanh(score / softcap) + slope * distance + bias. Out of line: the
// loops of other layers stay small.
template <typename T>
__attribute__((noinline)) static void adjust(const Head<T>* heads, long count, long start, Scoring how, vec (*scores)[SPAN]) {
    for (long n = 0; n < count; n++)
        for (long s = 0; s < SPAN; s++) {
            const long first = start + s * LANES - heads[n].position;
            const ivec distance = NUMBERS + static_cast<int32_t>(first);
            vec score = scores[n][s];
            if (how.softcap > 0) score = how.softcap * hyperbolic_tangent(score / how.softcap);
            score += heads[n].slope * __builtin_convertvector(distance, vec);
            if (heads[n].biases) score += biases_of(heads[n].biases, first, how.reach);
            scores[n][s] = score;
        }
}

// The scaled products of N query heads with the keys of a block.
template <typename T, long N>
static inline void products(const Head<T>* heads, const Block<T>& block, float scale, vec (*scores)[SPAN]) {
    constexpr long CHAINS = N == 1 ? 4 : N * SPAN > 6 ? 1 : 2;  // sums in flight hide the latency of the additions
    vec sums[N][CHAINS][SPAN] = {};
    const T* query[N];
    for (long n = 0; n < N; n++) query[n] = heads[n].query;
    const long units = block.units;
    for (long u = 0; u < units; u += CHAINS)
#pragma GCC unroll 4
        for (long c = 0; c < CHAINS; c++)
#pragma GCC unroll 4
            for (long n = 0; n < N; n++) {
                const uint32_t unit = load_unit(query[n] + (u + c) * PER_UNIT<T>);
#pragma GCC unroll 2
                for (long s = 0; s < SPAN; s++)
                    sums[n][c][s] = multiply_add<T>(sums[n][c][s], block.keys[(u + c) * SPAN + s], unit);
            }
#pragma GCC unroll 4
    for (long n = 0; n < N; n++)
#pragma GCC unroll 2
        for (long s = 0; s < SPAN; s++) {
            vec sum = sums[n][0][s];
            for (long c = 1; c < CHAINS; c++) sum += sums[n][c][s];
            scores[n][s] = sum * scale;
        }
}

// Scores of a block, which begins at position `start`, as weights of its values, 0 where the head does not look;
// returns by what the sums so far shrink.
template <typename T>
static inline float weigh(Head<T>& head, vec (&scores)[SPAN], long start, T* weights) {
    const bool whole = head.first <= start && start + BLOCK <= head.end;
    const auto seen = [&](vec x, long s, float other) {  // x, and `other` where the head does not look
        const int32_t first = head.first - start - s * LANES, end = head.end - start - s * LANES;
        return NUMBERS < end ? NUMBERS < first ? vec{} + other : x : vec{} + other;
    };
    vec most = vec{} + NOTHING, sum{};
    for (long s = 0; s < SPAN; s++) {
        if (!whole) scores[s] = seen(scores[s], s, NOTHING);
        most = larger(most, scores[s]);
    }
    const float before = head.maximum, best = std::max(before, joined(most, larger));
    for (long s = 0; s < SPAN; s++) {
        vec weight = exponential(scores[s] - best);
        if (!whole) weight = seen(weight, s, 0.0f);
        store(weight, weights + s * LANES);
        sum += weight;
    }
    const float shrink = best > before ? exponential(vec{} + (before - best))[0] : 1.0f;
    head.maximum = best;
    head.sum = head.sum * shrink + sum;
    return shrink;
}

// The sums of N query heads, shrunk, and the weighted values of a block: J vectors of them from number j on.
template <typename T, long N, long J>
static inline void add_values(const Head<T>* heads, const Block<T>& block, const T (*weights)[BLOCK],
                              const float* shrink, long j) {
    vec sums[N][J];
    const uvec* values = block.values + j;
#pragma GCC unroll 4
    for (long n = 0; n < N; n++)
#pragma GCC unroll 4
        for (long i = 0; i < J; i++) sums[n][i] = load(heads[n].sums + (j + i) * LANES) * shrink[n];
#pragma GCC unroll 1
    for (long p = 0; p < Block<T>::PAIRS; p++, values += block.groups)
#pragma GCC unroll 4
        for (long n = 0; n < N; n++)
#pragma GCC unroll 4
            for (long i = 0; i < J; i++)
                sums[n][i] = multiply_add<T>(sums[n][i], values[i], load_unit(weights[n] + p * PER_UNIT<T>));
#pragma GCC unroll 4
    for (long n = 0; n < N; n++)
#pragma GCC unroll 4
        for (long i = 0; i < J; i++) store(sums[n][i], heads[n].sums + (j + i) * LANES);
}

// How a layer scores.
// N query heads meet one block.
template <typename T, long N>
static inline void meet(Head<T>* heads, const Block<T>& block, long start, Scoring how) {
    vec scores[N][SPAN];
    products<T, N>(heads, block, how.scale, scores);
    if (how.adjusted) {
        vec copies[N][SPAN];  // the scores themselves stay in registers
        for (long n = 0; n < N; n++)
            for (long s = 0; s < SPAN; s++) copies[n][s] = scores[n][s];
        adjust(heads, N, start, how, copies);
        for (long n = 0; n < N; n++)
            for (long s = 0; s < SPAN; s++) scores[n][s] = copies[n][s];
    }
    T weights[N][BLOCK];
    float shrink[N];
#pragma GCC unroll 4
    for (long n = 0; n < N; n++) shrink[n] = weigh(heads[n], scores[n], start, weights[n]);
    asm volatile("" ::: "memory");  // the weights are to be broadcast from memory, not picked from registers
    for (long j = 0; j < block.groups; j += 4) switch (block.groups - j) {
            case 1: add_values<T, N, 1>(heads, block, weights, shrink, j); break;
            case 2: add_values<T, N, 2>(heads, block, weights, shrink, j); break;
            case 3: add_values<T, N, 3>(heads, block, weights, shrink, j); break;
            default: add_values<T, N, 4>(heads, block, weights, shrink, j);
        }
}

static const long HEADS_AT_ONCE = 4;  // those whose sums stay in registers

template <typename T>
static void meet_all(long count, Head<T>* heads, const Block<T>& block, long start, Scoring how) {
    for (long n = 0; n < count; n += HEADS_AT_ONCE) switch (count - n) {
            case 1: meet<T, 1>(heads + n, block, start, how); break;
            case 2: meet<T, 2>(heads + n, block, start, how); break;
            case 3: meet<T, 3>(heads + n, block, start, how); break;
            default: meet<T, 4>(heads + n, block, start, how);
        }
}
