// The hash that noise and watermark are made of, and the race of the tokens of one row for being drawn.
#pragma once
#include <cmath>
#include <cstdint>

// A round of the finaliser of SplitMix64.
static inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

static const int64_t ALL = 1ll << 53;  // hashes that make uniform numbers

// The number in (0, 1) for the 53 bits of a hash.
static inline double uniform(uint64_t bits) { return (static_cast<double>(bits) + 0.5) / ALL; }

// How many of all hashes give numbers below `part`.
static inline uint64_t below(double part) {
    uint64_t count = static_cast<uint64_t>(part * ALL);
    while (count > 0 && !(uniform(count - 1) < part)) count--;
    while (count < ALL && uniform(count) < part) count++;
    return count;
}

// Who has the largest sum of score and Gumbel noise -log(-log u).
//
// It is enough to look at few tokens: exp(score) / -log u is largest for the same one, and -log u >= 1 - u, so that one
// whose 1 - u is not below exp(score) / (the largest so far) has lost. That is a comparison of the hash.
class Race {
public:
    Race(uint64_t seed, int64_t position, float best, float negligible)
        : key(mix(mix(seed) + position)), best(best), least(best - negligible) {}

    // 2^53 times 1 - u of a token, rounded up.
    int64_t rest(long id) const { return ALL - static_cast<int64_t>(bits(id)); }

    // The largest rest with which a token may still win that has `mass` = exp(score - best).
    int64_t limit(double mass) const {
        const double most = mass * reach * ALL;
        return most < ALL ? static_cast<int64_t>(most * 1.0001) + 1 : ALL;
    }

    void enter(long id, float score) {
        if (score < least) return;
        const double noisy = score - std::log(-std::log(uniform(bits(id))));
        if (noisy < lead || (noisy == lead && id > winner)) return;
        winner = id;
        lead = noisy;
        reach = std::exp(best - lead);
    }

    long winner = 0;

private:
    uint64_t bits(long id) const { return mix(key + id) >> 11; }

    uint64_t key;
    float best, least;
    double lead = -INFINITY, reach = INFINITY;
};
