// Attention of new positions over their sequences' cached keys and values, read in place through the block tables.
#include <omp.h>

#include "vectors.h"

static const long BLOCK = LANES;  // positions in a cache block: one vector of scores
static const ivec NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const float NOTHING = -std::numeric_limits<float>::infinity();

// Columns of a 16 x 16 matrix as rows, by exchanging quarters, then quarters of these, ...
static inline void transpose(uvec* rows) {
    static const ivec low[4] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                                {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                                {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                                {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}};
#pragma GCC unroll 4
    for (long level = 0; level < 4; level++) {
        const long half = 8 >> level;
#pragma GCC unroll 16
        for (long i = 0; i < 16; i++) {
            if (i & half) continue;
            const uvec a = rows[i], b = rows[i + half];
            rows[i] = __builtin_shuffle(a, b, low[level]);
            rows[i + half] = __builtin_shuffle(a, b, low[level] + static_cast<int32_t>(half));
        }
    }
}

// Keys or values of one head in one block, in the order in which the products want them.
template <typename T, long DV>
struct Block {
    static constexpr long UNITS = DV * LANES / PER_UNIT<T>;  // of one key
    static constexpr long PAIRS = BLOCK / PER_UNIT<T>;       // units of positions, of the values
    uvec keys[UNITS];                                        // each a unit of 16 positions
    uvec values[PAIRS][DV];                                  // each a unit of positions for 16 numbers of the head

    // `next` is the block that is wanted after this one: the memory is told in time.
    void read_keys(const T* k, const T* next) {
#pragma GCC unroll 1
        for (long c = 0; c < UNITS; c += LANES) {
            uvec rows[LANES];
#pragma GCC unroll 16
            for (long p = 0; p < BLOCK; p++) {
                const long at = p * DV * LANES + c * PER_UNIT<T>;
                rows[p] = load_units(k + at);
                __builtin_prefetch(next + at);
            }
            transpose(rows);
#pragma GCC unroll 16
            for (long i = 0; i < LANES; i++) keys[c + i] = rows[i];
        }
    }
    // What lies beyond `count` positions may be anything, NaN too: it is left out.
    void read_values(const T* v, const T* next, long count) {
        for (long i = 0; i < PAIRS; i++)
            for (long j = 0; j < DV; j++) {
                uvec unit{};
                __builtin_prefetch(next + (i * DV + j) * LANES * PER_UNIT<T>);
                const long first = i * PER_UNIT<T>;
                if (first < count) unit = bits(v + first * DV * LANES + j * LANES);
                if (PER_UNIT<T> > 1 && first + 1 < count) unit |= bits(v + (first + 1) * DV * LANES + j * LANES) << 16;
                values[i][j] = unit;
            }
    }
    static uvec bits(const float* from) { return load_units(from); }
    static uvec bits(const bf16* from) { return (uvec)load(from) >> 16; }
};

// A softmax-weighted sum of values so far (online softmax, arXiv:1805.02867); `sum` is still to be added up.
struct Partial {
    float maximum = NOTHING;
    vec sum{};
};

static inline float largest(vec x) {
#pragma GCC unroll 4
    for (long half = 8; half; half >>= 1) {
        const vec other = __builtin_shuffle(x, (NUMBERS + static_cast<int32_t>(half)) & 15);
        x = x > other ? x : other;
    }
    return x[0];
}

// N query heads meet one block: query[n] sees `seen[n]` of its positions.
template <typename T, long DV, long N>
static inline void meet(const T* const* query, const long* seen, const Block<T, DV>& block, float scale, Partial* state,
                        float* const* acc) {
    using B = Block<T, DV>;
    constexpr long CHAINS = N == 1 ? 4 : 2;  // sums in flight hide the latency of the additions
    vec scores[N][CHAINS] = {};
    for (long u = 0; u < B::UNITS; u += CHAINS)
#pragma GCC unroll 4
        for (long c = 0; c < CHAINS; c++)
#pragma GCC unroll 4
            for (long n = 0; n < N; n++)
                scores[n][c] =
                    multiply_add<T>(scores[n][c], block.keys[u + c], load_unit(query[n] + (u + c) * PER_UNIT<T>));
    T weights[N][BLOCK];
    float shrink[N];
#pragma GCC unroll 4
    for (long n = 0; n < N; n++) {
        vec s = scores[n][0];
        for (long c = 1; c < CHAINS; c++) s += scores[n][c];
        s *= scale;
        if (seen[n] < BLOCK) s = NUMBERS < static_cast<int32_t>(seen[n]) ? s : vec{} + NOTHING;
        const float before = state[n].maximum, best = std::max(before, largest(s));
        vec w = exponential(s - best);
        if (seen[n] < BLOCK) w = NUMBERS < static_cast<int32_t>(seen[n]) ? w : vec{};
        shrink[n] = best > before ? exponential(vec{} + (before - best))[0] : 1.0f;
        state[n].maximum = best;
        state[n].sum = state[n].sum * shrink[n] + w;
        store(w, weights[n]);
    }
    asm volatile("" ::: "memory");  // the weights are to be broadcast from memory, not picked from registers
    constexpr long J = DV < 4 ? DV : DV % 4 ? 3 : 4;
    for (long first = 0; first < DV; first += J) {
        vec sums[N][J];
#pragma GCC unroll 4
        for (long n = 0; n < N; n++)
#pragma GCC unroll 4
            for (long j = 0; j < J; j++) sums[n][j] = load(acc[n] + (first + j) * LANES) * shrink[n];
#pragma GCC unroll 1
        for (long i = 0; i < B::PAIRS; i++)
#pragma GCC unroll 4
            for (long n = 0; n < N; n++)
#pragma GCC unroll 4
                for (long j = 0; j < J; j++)
                    sums[n][j] =
                        multiply_add<T>(sums[n][j], block.values[i][first + j], load_unit(weights[n] + i * PER_UNIT<T>));
#pragma GCC unroll 4
        for (long n = 0; n < N; n++)
#pragma GCC unroll 4
            for (long j = 0; j < J; j++) store(sums[n][j], acc[n] + (first + j) * LANES);
    }
}

static const long AT_ONCE = 4;  // query heads whose sums stay in registers

template <typename T, long DV>
static void meet_all(long count, const T* const* query, const long* seen, const Block<T, DV>& block, float scale,
                     Partial* state, float* const* acc) {
    for (long n = 0; n < count; n += AT_ONCE) switch (count - n) {
            case 1: meet<T, DV, 1>(query + n, seen + n, block, scale, state + n, acc + n); break;
            case 2: meet<T, DV, 2>(query + n, seen + n, block, scale, state + n, acc + n); break;
            case 3: meet<T, DV, 3>(query + n, seen + n, block, scale, state + n, acc + n); break;
            default: meet<T, DV, 4>(query + n, seen + n, block, scale, state + n, acc + n);
        }
}

// New positions of a sequence, from number `offset` of those in this step on: rows that share the reading of keys.
struct Tile {
    int64_t sequence, offset, rows;
};

template <typename T>
struct Attend {
    const T *query, *keys, *values;
    const int64_t *starts, *contexts, *tables;
    const Tile* tiles;
    // for each part of a tile and head (each thread, when there are no parts) the sums [most_rows * group, dim], then
    // maxima and sums of weights
    float* scratch;
    T* out;
    int64_t table_width, count, most_rows, parts;  // a tile's context is cut into `parts`
    int64_t heads, kv, dim;                        // those of a key/value head lie side by side
    double scale;

    long group() const { return heads / kv; }
    long width() const { return most_rows * group(); }
    float* sums(long slot) const { return scratch + slot * width() * (dim + 2); }
    float* states(long slot) const { return sums(slot) + width() * dim; }
    // positions that the first row of a tile sees
    long context(const Tile& tile) const {
        const long s = tile.sequence;
        return contexts[s] - (starts[s + 1] - starts[s]) + tile.offset + 1;
    }
    // where query head n of a tile begins, in `query` and in `out`
    long place(const Tile& tile, long head, long n) const {
        return ((starts[tile.sequence] + tile.offset + n / group()) * heads + head * group() + n % group()) * dim;
    }
};

// One tile and key/value head over blocks [begin, end); `acc [rows * group, dim]` and `state` start from nothing.
template <typename T, long DV>
static void attend_tile(const Attend<T>& a, const Tile& tile, long head, long begin, long end, Partial* state,
                        float* acc) {
    const long group = a.group(), dim = DV * LANES, count = tile.rows * group, context = a.context(tile);
    const int64_t* table = a.tables + tile.sequence * a.table_width;
    const T* queries[count];
    float* sums[count];
    long seen[count];
    for (long n = 0; n < count; n++) {
        queries[n] = a.query + a.place(tile, head, n);
        sums[n] = acc + n * dim;
        state[n] = Partial{};
    }
    std::fill(acc, acc + count * dim, 0.0f);
    Block<T, DV> block;
    for (long b = begin; b < end; b++) {
        const long at = (table[b] * a.kv + head) * BLOCK * dim;
        const long next = (table[std::min(b + 1, end - 1)] * a.kv + head) * BLOCK * dim;
        block.read_keys(a.keys + at, a.keys + next);
        block.read_values(a.values + at, a.values + next, context + tile.rows - 1 - b * BLOCK);
        long blind = 0;  // the first rows may see nothing of the last blocks
        for (long n = 0; n < count; n++) {
            seen[n] = std::min(context + n / group - b * BLOCK, BLOCK);
            blind += seen[n] <= 0;
        }
        meet_all<T, DV>(count - blind, queries + blind, seen + blind, block, static_cast<float>(a.scale), state + blind,
                        sums + blind);
    }
}

// The parts of one tile and head together, each weighted by how its maximum compares with the largest.
template <typename T, long DV>
static void join(const Attend<T>& a, const Tile& tile, long head, long first) {
    const long dim = DV * LANES;
    for (long n = 0; n < tile.rows * a.group(); n++) {
        float best = NOTHING, sum = 0;
        for (long p = 0; p < a.parts; p++) best = std::max(best, a.states(first + p)[2 * n]);
        vec sums[DV] = {};
        for (long p = 0; p < a.parts; p++) {
            const float* state = a.states(first + p) + 2 * n;
            const float weight = std::exp(state[0] - best);
            sum += state[1] * weight;
            for (long j = 0; j < DV; j++) sums[j] += load(a.sums(first + p) + n * dim + j * LANES) * weight;
        }
        for (long j = 0; j < DV; j++) store(sums[j] / sum, a.out + a.place(tile, head, n) + j * LANES);
    }
}

template <typename T, long DV>
static void attend_width(const Attend<T>& a) {
    const long tasks = a.count * a.kv * a.parts;
#pragma omp for schedule(dynamic, 1)
    for (long t = 0; t < tasks; t++) {
        const long task = tasks - 1 - t;  // from behind: a prompt's last tiles have the longest contexts
        const long part = task % a.parts, head = task / a.parts % a.kv, slot = a.parts > 1 ? task : omp_get_thread_num();
        const Tile& tile = a.tiles[task / a.parts / a.kv];
        const long blocks = (a.context(tile) + tile.rows - 1 + BLOCK - 1) / BLOCK, each = (blocks + a.parts - 1) / a.parts;
        Partial state[a.width()];
        attend_tile<T, DV>(a, tile, head, part * each, std::min(blocks, (part + 1) * each), state, a.sums(slot));
        for (long n = 0; n < tile.rows * a.group(); n++) {
            a.states(slot)[2 * n] = state[n].maximum;
            a.states(slot)[2 * n + 1] = total(state[n].sum);
        }
        if (a.parts == 1) join<T, DV>(a, tile, head, slot);
    }
    if (a.parts == 1) return;
#pragma omp for schedule(static)
    for (long task = 0; task < a.count * a.kv; task++)
        join<T, DV>(a, a.tiles[task / a.kv], task % a.kv, task * a.parts);
}

// A kernel for each head width; the caller has checked that there is one.
template <typename T>
static void attend(const Attend<T>& a) {
    switch (a.dim / LANES) {
        case 2: return attend_width<T, 2>(a);
        case 4: return attend_width<T, 4>(a);
        case 6: return attend_width<T, 6>(a);
        case 8: return attend_width<T, 8>(a);
    }
}

KERNEL(attend, Attend<float>, float32)
KERNEL(attend, Attend<bf16>, bfloat16)
