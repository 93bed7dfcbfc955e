// Norms of a row, as operations.py declares them.
#pragma once
#include "kernel.h"
#include "vectors.h"

enum { NONE = -1, IDENTITY = 0, RMS = 1, LAYER = 2, MEASURED = 3 };  // NormKind, and one whose factor is known

// The members of a struct of arguments that describe a norm, and the norm.
#define NORM(member, name)             \
    member(int64_t, name##_kind)       \
    member(const float*, name##_weight) \
    member(const float*, name##_bias)  \
    member(double, name##_eps)
#define NORM_OF(a, name) Norm{a.name##_kind, a.name##_weight, a.name##_bias, static_cast<float>(a.name##_eps)}

struct Norm {
    long kind;
    const float *weight, *bias;  // or none
    float eps, mean = 0, factor = 1;

    // Take mean and deviation of a row of `size` numbers of which at(i, left) gives LANES, or the last `left`.
    template <typename At>
    void measure(long size, At at) {
        if (kind != RMS && kind != LAYER) return;
        mean = 0;
        if (kind == LAYER) {
            vec sums{};
            for (long i = 0; i < size; i += LANES) sums += at(i, size - i);
            mean = total(sums) / size;
        }
        vec squares{};
        for (long i = 0; i < size; i += LANES) {
            vec x = at(i, size - i) - mean;
            if (size - i < LANES) x = NUMBERS < static_cast<int32_t>(size - i) ? x : vec{};
            squares += x * x;
        }
        factor = 1.0f / std::sqrt(total(squares) / size + eps);
    }
    // The RMS norm of a part that begins at number `begin` of a row whose mean square is known.
    Norm of_part(float mean_square, long begin) const {
        Norm part = *this;
        part.kind = MEASURED;
        part.factor = 1.0f / std::sqrt(mean_square + eps);
        if (weight) part.weight += begin;
        return part;
    }
    // Numbers i to i + LANES of the row, or the last `left`, after the norm.
    vec operator()(vec x, long i, long left) const {
        x = (x - mean) * factor;
        if (weight) x *= load(weight + i, left);
        if (bias) x += load(bias + i, left);
        return x;
    }
};
