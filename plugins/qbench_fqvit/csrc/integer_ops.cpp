// Integer operators of a vision transformer block.
//
// No floating-point type occurs in this file. Every function has a portable form, and some have one
// for AVX-512 with VNNI; both give the same bits. Loops run over OpenMP's threads, each
// output is computed by one of them, and integer sums do not depend on their order.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512CD__) && defined(__AVX512VNNI__)
#define VECTORS 1
#include <immintrin.h>
#else
#define VECTORS 0
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using i8 = std::int8_t;
using u8 = std::uint8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using i64 = std::int64_t;
using u64 = std::uint64_t;

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

// Memory of one thread that grows and is kept: a new page costs more than what is computed in it.
class Scratch {
   public:
    ~Scratch() { std::free(start_); }
    void* bytes(i64 wanted) {
        if (wanted > size_) {
            std::free(start_);
            size_ = round_up(wanted, 4096);
            start_ = std::aligned_alloc(64, static_cast<std::size_t>(size_));
            if (!start_) std::abort();
        }
        return start_;
    }

   private:
    void* start_ = nullptr;
    i64 size_ = 0;
};

// ---------------------------------------------------------------------------------------- scaling

i64 scaled(i64 value, int shift) { return (value + (i64(1) << (shift - 1))) >> shift; }

template <class Out>
Out clamped(i64 value) {
    constexpr i64 low = std::is_same<Out, i8>::value ? -128 : -32768;
    return static_cast<Out>(std::min(std::max(value, low), -1 - low));
}

#if VECTORS

__mmask64 first(i64 n) { return n >= 64 ? ~u64(0) : n <= 0 ? 0 : (u64(1) << n) - 1; }
__mmask16 lanes(__mmask64 some, int quarter) { return static_cast<__mmask16>(some >> 16 * quarter); }

// A masked store costs many plain ones.
void store(void* to, __mmask64 some, __m512i bytes) {
    if (some == ~u64(0)) _mm512_storeu_si512(to, bytes);
    else _mm512_mask_storeu_epi8(to, some, bytes);
}

// 64 int32 as bytes, clamped.
__m512i narrowed(const __m512i v[4]) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(v[0], v[1]), up = _mm512_packs_epi32(v[2], v[3]);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, up));
}

__m512i odd_lanes(__m512i a) { return _mm512_srli_epi64(a, 32); }

// The high halves, or the low ones, of 64-bit values for the even and for the odd lanes.
__m512i high_halves(__m512i even, __m512i odd) {
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
}
__m512i low_halves(__m512i even, __m512i odd) {
    return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

__m512i high_products(__m512i a, __m512i b) {
    return high_halves(_mm512_mul_epi32(a, b), _mm512_mul_epi32(odd_lanes(a), odd_lanes(b)));
}

__m512i widened(const i8* x, __mmask16 some) {
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(some, x));
}
__m512i widened(const i16* x, __mmask16 some) {
    return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(some, x));
}

#ifdef __AVX512VBMI__

// A table of 256 bytes in registers.
struct Bytes {
    __m512i quarter[4];

    explicit Bytes(const void* table) {
        for (int i = 0; i < 4; ++i) {
            quarter[i] = _mm512_loadu_si512(static_cast<const u8*>(table) + 64 * i);
        }
    }
    __m512i at(__m512i index) const {
        const __m512i low = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
        const __m512i up = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, up);
    }
};

#else

// A table of 256 bytes that is read one by one.
struct Bytes {
    const u8* table;

    explicit Bytes(const void* table) : table(static_cast<const u8*>(table)) {}
    __m512i at(__m512i index) const {
        alignas(64) u8 bytes[64];
        _mm512_store_si512(bytes, index);
        for (u8& byte : bytes) byte = table[byte];
        return _mm512_load_si512(bytes);
    }
};

#endif

#endif

// Factors of channels. Where all shifts exceed 32, the low half of a product only matters for the
// rounding that the high half already has: (p + 2^(s-1)) >> s == ((p >> 32) + 2^(s-33)) >> (s-32).
struct Factors {
    const i32* multiplier;
    const i8* shift;
    i64 zero_point;
    const i8* table;
    const i32* half = nullptr;  // 2^(s-33) of each channel, then s-32; none where a shift is less
    const i32* more = nullptr;

    Factors(const i32* multiplier, const i8* shift, i64 n, i64 zero_point, const i8* table,
            Scratch& memory)
        : multiplier(multiplier), shift(shift), zero_point(zero_point), table(table) {
        int least = 127;
        for (i64 c = 0; c < n; ++c) least = std::min<int>(least, shift[c]);
        if (!VECTORS || least <= 32) return;
        i32* kept = static_cast<i32*>(memory.bytes(2 * n * i64(sizeof(i32))));
        for (i64 c = 0; c < n; ++c) {
            kept[c] = static_cast<i32>(u32(1) << (shift[c] - 32) >> 1);
            kept[n + c] = shift[c] - 32;
        }
        half = kept, more = kept + n;
    }
};

// The channels from `from` on of one row.
void requantize_row(const i32* acc, i64 n, const Factors& by, i64 from, i8* out) {
    i64 c = 0;
#if VECTORS
    if (by.half) {
        // |scaled| stays below 2^30: a larger zero point decides the clamp alone.
        const i64 bounded = std::min(std::max(by.zero_point, -(i64(1) << 30)), i64(1) << 30);
        const __m512i zero_point = _mm512_set1_epi32(static_cast<i32>(bounded));
        const __m512i offset = _mm512_set1_epi8(-128);
        for (; c < n; c += 64) {
            const __mmask64 some = first(n - c);
            __m512i v[4];
            for (int i = 0; i < 4; ++i) {
                const __mmask16 lane = lanes(some, i);
                const i64 at = c + 16 * i, channel = from + at;
                v[i] = high_products(_mm512_maskz_loadu_epi32(lane, acc + at),
                                     _mm512_maskz_loadu_epi32(lane, by.multiplier + channel));
                v[i] = _mm512_add_epi32(v[i], _mm512_maskz_loadu_epi32(lane, by.half + channel));
                v[i] = _mm512_srav_epi32(v[i], _mm512_maskz_loadu_epi32(lane, by.more + channel));
                v[i] = _mm512_add_epi32(v[i], zero_point);
            }
            __m512i codes = narrowed(v);
            if (by.table) codes = Bytes(by.table).at(_mm512_xor_si512(codes, offset));
            store(out + c, some, codes);
        }
        return;
    }
#endif
    for (; c < n; ++c) {
        const i64 product = i64(acc[c]) * by.multiplier[from + c];
        const i8 code = clamped<i8>(scaled(product, by.shift[from + c]) + by.zero_point);
        out[c] = by.table ? by.table[code + 128] : code;
    }
}

