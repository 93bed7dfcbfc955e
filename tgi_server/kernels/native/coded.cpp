// Products with weights kept as codes in groups of inputs (formats.py: Grouped, GroupedByteInputs, Int8Outlier).
#include <limits>

#include "coded.h"
#include "functions.h"
#include "tiled.h"

// One layer's weight. A group has its inputs side by side, and is filled up to whole quads.
#define CODED_WEIGHT(member)                                                                                          \
    member(const uint8_t*, panels) member(const float*, scale) /* [panels][groups][PANEL] */                          \
    member(const bf16*, offset) /* the same, or none */ member(const float*, book) /* numbers of codes of 4 bits */   \
    member(const int64_t*, order) /* [quads * QUAD], which input is where, -1 for none; or as they are */             \
    member(const int64_t*, ends) /* [groups], in quads */ member(const float*, bias) /* or none */                    \
    member(int64_t, quads) member(int64_t, groups) member(int64_t, own_book) /* whether it is not -8, -7, ... */

struct CodedWeight {
    MEMBERS(CODED_WEIGHT)
};

#define CODED(member)                                                                                            \
    member(const int64_t*, starts) member(const int64_t*, active) /* as in Route (experts.cpp), or none for one */ \
    member(const CodedWeight*, weights) member(const T*, x) member(T*, out) member(char*, scratch)               \
    member(int64_t, rows) member(int64_t, inner) member(int64_t, outer)                                          \
    member(int64_t, room) /* bytes of scratch a row, */                                                          \
    member(int64_t, seen) /* and behind all of them bfloat16 numbers a row, for tiles; or none */                \
    member(double, threshold) /* of inputs not in steps */

// out = x @ weight.T + bias, with x as they are, or in steps.
template <typename T, typename X>
struct Coded {
    MEMBERS(CODED)

    long experts() const { return active ? active[0] : 1; }
    long expert(long i) const { return active ? active[1 + i] : 0; }
    long expert_of(long row) const {
        long e = 0;
        while (starts && starts[e + 1] <= row) e++;
        return e;
    }
    long first(long e) const { return starts ? starts[e] : 0; }
    long count(long e) const { return starts ? starts[e + 1] - starts[e] : rows; }
};

static const long DECODE_ONCE = 2 * TILE;  // rows from which a panel is decoded once before its products

static const long FEW = 8;  // rows for which nothing is done that only many are worth

struct Outlier {
    int32_t place;  // of the input, in the weight's order
    float value;
};

static inline long aligned(long bytes) { return (bytes + 63) / 64 * 64; }

static const auto sum_of = [](auto a, auto b) { return a + b; };
static const auto larger_of = [](ivec a, ivec b) { return a > b ? a : b; };

// A row of inputs as the product wants it: where its parts lie in its scratch memory.
template <typename X>
struct Made {
    char* from;
    long room, quads, groups;

    X* x(long row) const { return reinterpret_cast<X*>(from + row * room); }
    float* sums(long row) const { return part<float>(row, 0); }      // of each group
    float* steps(long row) const { return part<float>(row, 1); }     // how large one is
    int32_t* begins(long row) const { return part<int32_t>(row, 2); }  // the sum from which a group begins
    int64_t* count(long row) const { return part<int64_t>(row, 3); }   // of outliers
    Outlier* outliers(long row) const { return reinterpret_cast<Outlier*>(count(row) + 1); }

  private:
    template <typename N>
    N* part(long row, long i) const {
        return reinterpret_cast<N*>(from + row * room + aligned(quads * QUAD * sizeof(X)) + i * aligned(groups * 4));
    }
};

// The inputs of a row in the weight's order, as floats with zeros for what is not there; `positions` of them.
template <typename T>
static const float* ordered(const T* x, const int64_t* order, long inner, long positions) {
    static thread_local std::vector<float> wide;
    const long whole = (positions + LANES - 1) / LANES * LANES;
    if (wide.size() < static_cast<size_t>(whole)) wide.resize(whole);
    if (!order) {
        for (long i = 0; i < whole; i += LANES) store(i < inner ? load(x + i, inner - i) : vec{}, &wide[i]);
    } else {
        for (long i = 0; i < positions; i++) {
            if constexpr (sizeof(T) == 4) wide[i] = order[i] < 0 ? 0.0f : x[order[i]];
            else wide[i] = order[i] < 0 ? 0.0f : as_float(uint32_t(x[order[i]].bits) << 16);
        }
        for (long i = positions; i < whole; i++) wide[i] = 0;
    }
    return wide.data();
}

