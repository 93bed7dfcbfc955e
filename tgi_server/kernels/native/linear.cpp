// Matrix products of a few or many rows with a weight kept in panels: by vectors, or, of bfloat16, by tiles where the
// processor has them.
#include "linear.h"
#include "tiled.h"

#ifdef WIDE_VECTORS
#include "wide.h"
#else
#include "narrow.h"
#endif

template <typename T, typename W, typename O>
static void linear_vectors(const Linear<T, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL, parts = (a.rows + MOST_ROWS - 1) / MOST_ROWS;
    Products<T> products;  // each thread's
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < parts * panels; task++) {
        const long first = task / panels * MOST_ROWS;
        products.with(a.part(first, std::min(MOST_ROWS, a.rows - first)), task % panels);
    }
}

// What becomes of tiles; build.py knows the numbers.
enum Tiles : int64_t { USED, OFF, REFUSED, ABSENT };
#ifdef TILES
static Tiles use = tiles_permitted() ? USED : REFUSED;  // asked when the library is loaded, for all threads
#else
static Tiles use = ABSENT;
#endif

extern "C" int64_t tiles() { return use; }
// Not while kernels run.
extern "C" void use_tiles(int64_t on) {
    if (use <= OFF) use = on ? USED : OFF;
}

template <typename T, typename W, typename O>
static void linear(const Linear<T, W, O>& a) {
#ifdef TILES
    if constexpr (sizeof(T) == sizeof(bf16))
        if (use == USED) return linear_tiles(a);
#endif
    linear_vectors(a);
}

#define GROUPED(member) \
    member(const int64_t*, starts) member(const int64_t*, active) /* as in Route (experts.cpp) */ LINEAR(member)

// Products of rows that are sorted by expert, each with its expert's weights: there are as many as experts of all.
template <typename T, typename W, typename O>
struct Grouped {
    MEMBERS(GROUPED)

    Linear<T, W, O> of(long expert) const {
        const long first = starts[expert], padded = (outer + PANEL - 1) / PANEL * PANEL;
        return {x + first * inner, weight + expert * padded * inner, scale ? scale + expert * outer : nullptr,
                bias ? bias + expert * outer : nullptr, out + first * outer, starts[expert + 1] - first, inner, outer};
    }
};

template <typename T, typename W, typename O>
static void grouped(const Grouped<T, W, O>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL;
    Products<T> products;
#pragma omp for schedule(dynamic, 2)
    for (long task = 0; task < a.active[0] * panels; task++) {
        const Linear<T, W, O> one = a.of(a.active[1 + task / panels]);
#ifdef TILES
        if constexpr (sizeof(T) == sizeof(bf16))
            if (use == USED) {
                shape_for(one.rows);
                parts_with(one, task % panels, 0, (one.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
                continue;
            }
#endif
        for (long first = 0; first < one.rows; first += MOST_ROWS)
            products.with(one.part(first, std::min(MOST_ROWS, one.rows - first)), task % panels);
    }
#ifdef TILES
    if (use == USED) tile_release();
#endif
}

// Named by what x, the weight and the result are.
KERNEL(linear, float32_float32_float32, Linear<float, float, float>)
KERNEL(linear, bfloat16_bfloat16_bfloat16, Linear<bf16, bf16, bf16>)
KERNEL(linear, bfloat16_bfloat16_float32, Linear<bf16, bf16, float>)
KERNEL(linear, float32_int8_float32, Linear<float, int8_t, float>)
KERNEL(linear, bfloat16_int8_bfloat16, Linear<bf16, int8_t, bf16>)
KERNEL(grouped, float32_float32_float32, Grouped<float, float, float>)
KERNEL(grouped, float32_int8_float32, Grouped<float, int8_t, float>)
KERNEL(grouped, bfloat16_bfloat16_bfloat16, Grouped<bf16, bf16, bf16>)
KERNEL(grouped, bfloat16_int8_bfloat16, Grouped<bf16, int8_t, bf16>)