template <class In, class Out>
void residual_row(const In* x, const i32* acc, i64 n, const i32* x_multiplier, const Factors& by,
                  i64 from, Out* out) {
    i64 c = 0;
#if VECTORS
    const __m512i one = _mm512_set1_epi64(1);
    const __m512i least = _mm512_set1_epi64(std::is_same<Out, i8>::value ? -128 : -32768);
    const __m512i most = _mm512_sub_epi64(_mm512_set1_epi64(-1), least);
    const auto total = [&](__m512i a, __m512i by_a, __m512i b, __m512i by_b, __m512i shift) {
        const __m512i half = _mm512_sllv_epi64(one, _mm512_sub_epi64(shift, one));
        __m512i sum = _mm512_add_epi64(_mm512_mul_epi32(a, by_a), _mm512_mul_epi32(b, by_b));
        sum = _mm512_srav_epi64(_mm512_add_epi64(sum, half), shift);
        return _mm512_min_epi64(_mm512_max_epi64(sum, least), most);
    };
    for (; c + 16 <= n; c += 16) {
        const __m512i a = widened(x + c, 0xFFFF), b = _mm512_loadu_si512(acc + c);
        const __m512i by_a = _mm512_loadu_si512(x_multiplier + from + c);
        const __m512i by_b = _mm512_loadu_si512(by.multiplier + from + c);
        const __m512i shift = widened(by.shift + from + c, 0xFFFF);
        const __m512i even = total(a, by_a, b, by_b, _mm512_maskz_mov_epi32(0x5555, shift));
        const __m512i odd = total(odd_lanes(a), odd_lanes(by_a), odd_lanes(b), odd_lanes(by_b),
                                  odd_lanes(shift));
        const __m512i both = low_halves(even, odd);
        if constexpr (std::is_same<Out, i8>::value) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + c), _mm512_cvtepi32_epi8(both));
        } else {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), _mm512_cvtepi32_epi16(both));
        }
    }
#endif
    for (; c < n; ++c) {
        const i64 total = i64(x[c]) * x_multiplier[from + c] + i64(acc[c]) * by.multiplier[from + c];
        out[c] = clamped<Out>(scaled(total, by.shift[from + c]));
    }
}

// What is added per element to the stream of a block, in the four types it may go from and to.
struct Residual {
    const void* stream;
    bool wide_in, wide_out;
    const i32* stream_multiplier;
    void* out;

    void row(const i32* acc, i64 n, const Factors& by, i64 from, i64 at) const {
        const i8* narrow = static_cast<const i8*>(stream) + at;
        const i16* wide = static_cast<const i16*>(stream) + at;
        i8* to8 = static_cast<i8*>(out) + at;
        i16* to16 = static_cast<i16*>(out) + at;
        if (wide_in && wide_out) residual_row(wide, acc, n, stream_multiplier, by, from, to16);
        else if (wide_in) residual_row(wide, acc, n, stream_multiplier, by, from, to8);
        else if (wide_out) residual_row(narrow, acc, n, stream_multiplier, by, from, to16);
        else residual_row(narrow, acc, n, stream_multiplier, by, from, to8);
    }
};

// ---------------------------------------------------------------------------------------- products

// The right operand of a product is packed into panels of 64 columns, the last one of fewer vectors
// of 16: with VNNI in groups of four inputs, else as int16 column by column.
constexpr i64 kPanel = 64;
constexpr i64 kRows = 6;
#if VECTORS
using Packed = i8;
constexpr i64 kGroup = 4;
#else
using Packed = i16;
constexpr i64 kGroup = 1;
#endif

i64 vectors_of(i64 columns) { return ceil_div(std::min(columns, kPanel), 16); }
i64 panel_size(i64 inputs) { return round_up(inputs, kGroup) * kPanel; }

#if VECTORS

void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

// Columns are rows of the source, `step` apart; sums[c] becomes the sum of column c.
void pack_rows(const i8* source, i64 step, i64 columns, i64 inputs, Packed* panel, i32* sums) {
    const i64 vectors = vectors_of(columns);
    const i64 groups = ceil_div(inputs, 4);
    const __m512i ones = _mm512_set1_epi8(1);
    for (i64 v = 0; v < vectors; ++v) {
        __m512i sum = _mm512_setzero_si512();
        for (i64 k = 0; k < inputs; k += 64) {
            const __mmask64 some = first(inputs - k);
            __m512i r[16];
            for (i64 i = 0; i < 16; ++i) {
                const bool there = 16 * v + i < columns;
                r[i] = there ? _mm512_maskz_loadu_epi8(some, source + (16 * v + i) * step + k)
                             : _mm512_setzero_si512();
            }
            transpose16(r);
            const i64 filled = std::min<i64>(groups - k / 4, 16);
            for (i64 i = 0; i < filled; ++i) {
                _mm512_storeu_si512(panel + ((k / 4 + i) * vectors + v) * 64, r[i]);
                sum = _mm512_dpbusd_epi32(sum, ones, r[i]);
            }
        }
        _mm512_storeu_si512(sums + 16 * v, sum);
    }
}

// Columns lie side by side in the source, inputs `step` apart.
void pack_columns(const i8* source, i64 step, i64 columns, i64 inputs, Packed* panel) {
    const i64 vectors = vectors_of(columns);
    for (i64 k = 0; k < inputs; k += 4) {
        for (i64 v = 0; v < vectors; ++v) {
            const __mmask16 some = lanes(first(columns - 16 * v), 0);
            __m128i r[4];
            for (i64 i = 0; i < 4; ++i) {
                r[i] = k + i < inputs
                           ? _mm_maskz_loadu_epi8(some, source + (k + i) * step + 16 * v)
                           : _mm_setzero_si128();
            }
            const __m128i low = _mm_unpacklo_epi8(r[0], r[1]), low2 = _mm_unpacklo_epi8(r[2], r[3]);
            const __m128i up = _mm_unpackhi_epi8(r[0], r[1]), up2 = _mm_unpackhi_epi8(r[2], r[3]);
            __m128i* to = reinterpret_cast<__m128i*>(panel + (k / 4 * vectors + v) * 64);
            _mm_storeu_si128(to, _mm_unpacklo_epi16(low, low2));
            _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low, low2));
            _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(up, up2));
            _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(up, up2));
        }
    }
}

