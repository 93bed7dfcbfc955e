// Functions of a vector of numbers. Coefficients without a source are our own least-maximum fits.
#pragma once
#include "vectors.h"

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

static inline vec magnitude(vec x) { return (vec)((uvec)x & 0x7fffffff); }

// tanh x: near 0 an odd polynomial, as 1 - 2 / (e^2x + 1) would cancel there; relative error below 1e-6
static inline vec hyperbolic_tangent(vec x) {
    const vec square = x * x;
    vec y = square * -5.515127544e-3f + 2.046939132e-2f;
    y = y * square - 5.368801584e-2f;
    y = y * square + 1.333083028e-1f;
    y = y * square - 3.333325985e-1f;
    return magnitude(x) < 0.625f ? y * square * x + x : 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
}

// The standard normal distribution's probability of more than x >= 0, 1/2 erfc(x / sqrt 2), as e^(-x^2 / 2) times a
// polynomial in 1 / (1 + 0.3 x / sqrt 2); relative error below 1e-7 but for the rounding of the exponent
static inline vec normal_tail(vec x) {
    const vec t = 1.0f / (1.0f + 0.212132034f * x);
    vec y = t * -6.471685760e-2f + 2.425473479e-1f;
    y = y * t - 2.556114198e-1f;
    y = y * t + 2.731954610e-1f;
    y = y * t - 4.681418990e-2f;
    y = y * t + 1.072175178e-1f;
    y = y * t + 7.424137828e-2f;
    y = y * t + 8.534594370e-2f;
    y = y * t + 8.459480887e-2f;
    return y * t * exponential(-0.5f * x * x);
}

static inline vec silu(vec x) { return x / (1.0f + exponential(-x)); }
static inline vec relu(vec x) { return x < 0.0f ? vec{} : x; }

// x times the normal distribution's probability of less than x (arXiv:1606.08415), symmetric so that nothing cancels
static inline vec gelu(vec x) {
    vec size = magnitude(x);
    size = size > 13.0f ? vec{} + 13.0f : size;  // beyond it nothing is left, and infinity times 0 is no number
    return relu(x) - size * normal_tail(size);
}

// The same by 1/2 (1 + tanh u) = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
static inline vec gelu_tanh(vec x) { return x / (1.0f + exponential(-1.59576912f * (x + 0.044715f * x * x * x))); }