static inline bf16 rounded(float x) {
    bf16 numbers[LANES];
    store(vec{} + x, numbers);
    return numbers[0];
}
static inline float as_number(float x) { return x; }
static inline float as_number(bf16 x) { return as_float(uint32_t(x.bits) << 16); }

// As they are: in order, and their sums where the weight has offsets.
template <typename T>
static void make_row(const T* x, const CodedWeight& w, const Made<T>& made, long row, long inner, float, long) {
    T* to = made.x(row);
    if (w.order)
        for (long i = 0; i < w.quads * QUAD; i++) to[i] = w.order[i] < 0 ? T{} : x[w.order[i]];
    else
        std::memcpy(to, x, inner * sizeof(T));
    if (!w.offset) return;
    float* sums = made.sums(row);
    for (long g = 0, i = 0; g < w.groups; g++) {
        const long end = w.ends[g] * QUAD;
        vec sum{};
        for (; i + LANES <= end; i += LANES) sum += load(to + i);
        float all = joined(sum, sum_of);
        for (; i < end; i++) all += as_number(to[i]);
        sums[g] = all;
    }
}

// Whole numbers up to 127 in the order of bytes in a block; `left` of them.
static inline void store_steps(ivec q, int8_t* to, long left, bool swapped) {
    if (swapped) q = __builtin_shuffle(q, NUMBERS & ~3 | NUMBERS << 1 & 2 | NUMBERS >> 1 & 1);
    bytes x;
#if defined(WIDE_VECTORS)
    x = (bytes)_mm512_cvtepi32_epi8((__m512i)q);
#elif defined(__AVX2__)
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)q), _mm256_extracti128_si256((__m256i)q, 1));
    const __m128i packed = _mm_packs_epi16(words, words);
    std::memcpy(&x, &packed, sizeof x);
#else
    x = __builtin_convertvector(q, bytes);
#endif
    if (left >= LANES) std::memcpy(to, &x, sizeof x);
    else std::memcpy(to, &x, left);
}

// In steps; those from the threshold on go to a list, and are 0 here.
template <typename T>
static void make_row(const T* x, const CodedWeight& w, const Made<int8_t>& made, long row, long inner, float threshold,
                     long bits) {
    const long positions = w.quads * QUAD;
    float* in = const_cast<float*>(ordered(x, w.order, inner, positions));
    int8_t* to = made.x(row);
    int64_t& count = *made.count(row);
    count = 0;
    if (threshold < std::numeric_limits<float>::infinity()) {
        Outlier* outliers = made.outliers(row);
        for (long i = 0; i < positions; i++)
            if (!(std::fabs(in[i]) < threshold)) outliers[count++] = {static_cast<int32_t>(i), in[i]}, in[i] = 0;
    }
    const float book = w.own_book ? BookBytes::step_of(w.book) : 1.0f;
    const int32_t base = bits == 4 && !w.own_book ? 8 : 128;
    for (long g = 0, i = 0; g < w.groups; g++) {
        const long begin = i, end = w.ends[g] * QUAD;
        ivec most{};  // bits of magnitudes, of which those of what is not a finite number are the largest
        for (; i < end; i += LANES) most = larger_of(most, (ivec)magnitude(load(in + i, end - i)));
        const float largest = as_float(joined(most, larger_of));
        const float step = largest == 0 ? std::numeric_limits<float>::min() : largest / 127;
        ivec sum{};
        for (i = begin; i < end; i += LANES) {
            const vec v = load(in + i, end - i) / step;
            const ivec q = __builtin_convertvector(v + 12582912.0f - 12582912.0f, ivec);  // rounds to nearest
            sum += q;
            store_steps(q, to + i, end - i, bits == 4);
        }
        i = end;
        const int32_t all = joined(sum, sum_of);
        made.begins(row)[g] = -base * all;
        made.steps(row)[g] = step * book;
        made.sums(row)[g] = all / book;
    }
}

// What a product of some rows with a panel reads.
template <typename X>
struct Task {
    const CodedWeight& weight;
    Made<X> made;
    const char* x;  // of the first row
    long stride;    // bytes from row to row
    long panel;
};