// VNNI multiplies unsigned by signed bytes: a signed left operand is raised by 128, for which 128
// times the sum of its column is taken off `start`.
template <int R, int V, bool Signed>
void tile(const u8* a, i64 step, i64 inputs, const Packed* b, const i32* start, i32* out,
          i64 out_step) {
    __m512i acc[R][V];
    for (int v = 0; v < V; ++v) {
        for (int r = 0; r < R; ++r) acc[r][v] = _mm512_loadu_si512(start + 16 * v);
    }
    // The last one to three inputs of each row are read from a copy that has zeros after them.
    u8 ends[4 * R] = {};
    const i64 whole = inputs / 4, rest = inputs % 4;
    for (int r = 0; r < R; ++r) {
        std::memcpy(ends + 4 * r, a + r * step + 4 * whole, static_cast<std::size_t>(rest));
    }
    const __m512i top = _mm512_set1_epi8(-128);
    for (i64 part = 0, groups = whole; part < (rest ? 2 : 1); ++part) {
        for (i64 k = 0; k < groups; ++k, a += 4, b += 64 * V) {
            __m512i w[V];
            for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_si512(b + 64 * v);
            for (int r = 0; r < R; ++r) {
                i32 four;
                std::memcpy(&four, a + r * step, 4);
                __m512i x = _mm512_set1_epi32(four);
                if (Signed) x = _mm512_xor_si512(x, top);
                for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], x, w[v]);
            }
        }
        a = ends, step = 4, groups = 1;
    }
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) _mm512_storeu_si512(out + r * out_step + 16 * v, acc[r][v]);
    }
}

#else

// Columns one after the other, as int16: compilers have an instruction for sums of such products.
void pack_rows(const i8* source, i64 step, i64 columns, i64 inputs, Packed* panel,
               i32* /* sums, which VNNI alone needs */) {
    for (i64 c = 0; c < 16 * vectors_of(columns); ++c) {
        for (i64 k = 0; k < inputs; ++k) panel[c * inputs + k] = c < columns ? source[c * step + k] : 0;
    }
}

void pack_columns(const i8* source, i64 step, i64 columns, i64 inputs, Packed* panel) {
    for (i64 c = 0; c < 16 * vectors_of(columns); ++c) {
        for (i64 k = 0; k < inputs; ++k) panel[c * inputs + k] = c < columns ? source[k * step + c] : 0;
    }
}

// One row times four columns.
void dots(const i16* a, const Packed* b, i64 n, const i32* start, i32* out) {
    const Packed *b1 = b + n, *b2 = b + 2 * n, *b3 = b + 3 * n;
    i32 s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (i64 k = 0; k < n; ++k) {
        s0 += i32(a[k]) * i32(b[k]);
        s1 += i32(a[k]) * i32(b1[k]);
        s2 += i32(a[k]) * i32(b2[k]);
        s3 += i32(a[k]) * i32(b3[k]);
    }
    out[0] = start[0] + s0, out[1] = start[1] + s1, out[2] = start[2] + s2, out[3] = start[3] + s3;
}

template <int R, int V, bool Signed>
void tile(const u8* a, i64 step, i64 inputs, const Packed* b, const i32* start, i32* out,
          i64 out_step) {
    static thread_local Scratch memory;
    i16* wide = static_cast<i16*>(memory.bytes((R * inputs + 1) * i64(sizeof(i16))));
    for (int r = 0; r < R; ++r) {
        for (i64 k = 0; k < inputs; ++k) {
            const u8 byte = a[r * step + k];
            wide[r * inputs + k] = Signed ? i16(i8(byte)) : i16(byte);
        }
    }
    for (int c = 0; c < 16 * V; c += 4) {
        for (int r = 0; r < R; ++r) {
            dots(wide + r * inputs, b + c * inputs, inputs, start + c, out + r * out_step + c);
        }
    }
}

#endif

// Left operands: bytes, signed or not, in rows `step` apart.
struct Rows {
    const u8* start;
    i64 step;
    bool is_signed;
};

template <int R, int V>
void tile_of(const Rows& a, i64 inputs, const Packed* b, const i32* start, i32* out, i64 step) {
    if (a.is_signed) tile<R, V, true>(a.start, a.step, inputs, b, start, out, step);
    else tile<R, V, false>(a.start, a.step, inputs, b, start, out, step);
}

template <int R>
void tile_of(i64 v, const Rows& a, i64 inputs, const Packed* b, const i32* start, i32* out, i64 step) {
    if (v == 4) tile_of<R, 4>(a, inputs, b, start, out, step);
    else if (v == 3) tile_of<R, 3>(a, inputs, b, start, out, step);
    else if (v == 2) tile_of<R, 2>(a, inputs, b, start, out, step);
    else tile_of<R, 1>(a, inputs, b, start, out, step);
}

// Up to kRows rows times one panel, into rows of `out`; a row of it ends at a multiple of 16.
void multiply(Rows a, i64 rows, i64 columns, i64 inputs, const Packed* b, const i32* start, i32* out,
              i64 step) {
    const i64 vectors = vectors_of(columns);
    while (rows > 0) {
        i64 done = 1;
        if (rows >= kRows) tile_of<kRows>(vectors, a, inputs, b, start, out, step), done = kRows;
        else if (rows >= 2) tile_of<2>(vectors, a, inputs, b, start, out, step), done = 2;
        else tile_of<1>(vectors, a, inputs, b, start, out, step);
        rows -= done;
        a.start += done * a.step;
        out += done * step;
    }
}

// What a product starts from: the bias, less what a raised left operand adds.
void starts(const i32* sums, const i32* bias, i64 columns, bool is_signed, i32* start) {
    for (i64 c = 0; c < 16 * vectors_of(columns); ++c) {
        const u32 from = bias && c < columns ? static_cast<u32>(bias[c]) : 0;
        start[c] = static_cast<i32>(VECTORS && is_signed ? from - 128u * u32(sums[c]) : from);
    }
}

