// The operations of layers that keep a state of fixed size; declared in kernels/recurrent.py. A thread takes LANES
// channels of a sequence through all of its new positions.
#include "functions.h"
#include "kernel.h"

#define STEP(member) /* where the sequences of a step are, and which slots they have */                      \
    member(const int64_t*, starts) member(const int64_t*, contexts) member(const int64_t*, tables)           \
    member(T*, out) member(int64_t, sequences) member(int64_t, channels)

#define CONVOLVE(member)                                                                                     \
    member(const T*, projected) member(const float*, weight) member(const float*, bias) /* or none */        \
    member(float*, state) STEP(member) member(int64_t, taps) member(int64_t, table_width)

#define SCAN(member)                                                                                         \
    member(const T*, x) member(const T*, time) member(const T*, select) member(const T*, projected)          \
    member(const float*, rates) member(const float*, skip) member(const float*, bias) member(float*, state)  \
    STEP(member) member(int64_t, states) member(int64_t, table_width)

template <typename T>
struct Convolve {
    MEMBERS(CONVOLVE)
};

template <typename T>
struct Scan {
    MEMBERS(SCAN)
};

static inline float number(float x) { return x; }
static inline float number(bf16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }

// log(1 + e^x); the logarithm as 2 artanh(u / (2 + u)), u = e^-|x|, by its series, whose argument is at most 1/3
static inline vec softplus(vec x) {
    const vec u = exponential(-magnitude(x)), s = u / (2.0f + u), square = s * s;
    vec y = square * (1.0f / 13) + 1.0f / 11;
    y = y * square + 1.0f / 9;
    y = y * square + 1.0f / 7;
    y = y * square + 1.0f / 5;
    y = y * square + 1.0f / 3;
    return relu(x) + 2.0f * s * (y * square + 1.0f);
}

// Rows of LANES channels, of which `left` are there, `stride` apart: from a slot, or zeros for a sequence that begins.
static inline void begin(bool fresh, const float* slot, long rows, long stride, long left, vec* held) {
    for (long i = 0; i < rows; i++) held[i] = fresh ? vec{} : load(slot + i * stride, left);
}
static inline void keep(const vec* held, long rows, long stride, long left, float* slot) {
    for (long i = 0; i < rows; i++) store(held[i], slot + i * stride, left);
}

// `work(sequence, first channel, whether the sequence begins)` for all sequences and channels
template <typename A, typename Work>
static inline void each(const A& a, Work work) {
    const long parts = (a.channels + LANES - 1) / LANES;
#pragma omp for schedule(static)
    for (long task = 0; task < a.sequences * parts; task++) {
        const long s = task / parts;
        work(s, task % parts * LANES, a.contexts[s] == a.starts[s + 1] - a.starts[s]);
    }
}

template <typename T>
static void convolve(const Convolve<T>& a) {
    each(a, [&](long s, long channel, bool fresh) {
        const long left = a.channels - channel, last = a.taps - 1;
        float* slot = a.state + a.tables[s * a.table_width] * last * a.channels + channel;
        vec held[a.taps], weights[a.taps];  // the inputs of as many positions
        begin(fresh, slot, last, a.channels, left, held);
        begin(false, a.weight + channel, a.taps, a.channels, left, weights);
        const vec bias = a.bias ? load(a.bias + channel, left) : vec{};
        for (long row = a.starts[s]; row < a.starts[s + 1]; row++) {
            held[last] = load(a.projected + row * 2 * a.channels + channel, left);
            vec sum = bias;
            for (long i = 0; i <= last; i++) sum += held[i] * weights[i];
            for (long i = 0; i < last; i++) held[i] = held[i + 1];
            store(silu(sum), a.out + row * a.channels + channel, left);
        }
        keep(held, last, a.channels, left, slot);
    });
}

template <typename T>
static void scan(const Scan<T>& a) {
    each(a, [&](long s, long channel, bool fresh) {
        const long left = a.channels - channel;
        float* slot = a.state + a.tables[s * a.table_width] * a.states * a.channels + channel;
        vec held[a.states], rates[a.states];
        begin(fresh, slot, a.states, a.channels, left, held);
        begin(false, a.rates + channel, a.states, a.channels, left, rates);
        const vec bias = load(a.bias + channel, left), skip = load(a.skip + channel, left);
        for (long row = a.starts[s]; row < a.starts[s + 1]; row++) {
            const long at = row * a.channels + channel;
            const T *before = a.select + row * 2 * a.states, *after = before + a.states;
            const vec x = load(a.x + at, left), d = softplus(load(a.time + at, left) + bias), dx = d * x;
            vec y = skip * x;
            for (long n = 0; n < a.states; n++) {
                held[n] = exponential(d * rates[n]) * held[n] + dx * number(before[n]);
                y += held[n] * number(after[n]);
            }
            store(y * silu(load(a.projected + at + (row + 1) * a.channels, left)), a.out + at, left);
        }
        keep(held, a.states, a.channels, left, slot);
    });
}

KERNEL(convolve, float32, Convolve<float>)
KERNEL(convolve, bfloat16, Convolve<bf16>)
KERNEL(scan, float32, Scan<float>)
KERNEL(scan, bfloat16, Scan<bf16>)