// Sums of R rows from `row` on with one panel.
template <typename X, typename Decoder, long R>
static void multiply(const Task<X>& t, const Decoder& decode, const uint8_t* panel, long row, Ahead ahead,
                     vec (*result)[WIDTH]) {
    constexpr long CHAINS = WIDTH > 2 ? 1 : R == 1 ? 4 : R <= 3 ? 2 : 1;  // in flight: hides the additions' latency
    constexpr long ONCE = CHAINS > UNITS<X> ? CHAINS / UNITS<X> : 1;  // quads
    const CodedWeight& w = t.weight;
    const char* x = t.x + row * t.stride;
    const float* scale = w.scale + t.panel * w.groups * PANEL;
    const bf16* offset = w.offset ? w.offset + t.panel * w.groups * PANEL : nullptr;
    vec totals[R][WIDTH] = {};
    for (long g = 0, q = 0; g < w.groups; g++) {
        const long end = w.ends[g], whole = q + (end - q) / ONCE * ONCE;
        Sum<X> part[CHAINS][R][WIDTH] = {};
        if constexpr (std::is_same_v<X, int8_t>)
            for (long r = 0; r < R; r++)
                for (long v = 0; v < WIDTH; v++) part[0][r][v] = ivec{} + t.made.begins(row + r)[g];
        auto step = [&](long q, long chain) __attribute__((always_inline)) {
            __builtin_prefetch(ahead.from + q * ahead.bytes);
            __builtin_prefetch(ahead.from + q * ahead.bytes + ahead.bytes / 2);
#pragma GCC unroll 4
            for (long u = 0; u < UNITS<X>; u++) {
                uvec weights[WIDTH];
                decode(panel + q * Decoder::BLOCK_BYTES, u, weights);
                auto& into = part[(chain * UNITS<X> + u) % CHAINS];
                const char* unit = x + q * QUAD * sizeof(X) + Decoder::place(u) * 4;
#pragma GCC unroll 12
                for (long r = 0; r < R; r++) {
                    const uint32_t one = load_unit(unit + r * t.stride);
#pragma GCC unroll 4
                    for (long v = 0; v < WIDTH; v++) into[r][v] = add_products<X>(into[r][v], weights[v], one);
                }
            }
        };
        for (; q < whole; q += ONCE)
#pragma GCC unroll 4
            for (long c = 0; c < ONCE; c++) step(q + c, c);
        for (; q < end; q++) step(q, 0);
#pragma GCC unroll 4
        for (long v = 0; v < WIDTH; v++) {
            const vec size = load(scale + g * PANEL + v * LANES);
            const vec shift = offset ? load(offset + g * PANEL + v * LANES) : vec{};
#pragma GCC unroll 12
            for (long r = 0; r < R; r++) {
                Sum<X> sum = part[0][r][v];
                for (long c = 1; c < CHAINS; c++) sum += part[c][r][v];
                vec number;
                if constexpr (std::is_same_v<X, int8_t>) number = __builtin_convertvector(sum, vec);
                else number = sum;
                if (offset) number += shift * t.made.sums(row + r)[g];
                if constexpr (std::is_same_v<X, int8_t>) totals[r][v] += number * (size * t.made.steps(row + r)[g]);
                else totals[r][v] += number * size;
            }
        }
    }
    std::memcpy(result, totals, sizeof totals);
}

// What a row's outliers add: each its value times the weights of its input, a byte of the panel's blocks.
static void add_outliers(const Task<int8_t>& t, long row, vec* totals) {
    const uint8_t* panel = t.weight.panels + t.panel * t.weight.quads * QUAD * PANEL;
    const Outlier* outliers = t.made.outliers(row);
    for (long i = 0; i < *t.made.count(row); i++) {
        const long q = outliers[i].place / QUAD, shift = outliers[i].place % QUAD * 8;
        for (long v = 0; v < WIDTH; v++) {
            const uvec codes = load_units(panel + (q * WIDTH + v) * sizeof(uvec)) >> static_cast<uint32_t>(shift) & 255u;
            const vec number = __builtin_convertvector((ivec)codes - 128, vec);
            totals[v] += number * load(t.weight.scale + t.panel * PANEL + v * LANES) * outliers[i].value;
        }
    }
}