// The product of all rows with a weight of (outputs, inputs). `finish(acc, row, from, n)` takes n
// sums of one row while they are in the cache.
template <class Finish>
void linear(const Rows& x, i64 rows, i64 outputs, i64 inputs, const i8* weight, const i32* bias,
            const Finish& finish) {
    static thread_local Scratch memory;
    const i64 panels = ceil_div(outputs, kPanel);
    const i64 size = panel_size(inputs);
    i32* start = static_cast<i32*>(
        memory.bytes(panels * (kPanel * i64(sizeof(i32)) + size * i64(sizeof(Packed)))));
    Packed* packed = reinterpret_cast<Packed*>(start + panels * kPanel);
    const bool parallel = rows * outputs * inputs > (1 << 18);
#pragma omp parallel if (parallel)
    {
#pragma omp for
        for (i64 p = 0; p < panels; ++p) {
            const i64 from = p * kPanel, columns = std::min(outputs - from, kPanel);
            alignas(64) i32 sums[kPanel];
            pack_rows(weight + from * inputs, inputs, columns, inputs, packed + p * size, sums);
            starts(sums, bias ? bias + from : nullptr, columns, x.is_signed, start + from);
        }
        // Panels that share the second-level cache meet a chunk of rows together.
        const i64 together = std::max<i64>(1, (i64(384) << 10) / std::max<i64>(size, 1));
        const i64 sets = ceil_div(panels, together);
        const i64 chunk = 8 * kRows;
        const i64 chunks = ceil_div(rows, chunk);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < sets * chunks; ++task) {
            const i64 begin = task % chunks * chunk, end = std::min(begin + chunk, rows);
            const i64 first_panel = task / chunks * together;
            const i64 last_panel = std::min(first_panel + together, panels);
            alignas(64) i32 acc[kRows * kPanel];
            for (i64 r = begin; r < end; r += kRows) {
                const i64 n = std::min(kRows, end - r);
                for (i64 p = first_panel; p < last_panel; ++p) {
                    const i64 from = p * kPanel, columns = std::min(outputs - from, kPanel);
                    multiply({x.start + r * x.step, x.step, x.is_signed}, n, columns, inputs,
                             packed + p * size, start + from, acc, kPanel);
                    for (i64 i = 0; i < n; ++i) finish(acc + i * kPanel, r + i, from, columns);
                }
            }
        }
    }
}

// -------------------------------------------------------------------------------- normalization

// floor(sqrt(value)): Newton's steps fall from above the root until they would rise.
u64 isqrt(u64 value) {
    const int bits = 64 - __builtin_clzll(value | 1);
    u64 root = u64(1) << ((bits + 1) / 2);
    for (;;) {
        const u64 next = (root + value / root) >> 1;
        if (next >= root) return root;
        root = next;
    }
}

struct Norm {
    const i8* shift;
    const i32* gain;
    const i32* bias;
    i64 channels;
    bool narrow;  // C v - Σ v fits int32
};

#if VECTORS

template <class In>
void row_sums(const In* x, const Norm& norm, i64& sum, i64& squares) {
    __m512i total = _mm512_setzero_si512(), even = total, odd = total;
    for (i64 c = 0; c < norm.channels; c += 16) {
        const __mmask16 some = lanes(first(norm.channels - c), 0);
        const __m512i v = _mm512_sllv_epi32(widened(x + c, some), widened(norm.shift + c, some));
        const __m512i w = odd_lanes(v);
        total = _mm512_add_epi32(total, v);
        even = _mm512_add_epi64(even, _mm512_mul_epi32(v, v));
        odd = _mm512_add_epi64(odd, _mm512_mul_epi32(w, w));
    }
    sum = _mm512_reduce_add_epi32(total);
    squares = _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd));
}

template <class In>
void normalize_narrow(const In* x, const Norm& norm, i64 sum, i64 reciprocal, int down, i8* out) {
    const __m512i channels = _mm512_set1_epi32(static_cast<i32>(norm.channels));
    const __m512i total = _mm512_set1_epi32(static_cast<i32>(sum));
    const __m512i factor = _mm512_set1_epi64(reciprocal);
    const __m512i half = _mm512_set1_epi64(1 << 23);
    const __m128i count = _mm_cvtsi32_si128(down);
    const __m512i most = _mm512_set1_epi32(1 << 30), least = _mm512_set1_epi32(-(1 << 30));
    const auto scale = [&](__m512i value, __m512i by) {
        const __m512i n = _mm512_sra_epi64(_mm512_mul_epi32(value, factor), count);
        return _mm512_srai_epi64(_mm512_add_epi64(_mm512_mul_epi32(n, by), half), 24);
    };
    for (i64 c = 0; c < norm.channels; c += 64) {
        const __mmask64 some = first(norm.channels - c);
        __m512i y[4];
        for (int i = 0; i < 4; ++i) {
            const __mmask16 lane = lanes(some, i);
            const i64 at = c + 16 * i;
            __m512i v = _mm512_sllv_epi32(widened(x + at, lane), widened(norm.shift + at, lane));
            v = _mm512_sub_epi32(_mm512_mullo_epi32(v, channels), total);
            const __m512i gain = _mm512_maskz_loadu_epi32(lane, norm.gain + at);
            const __m512i even = scale(v, gain), odd = scale(odd_lanes(v), odd_lanes(gain));
            // What is scaled is below 2^29: a larger bias decides the clamp alone.
            __m512i bias = _mm512_maskz_loadu_epi32(lane, norm.bias + at);
            bias = _mm512_max_epi32(_mm512_min_epi32(bias, most), least);
            y[i] = _mm512_add_epi32(low_halves(even, odd), bias);
        }
        store(out + c, some, narrowed(y));
    }
}

#else

template <class In>
void row_sums(const In* x, const Norm& norm, i64& sum, i64& squares) {
    sum = squares = 0;
    for (i64 c = 0; c < norm.channels; ++c) {
        const i64 v = i64(x[c]) * (i64(1) << norm.shift[c]);
        sum += v;
        squares += v * v;
    }
}

#endif

template <class In>
void layer_norm_row(const In* x, const Norm& norm, i8* out) {
    i64 sum, squares;
    row_sums(x, norm, sum, squares);
    const u64 root = isqrt(std::max<i64>(norm.channels * squares - sum * sum, 1));
    const int exponent = 30 + 63 - __builtin_clzll(root);
    const i64 reciprocal = static_cast<i64>((u64(1) << exponent) / root);
#if VECTORS
    if (norm.narrow) return normalize_narrow(x, norm, sum, reciprocal, exponent - 12, out);
#endif
    for (i64 c = 0; c < norm.channels; ++c) {
        const i64 v = i64(x[c]) * (i64(1) << norm.shift[c]);
        const i64 normal = ((norm.channels * v - sum) * reciprocal) >> (exponent - 12);
        out[c] = clamped<i8>(scaled(normal * norm.gain[c], 24) + norm.bias[c]);
    }
}

template <class In>
void layer_norm_rows(const In* x, i64 rows, Norm norm, i8* out) {
    int most = 0;
    for (i64 c = 0; c < norm.channels; ++c) most = std::max<int>(most, norm.shift[c]);
    const int bits = 8 * static_cast<int>(sizeof(In)) - 1 + most;
    norm.narrow = bits < 31 && norm.channels <= (i64(1) << 30) >> bits;
#pragma omp parallel for if (rows * norm.channels > (1 << 15))
    for (i64 r = 0; r < rows; ++r) {
        layer_norm_row(x + r * norm.channels, norm, out + r * norm.channels);
    }
}

