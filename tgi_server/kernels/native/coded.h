// Weights kept as codes: how a quad of inputs of a panel becomes what a product takes, and such products.
//
// A panel is a row of blocks, one for each quad of inputs. Of 4 bits a block has 64 bytes: byte b holds in its low half
// the code of output b / 4, in its high half that of output 16 + b / 4, for input {0, 2, 1, 3}[b % 4] of the quad. Taken
// as 16-bit numbers these are, shifted by 0, 4, 8 and 12, indices of a table of bfloat16 numbers, and the results are
// units of neighbouring inputs. Of 8 bits a block has 128 bytes, units side by side as in other weights.
#pragma once
#include <limits>
#include <type_traits>

#include "linear.h"

#ifdef WIDE_VECTORS
static const long TILE = 12;  // rows whose sums stay in registers
#else
static const long TILE = 3;
#endif
static const long QUAD = 4;      // inputs
static const long ENTRIES = 16;  // of a book

// What is multiplied: float, bf16, or int8_t, inputs in steps, by uint8_t.
template <typename X>
using Sum = std::conditional_t<std::is_same_v<X, int8_t>, ivec, vec>;
template <typename X>
static const long UNITS = QUAD / PER_UNIT<X>;  // of 32 bits in a quad
template <typename X>
static const long WIDE = PANEL * QUAD * sizeof(X);  // bytes of a block as it is multiplied

// sum + the products of each of 16 units of weights with one unit of inputs
template <typename X>
static inline Sum<X> add_products(Sum<X> sum, uvec units, uint32_t unit) {
    return multiply_add<X>(sum, units, unit);
}
template <>
inline ivec add_products<int8_t>(ivec sum, uvec units, uint32_t unit) {
#if defined(WIDE_VECTORS) && defined(__AVX512VNNI__)
    return (ivec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)units, _mm512_set1_epi32(unit));
#elif defined(__AVX2__)
    typedef int16_t pairs __attribute__((vector_size(4 * LANES)));
    const pairs same = (pairs)repeated(unit), evens = same << 8 >> 8, odds = same >> 8;
    const pairs low = (pairs)(units & 0x00ff00ff), high = (pairs)(units >> 8 & 0x00ff00ff);
#ifdef WIDE_VECTORS
    sum += (ivec)_mm512_madd_epi16((__m512i)low, (__m512i)evens);
    return sum + (ivec)_mm512_madd_epi16((__m512i)high, (__m512i)odds);
#else
    sum += (ivec)_mm256_madd_epi16((__m256i)low, (__m256i)evens);
    return sum + (ivec)_mm256_madd_epi16((__m256i)high, (__m256i)odds);
#endif
#else
    for (long i = 0; i < QUAD; i++)
        sum += (ivec)(units >> static_cast<int32_t>(8 * i) & 255) * int32_t(int8_t(unit >> 8 * i));
    return sum;
#endif
}

// Codes of 4 bits. `place` is the unit of inputs that unit u of weights is multiplied with.
template <typename X>
struct Nibbles;

// Those of vector v of outputs, and by how much they are shifted: half of the outputs are in the upper halves of bytes.
static inline uvec codes_of(const uint8_t* block, long v) { return load_units(block + v % (WIDTH / 2) * sizeof(uvec)); }
static constexpr long shift_of(long v) { return v / (WIDTH / 2) * 4; }

template <>
struct Nibbles<float> {
    static constexpr long BLOCK_BYTES = 64, DIRECT = 4;  // rows up to which it decodes for itself
    vec table[ENTRIES / LANES];
    explicit Nibbles(const float* book) { std::memcpy(table, book, sizeof table); }
    static constexpr long place(long u) { return u == 1 ? 2 : u == 2 ? 1 : u; }
    inline void operator()(const uint8_t* block, long u, uvec* w) const {
#pragma GCC unroll 4
        for (long v = 0; v < WIDTH; v++)
            w[v] = look(codes_of(block, v) >> static_cast<uint32_t>(8 * u + shift_of(v)));
    }
    inline uvec look(uvec codes) const {
#ifdef WIDE_VECTORS
        return (uvec)_mm512_permutexvar_ps((__m512i)codes, (__m512)table[0]);
#elif defined(__AVX2__)
        const __m256i c = (__m256i)codes;
        const __m256 low = _mm256_permutevar8x32_ps((__m256)table[0], c);
        const __m256 high = _mm256_permutevar8x32_ps((__m256)table[1], c);
        return (uvec)_mm256_blendv_ps(low, high, (__m256)(codes << 28));
#else
        return (uvec)__builtin_shuffle(table[0], table[1], (ivec)(codes & 15));
#endif
    }
};

