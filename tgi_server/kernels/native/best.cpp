// The best of each row of scores.
#include <limits>

#include "functions.h"
#include "kernel.h"

#define BEST(member)                                                                         \
    member(const float*, scores) member(int64_t*, places) member(float*, normalisers)        \
    member(int64_t, rows) member(int64_t, size) member(int64_t, stride) /* from row to row */

struct Best {
    MEMBERS(BEST)
};

struct Largest {
    float score;
    long place;
};

// The largest number and where the first of its kind is.
static Largest largest(const float* x, long size) {
    vec high = vec{} - std::numeric_limits<float>::infinity();
    ivec block{};  // which vector each lane's largest number is in
    const long whole = size / LANES;
    for (long i = 0; i < whole; i++) {
        const vec v = load(x + i * LANES);
        block = v > high ? ivec{} + static_cast<int32_t>(i) : block;
        high = v > high ? v : high;
    }
    Largest found{high[0], block[0] * LANES};
    for (long lane = 1; lane < LANES; lane++) {
        const long at = block[lane] * LANES + lane;
        if (high[lane] > found.score || (high[lane] == found.score && at < found.place)) found = {high[lane], at};
    }
    for (long i = whole * LANES; i < size; i++)
        if (x[i] > found.score) found = {x[i], i};
    return found;
}

// Where each row's largest number is (the first of them), and the logarithm of the sum of all their exponentials.
static void best(const Best& a) {
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const float* x = a.scores + row * a.stride;
        const Largest top = largest(x, a.size);
        const long whole = a.size / LANES;
        vec sums{};
        for (long i = 0; i < whole; i++) sums += exponential(load(x + i * LANES) - top.score);
        float sum = total(sums);
        for (long i = whole * LANES; i < a.size; i++) sum += std::exp(x[i] - top.score);
        a.places[row] = top.place;
        a.normalisers[row] = top.score + std::log(sum);
    }
}

KERNEL(best, float32, Best)