// ---------------------------------------------------------------------------------------- softmax

constexpr i32 kMasked = INT32_MIN;

// lg(n) = round(16 log2 n) steps up at thresholds of n scaled to 2^62; weights of the 8-bit codes.
i64 lg_thresholds[16];
u8 weight_planes[2][256];

int lg(u64 value) {
    const int exponent = 63 - __builtin_clzll(value);
    const i64 normal = static_cast<i64>(value << (62 - exponent));
    int steps = 0;
    for (int j = 0; j < 16; ++j) steps += normal >= lg_thresholds[j];
    return 16 * exponent + steps;
}

// floor(log2((2 total + e) / 3e)) is one less than a code from 2 on; code 1 begins at 2 total = 3e.
int lis_code(u64 total, u64 e) {
    if (e == 0) return 16;
    const u64 a = 2 * total + e, b = 3 * e;
    int j = __builtin_clzll(b) - __builtin_clzll(a);
    j -= a < b << j;
    return j >= 1 ? std::min(j + 1, 16) : 2 * total >= b;
}

// round(256 e / total), halves up, and at most 255.
u8 uniform_code(u64 total, u64 e) {
    return total ? static_cast<u8>(std::min<u64>((256 * e + total / 2) / total, 255)) : 0;
}

// How weights are written as bytes: in 256ths, as powers of two, as sixteenths of octaves.
enum class Code { uniform8, lis4, log8 };

struct Softmax {
    i64 keys;
    int shift;
    Code code;
    const i32* table;
    alignas(64) u8 planes[4][256];  // the bytes of the table
    int used;                       // how many of them are not all zero
    alignas(64) u8 falls[256];      // lg(table[0]) - lg(table[d]), 255 for what is zero or beyond
    int top;                        // lg(table[0])
    bool vectors;                   // 2 Σ e + e fits 32 bits

    Softmax(i64 keys, i64 shift, i64 code, const i32* table)
        : keys(keys), shift(int(shift)), code(Code(code)), table(table) {
        u32 any = 0;
        for (int d = 0; d < 256; ++d) any |= static_cast<u32>(table[d]);
        used = any ? 4 - __builtin_clz(any) / 8 : 1;
        top = lg(std::max(table[0], 1));
        for (int d = 0; d < 256; ++d) {
            for (int p = 0; p < 4; ++p) planes[p][d] = static_cast<u8>(table[d] >> (8 * p));
            const int fall = table[d] > 0 ? top - lg(static_cast<u64>(table[d])) : 255;
            falls[d] = static_cast<u8>(std::min(std::max(fall, 0), 255));
        }
        vectors = static_cast<u64>(2 * keys + 1) * static_cast<u32>(table[0]) < (u64(1) << 32);
    }
    u8 zero() const { return code == Code::uniform8 ? 0 : code == Code::lis4 ? 16 : 255; }
};

// Weights of codes as two planes of bytes: 2^15 · weight = 256 · high + low.
struct Planes {
    u8* high;
    u8* low;
};

u32 weight_of(u8 byte, Code code) {
    if (code == Code::uniform8) return u32(byte) << 7;
    if (code == Code::lis4) return byte < 16 ? 1u << (15 - byte) : 0;
    return 256u * weight_planes[0][byte] + weight_planes[1][byte];
}

void planes_of(const u8* codes, i64 n, Code kind, const Planes& out) {
    i64 s = 0;
#if VECTORS
    if (kind == Code::uniform8) {
        const __m512i bottom = _mm512_set1_epi8(1);
        for (; s < n; s += 64) {
            const __mmask64 some = first(n - s);
            const __m512i code = _mm512_maskz_loadu_epi8(some, codes + s);
            const __m512i odd = _mm512_and_si512(code, bottom);
            store(out.high + s, some, _mm512_srli_epi16(_mm512_xor_si512(code, odd), 1));
            store(out.low + s, some, _mm512_slli_epi16(odd, 7));
        }
    } else if (kind == Code::log8) {
        const Bytes high(weight_planes[0]), low(weight_planes[1]);
        for (; s < n; s += 64) {
            const __mmask64 some = first(n - s);
            const __m512i code = _mm512_maskz_loadu_epi8(some, codes + s);
            store(out.high + s, some, high.at(code));
            store(out.low + s, some, low.at(code));
        }
    } else {
        const __m512i high = _mm512_broadcast_i32x4(
            _mm_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0));
        const __m512i low = _mm512_broadcast_i32x4(
            _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1));
        for (; s < n; s += 64) {
            const __mmask64 some = first(n - s);
            const __m512i code = _mm512_maskz_loadu_epi8(some, codes + s);
            const __mmask64 there = _mm512_mask_cmplt_epu8_mask(some, code, _mm512_set1_epi8(16));
            store(out.high + s, some, _mm512_maskz_shuffle_epi8(there, high, code));
            store(out.low + s, some, _mm512_maskz_shuffle_epi8(there, low, code));
        }
    }
#endif
    for (; s < n; ++s) {
        const u32 weight = weight_of(codes[s], kind);
        out.high[s] = static_cast<u8>(weight >> 8);
        out.low[s] = static_cast<u8>(weight);
    }
}

#if VECTORS

// The 4-bit codes of all 256 distances for one sum, as `lis_code` has them.
void lis_table(const Softmax& softmax, u32 total, u8* codes) {
    const __m512i twice = _mm512_set1_epi32(static_cast<i32>(2 * total));
    const __m512i one = _mm512_set1_epi32(1);
    for (int d = 0; d < 256; d += 16) {
        const __m512i e = _mm512_loadu_si512(softmax.table + d);
        const __m512i a = _mm512_add_epi32(twice, e);
        const __m512i b = _mm512_add_epi32(_mm512_add_epi32(e, e), e);
        __m512i j = _mm512_sub_epi32(_mm512_lzcnt_epi32(b), _mm512_lzcnt_epi32(a));
        const __mmask16 below = _mm512_cmplt_epu32_mask(a, _mm512_sllv_epi32(b, j));
        j = _mm512_mask_sub_epi32(_mm512_add_epi32(j, one), below, j, _mm512_setzero_si512());
        // Codes 0 and 1 both come from j = 0.
        const __mmask16 few = _mm512_cmple_epi32_mask(j, one);
        const __mmask16 half = _mm512_mask_cmplt_epu32_mask(few, twice, b);
        j = _mm512_mask_mov_epi32(j, half, _mm512_setzero_si512());
        j = _mm512_mask_mov_epi32(j, _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(16));
        j = _mm512_min_epi32(j, _mm512_set1_epi32(16));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + d), _mm512_cvtepi32_epi8(j));
    }
}