// The same of R rows or fewer: one kernel for each number of rows.
template <long R, typename X, typename Decoder>
static void multiply_rows(long rows, const Task<X>& t, const Decoder& decode, const uint8_t* panel, long row,
                          Ahead ahead, vec (*totals)[WIDTH]) {
    if (rows == R) return multiply<X, Decoder, R>(t, decode, panel, row, ahead, totals);
    if constexpr (R > 1) multiply_rows<R - 1>(rows, t, decode, panel, row, ahead, totals);
}

// The results of rows [begin, end), from their sums.
template <typename T, typename X>
static void finish(const Coded<T, X>& a, const Task<X>& t, vec (*totals)[WIDTH], long begin, long end, T* out) {
    if constexpr (std::is_same_v<X, int8_t>)
        if (a.threshold < std::numeric_limits<double>::infinity())
            for (long r = begin; r < end; r++) add_outliers(t, r, totals[r - begin]);
    for (long v = 0; v < WIDTH; v++) {
        const long at = t.panel * PANEL + v * LANES, left = a.outer - at;
        if (left <= 0) return;
        const vec bias = t.weight.bias ? load(t.weight.bias + at, left) : vec{};
        for (long r = begin; r < end; r++) store(totals[r - begin][v] + bias, out + r * a.outer + at, left);
    }
}

// All rows with one panel, in tiles whose sizes differ by one at most.
template <typename T, typename X, typename Decoder>
static void all_rows(const Coded<T, X>& a, const Task<X>& t, const Decoder& decode, const uint8_t* panel, long rows,
                     T* out, Ahead next) {
    const long tiles = (rows + Decoder::DIRECT - 1) / Decoder::DIRECT;
    for (long i = 0; i < tiles; i++) {
        const long begin = rows * i / tiles, end = rows * (i + 1) / tiles;
        const Ahead ahead{next.from + t.weight.quads * next.bytes * i / tiles, next.bytes / tiles};
        vec totals[Decoder::DIRECT][WIDTH];
        multiply_rows<Decoder::DIRECT>(end - begin, t, decode, panel, begin, ahead, totals);
        finish(a, t, totals, begin, end, out);
    }
}

template <typename T, typename X, typename Decoder>
static void panel_rows(const Coded<T, X>& a, const Task<X>& t, long rows, T* out) {
    const Decoder decode(t.weight.book);
    const long size = t.weight.quads * Decoder::BLOCK_BYTES;
    const uint8_t* panel = t.weight.panels + t.panel * size;
    const Ahead next{reinterpret_cast<const char*>(panel) + size, Decoder::BLOCK_BYTES};
    if constexpr (Decoder::DIRECT == 0) {  // they lie there as they are multiplied
        all_rows(a, t, Decoded<X>{}, panel, rows, out, next);
    } else {
        constexpr long MOST = Decoder::DIRECT == TILE ? DECODE_ONCE : Decoder::DIRECT;
        if (rows <= MOST) return all_rows(a, t, decode, panel, rows, out, next);
        all_rows(a, t, Decoded<X>{}, decoded<X>(decode, panel, t.weight.quads), rows, out, next);
    }
}

#ifdef TILES
extern "C" int64_t tiles();           // linear.cpp

// The weight of input i of a quad and 16 outputs as a number; the book for inputs in steps is in steps, too.
template <long BITS, typename X>
struct Number {
    alignas(64) float book[ENTRIES];

    explicit Number(const CodedWeight& w) {
        const float step = std::is_same_v<X, int8_t> && w.own_book ? BookBytes::step_of(w.book) : 0.0f;
        for (long i = 0; BITS == 4 && i < ENTRIES; i++)
            book[i] = step > 0 ? std::nearbyint(w.book[i] / step) * step : w.book[i];
    }
    vec operator()(const uint8_t* panel, long q, long i, long v) const {
        if constexpr (BITS == 4) {
            uvec w[WIDTH];
            Nibbles<float>{book}(panel + q * Nibbles<float>::BLOCK_BYTES, Nibbles<float>::place(i), w);
            return (vec)w[v];
        } else if constexpr (std::is_same_v<X, int8_t>) {
            const uvec codes = load_units(panel + (q * WIDTH + v) * sizeof(uvec)) >> static_cast<uint32_t>(8 * i) & 255u;
            return __builtin_convertvector((ivec)codes - 128, vec);
        } else {
            uvec w[WIDTH];
            Bytes<bf16>{nullptr}(panel + q * Bytes<bf16>::BLOCK_BYTES, i / 2, w);
            return (vec)(i % 2 ? w[v] & 0xffff0000 : w[v] << 16);
        }
    }
};

