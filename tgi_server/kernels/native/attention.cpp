// Attention of new positions over their sequences' cached keys and values, read in place through the block tables;
// declared in kernels/attention.py. What makes layers differ are values of the arguments.
#include <omp.h>

#include "heads.h"

// New positions of a sequence, from number `offset` of those in this step on: they share the reading of keys.
struct Tile {
    int64_t sequence, offset, rows;
};

#define ATTEND(member)                                                                                            \
    member(const T*, query) member(const T*, keys) member(const T*, values) member(const int64_t*, starts)        \
    member(const int64_t*, contexts) member(const int64_t*, tables) member(const Tile*, tiles)                    \
    member(float*, scratch) /* see sums and states */ member(T*, out)                                             \
    member(const float*, slopes) member(const float*, sinks) /* one for each query head, or none */               \
    member(const float*, biases) /* [heads, 2 * reach + 1], or none */                                            \
    member(int64_t, table_width) member(int64_t, count) /* of tiles */ member(int64_t, most_rows) /* of a tile */ \
    member(int64_t, parts) /* into which a tile's context is cut */                                               \
    member(int64_t, heads) member(int64_t, kv) member(int64_t, key_width) member(int64_t, value_width)            \
    member(int64_t, window) member(int64_t, causal) member(int64_t, reach) /* of the biases */                    \
    member(double, scale) member(double, softcap) /* 0: none */

template <typename T>
struct Attend {
    MEMBERS(ATTEND)

    long group() const { return heads / kv; }  // query heads of a key/value head, which lie side by side
    long width() const { return most_rows * group(); }
    // For each part of a tile and head (each thread, when there are no parts) the scratch memory holds the sums
    // [width, value_width], then maxima and sums of weights.
    float* sums(long slot) const { return scratch + slot * width() * (value_width + 2); }
    float* states(long slot) const { return sums(slot) + width() * value_width; }
    // The first of the query heads of row i of a tile that read key/value head `head`.
    long place(const Tile& tile, long i, long head) const {
        return (starts[tile.sequence] + tile.offset + i) * heads + head * group();
    }
    // The position of row i of a tile in its sequence, and what it sees: [first, end).
    long position(const Tile& tile, long i) const {
        const long s = tile.sequence;
        return contexts[s] - (starts[s + 1] - starts[s]) + tile.offset + i;
    }
    long first(const Tile& tile, long i) const { return std::max(0L, position(tile, i) + 1 - window); }
    long end(const Tile& tile, long i) const { return causal ? position(tile, i) + 1 : contexts[tile.sequence]; }
};

// The query heads of a tile that read one key/value head, row by row, before they have met any block.
template <typename T>
static void prepare(const Attend<T>& a, const Tile& tile, long head, float* sums, Head<T>* heads) {
    const long group = a.group();
    std::fill(sums, sums + tile.rows * group * a.value_width, 0.0f);
    for (long i = 0; i < tile.rows; i++) {
        const T* query = a.query + a.place(tile, i, head) * a.key_width;
        const long position = a.position(tile, i), first = a.first(tile, i), end = a.end(tile, i);
        for (long g = 0; g < group; g++, query += a.key_width, sums += a.value_width)
            *heads++ = {query, sums, position, first, end, a.slopes ? a.slopes[head * group + g] : 0,
                        a.biases ? a.biases + (head * group + g) * (2 * a.reach + 1) + a.reach : nullptr};
    }
}

// They meet the blocks [begin, end).
template <typename T>
static void attend_blocks(const Attend<T>& a, const Tile& tile, long head, long begin, long end, Head<T>* heads) {
    const long count = tile.rows * a.group(), kw = a.key_width, vw = a.value_width;
    const long seen = a.first(tile, 0), unseen = a.end(tile, tile.rows - 1);
    const int64_t* table = a.tables + tile.sequence * a.table_width;
    const Scoring how{static_cast<float>(a.scale), static_cast<float>(a.softcap), a.reach,
                      a.softcap > 0 || a.slopes || a.biases};
    Block<T> block(kw, vw);
    long from = 0, to = 0;  // the heads that see something of a block: early rows end before it, late ones begin after
    for (long b = begin; b < end; b++) {
        const long start = b * BLOCK, at = (table[b] * a.kv + head) * BLOCK;
        const long next = (table[std::min(b + 1, end - 1)] * a.kv + head) * BLOCK;
        block.read_keys(a.keys + at * kw, a.keys + next * kw);
        block.read_values(a.values + at * vw, a.values + next * vw, seen - start, unseen - start);
        while (from < count && heads[from].end <= start) from++;
        while (to < count && heads[to].first < start + BLOCK) to++;
        meet_all(to - from, heads + from, block, start, how);
    }
}

// The result of query head n of a tile and head: the sums of all parts, each weighted by how its maximum compares with
// the largest. `sink` is a score that has no value.
template <typename T>
static inline void join(const Attend<T>& a, long first, long n, float sink, T* out) {
    const long width = a.value_width;
    float best = sink, weights[a.parts];
    for (long p = 0; p < a.parts; p++) best = std::max(best, a.states(first + p)[2 * n]);
    float sum = sink > NOTHING ? std::exp(sink - best) : 0;
    for (long p = 0; p < a.parts; p++) {
        weights[p] = std::exp(a.states(first + p)[2 * n] - best);
        sum += a.states(first + p)[2 * n + 1] * weights[p];
    }
    for (long j = 0; j < width; j += LANES) {
        vec sums{};
        for (long p = 0; p < a.parts; p++) sums += load(a.sums(first + p) + n * width + j) * weights[p];
        store(sums / sum, out + j);
    }
}

template <typename T>
static void join_all(const Attend<T>& a, const Tile& tile, long head, long first) {
    const long group = a.group();
    for (long i = 0; i < tile.rows; i++)
        for (long g = 0; g < group; g++) {
            T* out = a.out + (a.place(tile, i, head) + g) * a.value_width;
            join(a, first, i * group + g, a.sinks ? a.sinks[head * group + g] : NOTHING, out);
        }
}

template <typename T>
static void attend(const Attend<T>& a) {
    const long tasks = a.count * a.kv * a.parts;
#pragma omp for schedule(dynamic, 1)
    for (long t = 0; t < tasks; t++) {
        const long task = tasks - 1 - t;  // from behind: a prompt's last tiles have the longest contexts
        const long part = task % a.parts, head = task / a.parts % a.kv;
        const long slot = a.parts > 1 ? task : omp_get_thread_num();
        const Tile& tile = a.tiles[task / a.parts / a.kv];
        const long begin = a.first(tile, 0) / BLOCK, end = (a.end(tile, tile.rows - 1) + BLOCK - 1) / BLOCK;
        const long each = (end - begin + a.parts - 1) / a.parts;
        Head<T> heads[a.width()];
        prepare(a, tile, head, a.sums(slot), heads);
        attend_blocks(a, tile, head, begin + part * each, std::min(end, begin + (part + 1) * each), heads);
        for (long n = 0; n < tile.rows * a.group(); n++) {
            a.states(slot)[2 * n] = heads[n].maximum;
            a.states(slot)[2 * n + 1] = total(heads[n].sum);
        }
        if (a.parts == 1) join_all(a, tile, head, slot);
    }
    if (a.parts == 1) return;
#pragma omp for schedule(static)
    for (long task = 0; task < a.count * a.kv; task++) join_all(a, a.tiles[task / a.kv], task % a.kv, task * a.parts);
}

KERNEL(attend, float32, Attend<float>)
KERNEL(attend, bfloat16, Attend<bf16>)