// The uniform codes of all 256 distances for one sum. Exponentials do not rise: after a zero all are.
void uniform_table(const Softmax& softmax, u64 total, u8* codes) {
    std::memset(codes, 0, 256);
    for (int d = 0; d < 256; ++d) {
        codes[d] = uniform_code(total, static_cast<u32>(softmax.table[d]));
        if (!codes[d]) return;
    }
}

#endif

// Logits of one row as bytes raised by 128, and where they are not masked; the highest of these.
int row_logits(const i32* scores, const i32* bias, const Softmax& softmax, i32 multiplier, u8* logits,
               u8* kept) {
    const i64 n = softmax.keys;
    int highest = 0;
    i64 s = 0;
#if VECTORS
    if (softmax.shift > 32) {
        const __m512i by = _mm512_set1_epi32(multiplier);
        const __m512i half = _mm512_set1_epi32(i32(u32(1) << (softmax.shift - 32) >> 1));
        const __m128i down = _mm_cvtsi32_si128(softmax.shift - 32);
        const __m512i bottom = _mm512_set1_epi32(-128);
        __m512i most = bottom;
        for (; s < n; s += 64) {
            const __mmask64 some = first(n - s);
            __mmask64 there = some;
            __m512i logit[4];
            for (int i = 0; i < 4; ++i) {
                const __mmask16 lane = lanes(some, i);
                __mmask16 seen = lane;
                __m512i score = _mm512_maskz_loadu_epi32(lane, scores + s + 16 * i);
                if (bias) {
                    const __m512i added = _mm512_maskz_loadu_epi32(lane, bias + s + 16 * i);
                    seen = _mm512_mask_cmpneq_epi32_mask(lane, added, _mm512_set1_epi32(kMasked));
                    there &= ~(__mmask64(lane ^ seen) << 16 * i);
                    score = _mm512_add_epi32(score, added);
                }
                logit[i] = _mm512_sra_epi32(_mm512_add_epi32(high_products(score, by), half), down);
                most = _mm512_mask_max_epi32(most, seen, most, logit[i]);
            }
            store(logits + s, some, _mm512_xor_si512(narrowed(logit), _mm512_set1_epi8(-128)));
            if (bias) store(kept + s, some, _mm512_movm_epi8(there));
        }
        return std::min(_mm512_reduce_max_epi32(most), 127) + 128;
    }
#endif
    for (; s < n; ++s) {
        const bool there = !bias || bias[s] != kMasked;
        const u32 sum = static_cast<u32>(scores[s]) + (bias ? static_cast<u32>(bias[s]) : 0);
        const i64 logit = scaled(i64(static_cast<i32>(sum)) * multiplier, softmax.shift);
        logits[s] = static_cast<u8>(clamped<i8>(logit) + 128);
        if (bias) kept[s] = there ? 255 : 0;
        if (there) highest = std::max<int>(highest, logits[s]);
    }
    return highest;
}

u64 row_sum(const u8* logits, const u8* kept, int highest, const Softmax& softmax) {
    u64 total = 0;
    i64 s = 0;
#if VECTORS
    const __m512i top = _mm512_set1_epi8(static_cast<char>(highest));
    const __m512i zero = _mm512_setzero_si512();
    for (int p = 0; p < softmax.used; ++p) {
        const Bytes plane(softmax.planes[p]);
        __m512i sums = zero;
        for (s = 0; s < softmax.keys; s += 64) {
            __mmask64 there = first(softmax.keys - s);
            const __m512i logit = _mm512_maskz_loadu_epi8(there, logits + s);
            if (kept) there = _mm512_movepi8_mask(_mm512_maskz_loadu_epi8(there, kept + s));
            const __m512i e = plane.at(_mm512_sub_epi8(top, logit));
            sums = _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_maskz_mov_epi8(there, e), zero));
        }
        total += static_cast<u64>(_mm512_reduce_add_epi64(sums)) << (8 * p);
    }
#endif
    for (; s < softmax.keys; ++s) {
        if (!kept || kept[s]) total += static_cast<u32>(softmax.table[highest - logits[s]]);
    }
    return total;
}

void row_codes(u8* logits, const u8* kept, int highest, u64 total, const Softmax& softmax, u8* codes) {
    const i64 n = softmax.keys;
    const u8 zero = softmax.zero();
    const int base = total ? lg(total) - softmax.top : 255;
    i64 s = 0;
#if VECTORS
    if (softmax.code != Code::lis4 || softmax.vectors) {
        alignas(64) u8 table[256];
        if (softmax.code == Code::log8) std::memcpy(table, softmax.falls, sizeof table);
        else if (softmax.code == Code::lis4) lis_table(softmax, static_cast<u32>(total), table);
        else uniform_table(softmax, total, table);
        const Bytes bytes(table);
        const __m512i top = _mm512_set1_epi8(static_cast<char>(highest));
        const bool raised = softmax.code == Code::log8;
        const u8 more = raised ? static_cast<u8>(std::min(std::max(base, 0), 255)) : 0;
        const __m512i added = _mm512_set1_epi8(static_cast<char>(more));
        for (; s < n; s += 64) {
            const __mmask64 some = first(n - s);
            const __m512i logit = _mm512_maskz_loadu_epi8(some, logits + s);
            __m512i code = _mm512_adds_epu8(bytes.at(_mm512_sub_epi8(top, logit)), added);
            if (kept) {
                const __m512i there = _mm512_maskz_loadu_epi8(some, kept + s);
                code = _mm512_mask_mov_epi8(_mm512_set1_epi8(static_cast<char>(zero)),
                                            _mm512_movepi8_mask(there), code);
            }
            store(codes + s, some, code);
        }
        return;
    }
#endif
    for (; s < n; ++s) {
        if (kept && !kept[s]) {
            codes[s] = zero;
            continue;
        }
        const int d = highest - logits[s];
        const u32 e = static_cast<u32>(softmax.table[d]);
        if (softmax.code == Code::log8) codes[s] = u8(std::min(std::max(base, 0) + softmax.falls[d], 255));
        else if (softmax.code == Code::lis4) codes[s] = u8(lis_code(total, e));
        else codes[s] = uniform_code(total, e);
    }
}

// Codes of one row of scores; `room` holds two rows of bytes.
void softmax_row(const i32* scores, const i32* bias, const Softmax& softmax, i32 multiplier, u8* room,
                 u8* codes) {
    u8* kept = bias ? room + round_up(softmax.keys, 64) : nullptr;
    const int highest = row_logits(scores, bias, softmax, multiplier, room, kept);
    const u64 total = row_sum(room, kept, highest, softmax);
    row_codes(room, kept, highest, total, softmax, codes);
}