// Pairs of numbers as bfloat16.
static inline uvec paired(vec first, vec second) {
    bf16 numbers[2][LANES];
    store(first, numbers[0]), store(second, numbers[1]);
    return load_halves(numbers[0]) | load_halves(numbers[1]) << 16;
}

// A panel as bfloat16 weights, in memory of the thread.
template <long BITS, typename X>
static const bf16* widened_panel(const CodedWeight& w, long p) {
    static thread_local std::vector<uvec> wide;
    const unsigned long count = w.quads * QUAD / 2 * WIDTH;
    if (wide.size() < count) wide.resize(count);
    const Number<BITS, X> number(w);
    const uint8_t* panel = w.panels + p * w.quads * QUAD * PANEL * BITS / 8;
    for (long g = 0, q = 0; g < w.groups; g++)
        for (const long at = (p * w.groups + g) * PANEL, end = w.ends[g]; q < end; q++)
            for (long v = 0; v < WIDTH; v++) {
                const vec scale = load(w.scale + at + v * LANES);
                const vec offset = w.offset ? load(w.offset + at + v * LANES) : vec{};
                auto weight = [&](long i) { return (number(panel, q, i, v) + offset) * scale; };
                for (long i = 0; i < QUAD; i += 2)
                    wide[(q * QUAD + i) / 2 * WIDTH + v] = paired(weight(i), weight(i + 1));
            }
    return reinterpret_cast<const bf16*>(wide.data());
}

// A row of inputs as bfloat16 numbers, from what was made of it.
template <long BITS, typename X>
static void see_row(const CodedWeight& w, const Made<X>& made, long row, bf16* to) {
    if constexpr (std::is_same_v<X, int8_t>) {
        const float book = w.own_book ? BookBytes::step_of(w.book) : 1.0f;
        const int8_t* x = made.x(row);
        for (long g = 0, i = 0; g < w.groups; g++)
            for (const float step = made.steps(row)[g] / book; i < w.ends[g] * QUAD; i++)
                to[i] = rounded(x[i / QUAD * QUAD + (BITS == 4 ? Nibbles<float>::place(i % QUAD) : i % QUAD)] * step);
        for (long i = 0; i < *made.count(row); i++)
            to[made.outliers(row)[i].place] = rounded(made.outliers(row)[i].value);
    } else {
        std::memcpy(to, made.x(row), w.quads * QUAD * sizeof(bf16));
    }
}

