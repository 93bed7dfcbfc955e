// What surrounds the products of a mixture of experts: which rows go to which expert, and the sum of what they make.
#include <limits>

#include "functions.h"
#include "kernel.h"

#define ROUTE(member)                                                                                              \
    member(const float*, scores) member(const float*, bias) /* or none */ member(const T*, x)                      \
    member(int64_t*, experts) member(float*, weights) /* of each row, the best first */                            \
    member(int64_t*, places) /* where the row of each choice lies in `sorted` */                                   \
    member(int64_t*, starts) /* where those of each expert begin, and the end */                                   \
    member(int64_t*, active) /* how many experts have rows, and which */                                           \
    member(T*, sorted) member(int64_t, rows) member(int64_t, size)                                                 \
    member(int64_t, count) member(int64_t, columns) /* of scores */ member(int64_t, chosen) member(int64_t, over_all)

template <typename T>
struct Route {
    MEMBERS(ROUTE)
};

// The best scores of a row in descending order, of equal ones the first, as weights. Numbers are valid even of NaN.
template <typename T>
static void choose(const Route<T>& a, long row) {
    const float* scores = a.scores + row * a.columns;
    float* best = a.weights + row * a.chosen;
    int64_t* ids = a.experts + row * a.chosen;
    const auto score = [=](long e) { return scores[e] + (a.bias ? a.bias[e] : 0.0f); };
    for (long j = 0; j < a.chosen; j++) best[j] = -std::numeric_limits<float>::infinity(), ids[j] = j;
    for (long e = 0; e < a.count; e++) {
        const float s = score(e);
        long j = a.chosen;
        for (; j > 0 && s > best[j - 1]; j--)
            if (j < a.chosen) best[j] = best[j - 1], ids[j] = ids[j - 1];
        if (j < a.chosen) best[j] = s, ids[j] = e;
    }
    const float high = best[0];
    float sum = 0;
    if (a.over_all) for (long e = 0; e < a.count; e++) sum += std::exp(score(e) - high);
    for (long j = 0; j < a.chosen; j++) best[j] = std::exp(best[j] - high), sum += a.over_all ? 0 : best[j];
    for (long j = 0; j < a.chosen; j++) best[j] /= sum;
}

// Places of all choices: sorted by expert, those of an expert by row.
template <typename T>
static void sort_choices(const Route<T>& a) {
    const long choices = a.rows * a.chosen;
    std::fill(a.starts, a.starts + a.count + 1, 0);
    for (long i = 0; i < choices; i++) a.starts[a.experts[i] + 1]++;
    long active = 0;
    for (long e = 0; e < a.count; e++) {
        if (a.starts[e + 1]) a.active[++active] = e;
        a.starts[e + 1] += a.starts[e];
    }
    a.active[0] = active;
    for (long i = 0; i < choices; i++) a.places[i] = a.starts[a.experts[i]]++;
    for (long e = a.count; e > 0; e--) a.starts[e] = a.starts[e - 1];  // each has moved to its end
    a.starts[0] = 0;
}

template <typename T>
static void route(const Route<T>& a) {
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) choose(a, row);
#pragma omp single
    sort_choices(a);
#pragma omp for schedule(static)
    for (long i = 0; i < a.rows * a.chosen; i++)
        std::memcpy(a.sorted + a.places[i] * a.size, a.x + i / a.chosen * a.size, a.size * sizeof(T));
}

#define COMBINE(member)                                                                                         \
    member(const T*, x) member(const int64_t*, places) member(const float*, weights) /* as in Route */          \
    member(const T*, shared) member(const float*, scores) /* what is added to all, or none, and its weight */   \
    member(T*, out) member(int64_t, rows) member(int64_t, size)                                                 \
    member(int64_t, count) member(int64_t, columns) member(int64_t, chosen)

template <typename T>
struct Combine {
    MEMBERS(COMBINE)
};

// The sum of a row's results times their weights; in parts that threads share
template <typename T>
static void combine(const Combine<T>& a) {
    const long part = 256, parts = (a.size + part - 1) / part;
#pragma omp for schedule(static)
    for (long task = 0; task < a.rows * parts; task++) {
        const long row = task / parts, begin = task % parts * part, end = std::min(begin + part, long(a.size));
        const float* weights = a.weights + row * a.chosen;
        const int64_t* places = a.places + row * a.chosen;
        const float* scores = a.scores + row * a.columns;
        const float share = a.columns > a.count ? 1.0f / (1.0f + std::exp(-scores[a.count])) : 1.0f;
        for (long i = begin; i < end; i += LANES) {
            vec sum = a.shared ? load(a.shared + row * a.size + i, end - i) * share : vec{};
            for (long j = 0; j < a.chosen; j++) sum += load(a.x + places[j] * a.size + i, end - i) * weights[j];
            store(sum, a.out + row * a.size + i, end - i);
        }
    }
}

KERNEL(route, float32, Route<float>)
KERNEL(route, bfloat16, Route<bf16>)
KERNEL(combine, float32, Combine<float>)
KERNEL(combine, bfloat16, Combine<bf16>)