// -------------------------------------------------------------------------------------- attention

// A (batch, head, token, channel) tensor whose channels lie side by side.
struct Heads {
    const i8* start;
    i64 batch, head, token;

    const i8* at(i64 b, i64 h) const { return start + b * batch + h * head; }
};

struct Sizes {
    i64 batch, heads, queries, keys, width;
};

// Memory in which one head is computed: packed operands, then six rows of each step.
struct Workspace {
    i64 key_panels, width_panels, row;
    Packed *k, *v;
    i32 *k_start, *zeros, *scores, *context;
    u8 *room, *codes, *planes;

    Workspace(const Sizes& n, Scratch& memory) {
        key_panels = ceil_div(n.keys, kPanel);
        width_panels = ceil_div(n.width, kPanel);
        row = key_panels * kPanel;
        const i64 k_bytes = key_panels * panel_size(n.width) * i64(sizeof(Packed));
        const i64 v_bytes = width_panels * panel_size(n.keys) * i64(sizeof(Packed));
        const i64 ints = row + kPanel + kRows * row + 2 * kRows * kPanel;
        u8* at = static_cast<u8*>(
            memory.bytes(round_up(k_bytes, 64) + round_up(v_bytes, 64) + 4 * ints + 15 * row));
        const auto take = [&](i64 bytes) {
            u8* here = at;
            at += round_up(bytes, 64);
            return here;
        };
        k = reinterpret_cast<Packed*>(take(k_bytes));
        v = reinterpret_cast<Packed*>(take(v_bytes));
        k_start = reinterpret_cast<i32*>(take(4 * row));
        zeros = reinterpret_cast<i32*>(take(4 * kPanel));
        std::memset(zeros, 0, 4 * kPanel);
        scores = reinterpret_cast<i32*>(take(4 * kRows * row));
        context = reinterpret_cast<i32*>(take(8 * kRows * kPanel));
        room = take(2 * row);
        codes = take(row);
        planes = take(2 * kRows * row);
    }

    void pack_keys(const Sizes& n, const i8* from, i64 step) {
        for (i64 p = 0; p < key_panels; ++p) {
            const i64 columns = std::min(n.keys - p * kPanel, kPanel);
            alignas(64) i32 sums[kPanel];
            pack_rows(from + p * kPanel * step, step, columns, n.width, k + p * panel_size(n.width),
                      sums);
            starts(sums, nullptr, columns, true, k_start + p * kPanel);
        }
    }
    void pack_values(const Sizes& n, const i8* from, i64 step) {
        for (i64 p = 0; p < width_panels; ++p) {
            const i64 columns = std::min(n.width - p * kPanel, kPanel);
            pack_columns(from + p * kPanel, step, columns, n.keys, v + p * panel_size(n.keys));
        }
    }
    // Scores of up to six queries, in rows of `scores`.
    void score(const Sizes& n, const i8* q, i64 step, i64 rows) {
        const Rows a{reinterpret_cast<const u8*>(q), step, true};
        for (i64 p = 0; p < key_panels; ++p) {
            multiply(a, rows, n.keys - p * kPanel, n.width, k + p * panel_size(n.width),
                     k_start + p * kPanel, scores + p * kPanel, row);
        }
    }
    Planes plane(i64 r) const { return {planes + r * row, planes + (kRows + r) * row}; }

    // Context of up to six rows of planes; finish(acc, row, from, n) takes it by panel.
    template <class Finish>
    void weigh(const Sizes& n, i64 rows, const Finish& finish) {
        for (i64 p = 0; p < width_panels; ++p) {
            const i64 columns = std::min(n.width - p * kPanel, kPanel);
            for (i64 half = 0; half < 2; ++half) {
                multiply({planes + half * kRows * row, row, false}, rows, columns, n.keys,
                         v + p * panel_size(n.keys), zeros, context + half * kRows * kPanel, kPanel);
            }
            for (i64 r = 0; r < rows; ++r) {
                i32* high = context + r * kPanel;
                const i32* low = context + (kRows + r) * kPanel;
                for (i64 c = 0; c < kPanel; ++c) high[c] = i32((u32(high[c]) << 8) + u32(low[c]));
                finish(high, r, p * kPanel, columns);
            }
        }
    }
};

// Runs work(workspace, b, h) for every head.
template <class Work>
void each_head(const Sizes& n, const Work& work) {
#pragma omp parallel if (n.batch * n.heads * n.queries * n.keys > (1 << 12))
    {
        static thread_local Scratch memory;
        Workspace space(n, memory);
#pragma omp for schedule(dynamic)
        for (i64 head = 0; head < n.batch * n.heads; ++head) {
            work(space, head / n.heads, head % n.heads);
        }
    }
}

template <class Work>
void each_six(i64 rows, const Work& work) {
    for (i64 t = 0; t < rows; t += kRows) work(t, std::min(kRows, rows - t));
}

// Row t of head h of the bias that element b of the batch has.
const i32* bias_row(const i32* bias, i64 windows, const Sizes& n, i64 b, i64 h, i64 t) {
    if (!bias) return nullptr;
    return bias + ((b % windows * n.heads + h) * n.queries + t) * n.keys;
}

}  // namespace

EXPORT void set_tables(const i64* thresholds, const i64* weights) {
    for (int j = 0; j < 16; ++j) lg_thresholds[j] = thresholds[j];
    for (int c = 0; c < 256; ++c) {
        weight_planes[0][c] = static_cast<u8>(weights[c] >> 8);
        weight_planes[1][c] = static_cast<u8>(weights[c]);
    }
}

EXPORT void layer_norm(const void* x, i64 wide, i64 rows, i64 channels, const i8* shift,
                       const i32* gain, const i32* bias, i8* out) {
    const Norm norm{shift, gain, bias, channels, false};
    if (wide) layer_norm_rows(static_cast<const i16*>(x), rows, norm, out);
    else layer_norm_rows(static_cast<const i8*>(x), rows, norm, out);
}

EXPORT void gemm(const u8* x, i64 is_signed, i64 rows, i64 outputs, i64 inputs, const i8* weight,
                 const i32* bias, i32* out) {
    linear({x, inputs, is_signed != 0}, rows, outputs, inputs, weight, bias,
           [&](const i32* acc, i64 row, i64 from, i64 n) {
               std::memcpy(out + row * outputs + from, acc, static_cast<std::size_t>(n) * sizeof(i32));
           });
}