template <>
struct Nibbles<bf16> {
    static constexpr long BLOCK_BYTES = 64, DIRECT = TILE;
    alignas(64) bf16 table[2 * ENTRIES];  // twice the same: the fifth bit of an index does not matter
    explicit Nibbles(const float* book) {
        for (long i = 0; i < 2 * ENTRIES; i += LANES) store(load(book + i % ENTRIES), table + i);
#if defined(__AVX2__) && !defined(WIDE_VECTORS)
        for (long i = 0; i < 2 * ENTRIES; i++)
            lower[i] = table[i].bits & 255, upper[i] = table[i].bits >> 8;
#endif
    }
    static constexpr long place(long u) { return u; }
    inline void operator()(const uint8_t* block, long u, uvec* w) const {
#pragma GCC unroll 4
        for (long v = 0; v < WIDTH; v++) w[v] = look(codes_of(block, v), 8 * u + shift_of(v));
    }
    inline uvec look(uvec codes, long shift) const {
#ifdef WIDE_VECTORS
        const __m512i found = _mm512_srli_epi16((__m512i)codes, shift);
        return (uvec)_mm512_permutexvar_epi16(found, _mm512_load_si512(table));
#elif defined(__AVX2__)
        const __m256i c = _mm256_and_si256(_mm256_srli_epi16((__m256i)codes, shift), _mm256_set1_epi16(15));
        const __m256i twice = _mm256_or_si256(c, _mm256_slli_epi16(c, 8));  // an index for each byte
        const __m256i low = _mm256_shuffle_epi8(*reinterpret_cast<const __m256i*>(lower), twice);
        const __m256i high = _mm256_shuffle_epi8(*reinterpret_cast<const __m256i*>(upper), twice);
        return (uvec)_mm256_blendv_epi8(low, high, _mm256_set1_epi16(-0x100));
#else
        uint16_t in[2 * LANES], out[2 * LANES];
        std::memcpy(in, &codes, sizeof in);
        for (long i = 0; i < 2 * LANES; i++) out[i] = table[in[i] >> shift & 15].bits;
        return load_units(out);
#endif
    }
#if defined(__AVX2__) && !defined(WIDE_VECTORS)
  private:
    alignas(32) uint8_t lower[2 * ENTRIES], upper[2 * ENTRIES];  // bytes of the table, which can be looked up there
#endif
};

template <>
struct Nibbles<int8_t> {
    static constexpr long BLOCK_BYTES = 64, DIRECT = TILE;
    explicit Nibbles(const float*) {}
    static constexpr long place(long u) { return u; }
    inline void operator()(const uint8_t* block, long, uvec* w) const {
#pragma GCC unroll 4
        for (long v = 0; v < WIDTH; v++) w[v] = codes_of(block, v) >> static_cast<uint32_t>(shift_of(v)) & 0x0f0f0f0f;
    }
};

// The same by a book in steps from -127 to 127, as numbers from 1 to 255.
struct BookBytes {
    static constexpr long BLOCK_BYTES = 64, DIRECT = TILE;
    alignas(64) uint8_t table[4 * ENTRIES];  // for each part of a vector the same
    explicit BookBytes(const float* book) {
        const float step = step_of(book);
        for (long i = 0; i < 4 * ENTRIES; i++)
            table[i] = static_cast<uint8_t>(128 + static_cast<int>(std::nearbyint(book[i % ENTRIES] / step)));
    }
    static float step_of(const float* book) {
        float most = 0;
        for (long i = 0; i < ENTRIES; i++) most = std::max(most, std::fabs(book[i]));
        return std::max(most / 127, std::numeric_limits<float>::min());
    }
    static constexpr long place(long u) { return u; }
    inline void operator()(const uint8_t* block, long, uvec* w) const {
#pragma GCC unroll 4
        for (long v = 0; v < WIDTH; v++)
            w[v] = look(codes_of(block, v) >> static_cast<uint32_t>(shift_of(v)) & 0x0f0f0f0f);
    }
    inline uvec look(uvec codes) const {
#ifdef WIDE_VECTORS
        return (uvec)_mm512_shuffle_epi8(_mm512_load_si512(table), (__m512i)codes);
#elif defined(__AVX2__)
        const __m256i entries = _mm256_load_si256(reinterpret_cast<const __m256i*>(table));
        return (uvec)_mm256_shuffle_epi8(entries, (__m256i)codes);
#else
        uint8_t in[sizeof codes];
        std::memcpy(in, &codes, sizeof in);
        for (uint8_t& code : in) code = table[code];
        return load_units(in);
#endif
    }
};

// Codes of 8 bits: whole numbers from -128 to 127, or, for inputs in steps, from 0 to 255.
template <typename X>
struct Bytes {
    static constexpr long BLOCK_BYTES = 128, DIRECT = std::is_same_v<X, int8_t> ? 0 : std::is_same_v<X, bf16> ? TILE : 4;
    explicit Bytes(const float*) {}
    static constexpr long place(long u) { return u; }
    inline void operator()(const uint8_t* block, long u, uvec* w) const {
        constexpr long P = PER_UNIT<X>;
        for (long v = 0; v < WIDTH; v++) {
            const uint8_t* from = block + (u * WIDTH + v) * LANES * P;
            if constexpr (std::is_same_v<X, int8_t>) w[v] = load_units(from);
            else w[v] = units<X>(reinterpret_cast<const int8_t*>(from));
        }
    }
};

// Blocks that another decoder has made, units side by side.
template <typename X>
struct Decoded {
    static constexpr long BLOCK_BYTES = WIDE<X>, DIRECT = TILE;
    static constexpr long place(long u) { return u; }
    inline void operator()(const uint8_t* block, long u, uvec* w) const {
        for (long v = 0; v < WIDTH; v++) w[v] = load_units(block + (u * WIDTH + v) * sizeof(uvec));
    }
};

// A panel as it is multiplied, in memory of the thread.
template <typename X, typename Decoder>
static const uint8_t* decoded(const Decoder& decode, const uint8_t* panel, long quads) {
    static thread_local std::vector<uvec> wide;
    constexpr long count = UNITS<X> * WIDTH;
    if (wide.size() < static_cast<size_t>(quads * count)) wide.resize(quads * count);
    for (long q = 0; q < quads; q++)
#pragma GCC unroll 4
        for (long u = 0; u < UNITS<X>; u++)
            decode(panel + q * Decoder::BLOCK_BYTES, u, wide.data() + q * count + Decoder::place(u) * WIDTH);
    return reinterpret_cast<const uint8_t*>(wide.data());
}