// All tasks, each a panel and as many rows as stay near: it is widened once for them.
template <long BITS, typename X>
static void coded_tiles(const Coded<bf16, X>& a) {
    const bool steps = std::is_same_v<X, int8_t>;
    bf16* seen = reinterpret_cast<bf16*>(a.scratch + a.rows * a.room);
    auto needed = [&](const CodedWeight& w) { return steps || w.order; };
#pragma omp for schedule(static)
    for (long row = 0; row < a.rows; row++) {
        const long e = a.expert_of(row), first = a.first(e);
        const CodedWeight& w = a.weights[e];
        if (!needed(w)) continue;
        const Made<X> made{a.scratch, a.room, w.quads, w.groups};
        make_row(a.x + row * a.inner, w, made, row, a.inner, static_cast<float>(a.threshold), BITS);
        see_row<BITS>(w, made, row, seen + first * a.seen + (row - first) * w.quads * QUAD);
    }
    const long panels = (a.outer + PANEL - 1) / PANEL, parts = (a.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const long near = std::max(2L, NEAR / static_cast<long>(ROWS_AT_ONCE * a.seen * sizeof(bf16)));
    const long chunks = a.active ? 1 : (parts + near - 1) / near;
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < chunks * a.experts() * panels; task++) {
        const long e = a.expert(task / panels / chunks), first = a.first(e), p = task % panels;
        const long chunk = task / panels % chunks, count = (a.count(e) + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
        const CodedWeight& w = a.weights[e];
        const bf16* x = needed(w) ? seen + first * a.seen : a.x + first * a.inner;
        const Linear<bf16, bf16, bf16> one{x, nullptr, nullptr, w.bias, a.out + first * a.outer, a.count(e),
                                           w.quads * QUAD, a.outer};
        shape_for(one.rows);
        const bf16* wide = widened_panel<BITS, X>(w, p);
        for (long t = count * chunk / chunks; t < count * (chunk + 1) / chunks; t++) {
            const Rows rows = rows_of(t, one.rows);
            vec sums[ROWS_AT_ONCE][WIDTH];
            multiply_tiles(x + rows.first * one.inner, wide, one.inner, rows.count,
                           Ahead{reinterpret_cast<const char*>(wide), 0}, sums);
            finish(one, sums, rows.first, rows.count, p * PANEL);
        }
    }
    tile_release();
}
#endif

static const long COLLIDING = 2048;  // bytes from row to row of which two are kept in the same few places of a cache
static const long ALONE = 4096;  // inputs up to which every thread makes them for itself, sooner than it would wait

static char* own_scratch(long bytes) {
    static thread_local std::vector<uvec> memory;
    const unsigned long lines = (bytes + sizeof(uvec) - 1) / sizeof(uvec);
    if (memory.size() < lines) memory.resize(lines);
    return reinterpret_cast<char*>(memory.data());
}

// All tasks, each a panel of an expert that has rows (a plain layer is an expert that has them all).
template <long BITS, typename T, typename X>
static void coded(const Coded<T, X>& a) {
#ifdef TILES
    if constexpr (sizeof(T) == sizeof(bf16))
        if (a.seen && a.rows > FEW && tiles() == 0) return coded_tiles<BITS>(a);
#endif
    const long panels = (a.outer + PANEL - 1) / PANEL, experts = a.experts();
    const bool steps = std::is_same_v<X, int8_t>;
    const bool copied = a.rows > FEW && a.room && a.inner * sizeof(T) % COLLIDING == 0;
    auto needed = [&](const CodedWeight& w) { return steps || copied || w.order || w.offset; };
    const bool alone = a.rows * a.inner <= ALONE;
    char* scratch = alone ? own_scratch(a.rows * a.room) : a.scratch;
    auto made_of = [&](const CodedWeight& w) { return Made<X>{scratch, a.room, w.quads, w.groups}; };
    auto make = [&](long row) {
        const CodedWeight& w = a.weights[a.expert_of(row)];
        if (needed(w))
            make_row(a.x + row * a.inner, w, made_of(w), row, a.inner, static_cast<float>(a.threshold), BITS);
    };
    if (a.room && alone) {
        for (long row = 0; row < a.rows; row++) make(row);
    } else if (a.room) {
#pragma omp for schedule(static)
        for (long row = 0; row < a.rows; row++) make(row);
    }
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < experts * panels; task++) {
        const long e = a.expert(task / panels), first = a.first(e), rows = a.count(e);
        const CodedWeight& w = a.weights[e];
        Task<X> t{w, made_of(w), nullptr, a.room, task % panels};
        t.made.from += first * a.room;
        t.x = t.made.from;
        if (!needed(w)) t.x = reinterpret_cast<const char*>(a.x + first * a.inner), t.stride = a.inner * sizeof(T);
        T* out = a.out + first * a.outer;
        if constexpr (BITS == 8) panel_rows<T, X, Bytes<X>>(a, t, rows, out);
        else if (!steps) panel_rows<T, X, Nibbles<X>>(a, t, rows, out);
        else if constexpr (std::is_same_v<X, int8_t>) {
            if (w.own_book) panel_rows<T, X, BookBytes>(a, t, rows, out);
            else panel_rows<T, X, Nibbles<X>>(a, t, rows, out);
        }
    }
}

template <typename T, typename X>
static void coded_4(const Coded<T, X>& a) { coded<4>(a); }
template <typename T, typename X>
static void coded_8(const Coded<T, X>& a) { coded<8>(a); }

// Named by what x and the result are, and how they are multiplied.
#define ALL(bits)                                            \
    KERNEL(coded_##bits, float32, Coded<float, float>)       \
    KERNEL(coded_##bits, bfloat16, Coded<bf16, bf16>)        \
    KERNEL(coded_##bits, float32_steps, Coded<float, int8_t>) \
    KERNEL(coded_##bits, bfloat16_steps, Coded<bf16, int8_t>)
ALL(4)
ALL(8)
extern "C" const char* coded_weight_layout() { return CodedWeight::layout(); }