EXPORT void requantize(const i32* acc, i64 rows, i64 channels, const i32* multiplier, const i8* shift,
                       i64 zero_point, const i8* table, i8* out) {
    static thread_local Scratch memory;
    const Factors by(multiplier, shift, channels, zero_point, table, memory);
#pragma omp parallel for if (rows * channels > (1 << 15))
    for (i64 r = 0; r < rows; ++r) {
        requantize_row(acc + r * channels, channels, by, 0, out + r * channels);
    }
}

EXPORT void residual(const void* x, i64 wide_in, const i32* acc, i64 rows, i64 channels,
                     const i32* x_multiplier, const i32* acc_multiplier, const i8* shift, void* out,
                     i64 wide_out) {
    static thread_local Scratch memory;
    const Factors by(acc_multiplier, shift, channels, 0, nullptr, memory);
    const Residual add{x, wide_in != 0, wide_out != 0, x_multiplier, out};
#pragma omp parallel for if (rows * channels > (1 << 15))
    for (i64 r = 0; r < rows; ++r) add.row(acc + r * channels, channels, by, 0, r * channels);
}

EXPORT void linear_requantize(const u8* x, i64 is_signed, i64 rows, i64 outputs, i64 inputs,
                              const i8* weight, const i32* bias, const i32* multiplier,
                              const i8* shift, i64 zero_point, const i8* table, i8* out) {
    static thread_local Scratch memory;
    const Factors by(multiplier, shift, outputs, zero_point, table, memory);
    linear({x, inputs, is_signed != 0}, rows, outputs, inputs, weight, bias,
           [&](const i32* acc, i64 row, i64 from, i64 n) {
               requantize_row(acc, n, by, from, out + row * outputs + from);
           });
}

EXPORT void linear_residual(const u8* x, i64 is_signed, i64 rows, i64 outputs, i64 inputs,
                            const i8* weight, const i32* bias, const void* stream, i64 wide_in,
                            const i32* stream_multiplier, const i32* multiplier, const i8* shift,
                            void* out, i64 wide_out) {
    static thread_local Scratch memory;
    const Factors by(multiplier, shift, outputs, 0, nullptr, memory);
    const Residual add{stream, wide_in != 0, wide_out != 0, stream_multiplier, out};
    linear({x, inputs, is_signed != 0}, rows, outputs, inputs, weight, bias,
           [&](const i32* acc, i64 row, i64 from, i64 n) {
               add.row(acc, n, by, from, row * outputs + from);
           });
}

EXPORT void scores(const i8* q, i64 q_batch, i64 q_head, i64 q_token, const i8* k, i64 k_batch,
                   i64 k_head, i64 k_token, i64 batch, i64 heads, i64 queries, i64 keys, i64 width,
                   i32* out) {
    const Sizes n{batch, heads, queries, keys, width};
    const Heads left{q, q_batch, q_head, q_token}, right{k, k_batch, k_head, k_token};
    each_head(n, [&](Workspace& space, i64 b, i64 h) {
        space.pack_keys(n, right.at(b, h), k_token);
        i32* to = out + (b * heads + h) * queries * keys;
        each_six(queries, [&](i64 t, i64 rows) {
            space.score(n, left.at(b, h) + t * q_token, q_token, rows);
            for (i64 r = 0; r < rows; ++r) {
                std::memcpy(to + (t + r) * keys, space.scores + r * space.row,
                            static_cast<std::size_t>(keys) * sizeof(i32));
            }
        });
    });
}

EXPORT void softmax_codes(const i32* scores, i64 batch, i64 heads, i64 queries, i64 keys,
                          const i32* multiplier, i64 shift, const i32* table, const i32* bias,
                          i64 windows, i64 code, u8* out) {
    const Sizes n{batch, heads, queries, keys, 1};
    const Softmax softmax(keys, shift, code, table);
    each_head(n, [&](Workspace& space, i64 b, i64 h) {
        for (i64 t = 0; t < queries; ++t) {
            const i64 at = ((b * heads + h) * queries + t) * keys;
            softmax_row(scores + at, bias_row(bias, windows, n, b, h, t), softmax, multiplier[h],
                        space.room, out + at);
        }
    });
}

EXPORT void context(const u8* codes, const i8* v, i64 v_batch, i64 v_head, i64 v_token, i64 batch,
                    i64 heads, i64 queries, i64 keys, i64 width, i64 code, i32* out) {
    const Sizes n{batch, heads, queries, keys, width};
    const Heads right{v, v_batch, v_head, v_token};
    each_head(n, [&](Workspace& space, i64 b, i64 h) {
        space.pack_values(n, right.at(b, h), v_token);
        const i64 first_row = (b * heads + h) * queries;
        each_six(queries, [&](i64 t, i64 rows) {
            for (i64 r = 0; r < rows; ++r) {
                planes_of(codes + (first_row + t + r) * keys, keys, Code(code), space.plane(r));
            }
            space.weigh(n, rows, [&](const i32* acc, i64 r, i64 from, i64 count) {
                std::memcpy(out + (first_row + t + r) * width + from, acc,
                            static_cast<std::size_t>(count) * sizeof(i32));
            });
        });
    });
}

EXPORT void attention(const i8* qkv, i64 batch, i64 tokens, i64 heads, i64 width,
                      const i32* multiplier, i64 shift, const i32* table, const i32* bias,
                      i64 windows, const i32* out_multiplier, const i8* out_shift, i64 code, i8* out) {
    const Sizes n{batch, heads, tokens, tokens, width};
    const i64 channels = heads * width, token = 3 * channels;
    const Heads q{qkv, tokens * token, width, token};
    const Softmax softmax(tokens, shift, code, table);
    static thread_local Scratch memory;
    const Factors by(out_multiplier, out_shift, channels, 0, nullptr, memory);
    each_head(n, [&](Workspace& space, i64 b, i64 h) {
        const i8* from = q.at(b, h);
        space.pack_keys(n, from + channels, token);
        space.pack_values(n, from + 2 * channels, token);
        each_six(tokens, [&](i64 t, i64 rows) {
            space.score(n, from + t * token, token, rows);
            for (i64 r = 0; r < rows; ++r) {
                softmax_row(space.scores + r * space.row, bias_row(bias, windows, n, b, h, t + r),
                            softmax, multiplier[h], space.room, space.codes);
                planes_of(space.codes, tokens, softmax.code, space.plane(r));
            }
            space.weigh(n, rows, [&](const i32* acc, i64 r, i64 at, i64 count) {
                requantize_row(acc, count, by, h * width + at,
                               out + (b * tokens + t + r) * channels + h * width + at);
            });
        });
    });
}
