// The processor's tile registers (AMX): eight matrices of up to 16 rows of 64 bytes, and sums of their products.
//
// TILES is defined where there are any: real ones, or, compiled with -DEMULATED_TILES, the same in plain C++, so that
// what is built on them can be tested on every machine.
#pragma once
#include <cstddef>

#include "vectors.h"
#if defined(EMULATED_TILES) || defined(__AMX_BF16__)
#define TILES
#endif

#ifdef TILES
static const long TILE_ROWS = 16;
static const long TILE_BYTES = 64;

// What ldtilecfg reads: rows and bytes in a row of each register.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    void set(long tile, long its_rows) { rows[tile] = its_rows, bytes[tile] = TILE_BYTES; }
};
static_assert(offsetof(TileShapes, bytes) == 16 && offsetof(TileShapes, rows) == 48 && sizeof(TileShapes) == 64,
              "the processor reads it");
#endif

#if defined(EMULATED_TILES)
#include <cstdlib>

static const long TILE_COUNT = 8;

struct TileRegisters {
    TileShapes shapes;
    alignas(64) char data[TILE_COUNT][TILE_ROWS][TILE_BYTES];
};
static thread_local TileRegisters tile_registers;

static inline void tile_check(bool allowed) {
    if (!allowed) std::abort();  // as the processor would end the process
}

static inline bool tiles_permitted() { return true; }
static inline void tile_shapes(const TileShapes& shapes) {
    for (long i = 0; i < 16; i++) {
        const long rows = shapes.rows[i], bytes = shapes.bytes[i];
        tile_check(rows <= TILE_ROWS && bytes <= TILE_BYTES && !rows == !bytes && (!rows || i < TILE_COUNT));
    }
    tile_registers = TileRegisters{shapes, {}};
}
static inline void tile_release() { tile_registers = TileRegisters{}; }
static inline void tile_zero(long tile) {
    tile_check(tile_registers.shapes.rows[tile]);
    std::memset(tile_registers.data[tile], 0, TILE_ROWS * TILE_BYTES);
}
static inline void tile_load(long tile, const void* from, long stride) {
    TileRegisters& t = tile_registers;
    tile_zero(tile);
    for (long i = 0; i < t.shapes.rows[tile]; i++)
        std::memcpy(t.data[tile][i], static_cast<const char*>(from) + i * stride, t.shapes.bytes[tile]);
}
static inline void tile_store(long tile, void* to, long stride) {
    const TileRegisters& t = tile_registers;
    tile_check(t.shapes.rows[tile]);
    for (long i = 0; i < t.shapes.rows[tile]; i++)
        std::memcpy(static_cast<char*>(to) + i * stride, t.data[tile][i], t.shapes.bytes[tile]);
}
// sums [rows, outputs] += x [rows, pairs of bfloat16] times w [pairs, outputs]; all are 4 bytes
static inline void tile_multiply_add(long sums, long x, long w) {
    TileRegisters& t = tile_registers;
    const uint8_t* rows = t.shapes.rows;
    const uint16_t* bytes = t.shapes.bytes;
    const long pairs = bytes[x] / 4, outputs = bytes[sums] / 4;
    tile_check(rows[sums] && rows[sums] == rows[x] && rows[w] == pairs && bytes[sums] == bytes[w]);
    for (long i = 0; i < rows[sums]; i++) {
        for (long o = 0; o < outputs; o += LANES) {
            float* to = reinterpret_cast<float*>(t.data[sums][i]) + o;
            vec sum = load(to);
            for (long k = 0; k < pairs; k++) {
                const uvec units = load_units(t.data[w][k] + 4 * o);
                const uint32_t unit = load_unit(t.data[x][i] + 4 * k);
                sum += firsts(units) * as_float(unit << 16);
                sum += seconds(units) * as_float(unit & 0xffff0000);
            }
            store(sum, to, outputs - o);
        }
    }
}

#elif defined(TILES)
#include <sys/syscall.h>
#include <unistd.h>

// The system keeps these registers for a process only once it has asked (ARCH_REQ_XCOMP_PERM, the tiles' data).
static inline bool tiles_permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// GCC's intrinsics take literal register numbers, and do not say that they read memory.
#define TILE_READS() asm volatile("" ::: "memory")
#define tile_shapes(shapes) do { TILE_READS(); _tile_loadconfig(&(shapes)); } while (0)
#define tile_load(tile, from, stride) do { TILE_READS(); _tile_loadd(tile, from, stride); } while (0)
#define tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_multiply_add(sums, x, w) _tile_dpbf16ps(sums, x, w)
#define tile_zero(tile) _tile_zero(tile)
#define tile_release() _tile_release()
#endif
