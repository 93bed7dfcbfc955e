// Rearranges the rows of a weight into panels (pack in linear.py).
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "kernel.h"

// T holds what one output keeps for a unit of inputs.
#define PACK(member)                                                                             \
    member(const T*, rows) member(T*, panels) /* whole ones; outputs that are not there are 0 */ \
    member(int64_t, outer) member(int64_t, units)

template <typename T>
struct Pack {
    MEMBERS(PACK)
};

static const long SIDE = 16;

// Turns a square of 16 x 16: four times, each row of the first half is interleaved with its like of the second half.
template <typename T>
static inline void turn(const T* from, long row, T* to) {
    typedef T line __attribute__((vector_size(SIDE * sizeof(T))));
    const line low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
    line x[SIDE], y[SIDE];
    for (long r = 0; r < SIDE; r++) std::memcpy(&x[r], from + r * row, sizeof(line));
#pragma GCC unroll 4
    for (long round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (long r = 0; r < SIDE / 2; r++) {
            y[2 * r] = __builtin_shuffle(x[r], x[r + SIDE / 2], low);
            y[2 * r + 1] = __builtin_shuffle(x[r], x[r + SIDE / 2], high);
        }
#pragma GCC unroll 16
        for (long r = 0; r < SIDE; r++) x[r] = y[r];
    }
    for (long r = 0; r < SIDE; r++) std::memcpy(to + r * PANEL, &x[r], sizeof(line));
}

// Has the system make the pages that are about to be written in one call, instead of at a fault for each.
static void make_pages(const void* from, const void* to) {
#ifdef MADV_POPULATE_WRITE
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(from) + page - 1) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(to) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);  // or they come later
#endif
}

// Unit u of output r goes to place r of the panel's line u.
template <typename T>
static void pack(const Pack<T>& a) {
    const long panels = (a.outer + PANEL - 1) / PANEL;
    make_pages(a.panels, a.panels + panels * PANEL * a.units);
#pragma omp for schedule(static)
    for (long p = 0; p < panels; p++) {
        const long first = p * PANEL, rows = a.outer - first < PANEL ? a.outer - first : PANEL;
        const T* from = a.rows + first * a.units;
        T* panel = a.panels + first * a.units;
        const long whole = rows == PANEL ? a.units / SIDE * SIDE : 0;
        for (long u = 0; u < whole; u += SIDE)
            for (long r = 0; r < PANEL; r += SIDE) turn(from + r * a.units + u, a.units, panel + u * PANEL + r);
        for (long u = whole; u < a.units; u++)
            for (long r = 0; r < PANEL; r++) panel[u * PANEL + r] = r < rows ? from[r * a.units + u] : 0;
    }
}

KERNEL(pack, 8, Pack<uint8_t>)
KERNEL(pack, 16, Pack<uint16_t>)
KERNEL(pack, 32, Pack<uint32_t>)
