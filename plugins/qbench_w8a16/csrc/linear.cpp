// y[m][n] = Σ_k x[m][k] · w[n][k] · scale[n][k / group] + bias[n], with weights that stay integers in memory.
//
// Lanes run along k. Few rows: weights are decoded in registers, and read once. Many rows: weights are
// decoded into panels that stay in the caches while tiles of rows pass by.
// Either way every output has one sum a lane, taken in the order of k, so that its bits depend neither
// on the other rows nor on the number of threads.
//
// Where there are no such instructions, or better ones, a library multiplies: w8a16_weights_* make its weights.
#include <cstddef>
#include <cstdint>
#include <cstring>

#define PUBLIC extern "C" __attribute__((visibility("default")))

// What this build computes in: bit 0 float32, bit 1 bfloat16. Bit 2: the processor has a unit that multiplies
// tiles of bfloat16, which this code leaves to libraries.
PUBLIC int w8a16_features() {
  int features = 0;
#if defined(__AMX_BF16__)
  features |= 4;
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VBMI__)
  features |= 1;
#if defined(__AVX512BF16__)
  features |= 2;
#endif
#endif
  return features;
}

// -- weights as floats: loops that every compiler vectorizes, on any processor --------------------------

namespace {

inline void put(float value, float* to) { *to = value; }

// Rounds to the nearest bfloat16, ties to even; weights are finite.
inline void put(float value, uint16_t* to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  *to = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
void scaled8(const int8_t* __restrict code, float scale, int64_t count, T* __restrict to) {
  for (int64_t i = 0; i < count; ++i) put(float(code[i]) * scale, to + i);
}

template <class T>
void scaled4(const int8_t* __restrict code, float scale, int64_t count, T* __restrict to) {
  for (int64_t i = 0; i < count / 2; ++i) {
    put(float(int8_t(uint8_t(code[i]) << 4) >> 4) * scale, to + 2 * i);
    put(float(code[i] >> 4) * scale, to + 2 * i + 1);
  }
  if (count % 2) put(float(int8_t(uint8_t(code[count / 2]) << 4) >> 4) * scale, to + count - 1);
}

template <class T>
void weights(const int8_t* code, const float* scale, T* to, int64_t n, int64_t k, int64_t group, int bits) {
  const int64_t groups = (k + group - 1) / group, stride = bits == 8 ? k : (k + 1) / 2;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group, count = group < k - first ? group : k - first;
      const int8_t* const from = code + row * stride;
      const float s = scale[row * groups + g];
      if (bits == 8)
        scaled8(from + first, s, count, to + row * k + first);
      else
        scaled4(from + first / 2, s, count, to + row * k + first);
    }
}

}  // namespace

#define WEIGHTS(name, dtype)                                                                       \
  PUBLIC void name(const int8_t* code, const float* scale, dtype* to, int64_t n, int64_t k,        \
                   int64_t group, int bits) {                                                      \
    weights(code, scale, to, n, k, group, bits);                                                   \
  }

WEIGHTS(w8a16_weights_float32, float)
WEIGHTS(w8a16_weights_bfloat16, uint16_t)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VBMI__)
#include <immintrin.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <memory>
#include <new>

// Loops over the parts of a tile are unrolled, so that its sums live in registers.
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE inline __attribute__((always_inline))

namespace {

struct Problem {
  const void* x;        // (rows, k)
  const uint8_t* code;  // (n, k) int8, or (n, ceil(k / 2)) with the even element in the low half
  const float* scale;   // (n, groups)
  const void* bias;     // (n) of the dtype of x, or null
  void* y;              // (rows, n)
  int64_t rows, n, k, group;
  int64_t kept = 0;  // outputs before it are not stored
};

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// -- dtypes: how to multiply, and how to round sums --------------------------------------------------

struct Float32 {
  using type = float;
  using vector = __m512;
  static constexpr int lanes = 16;
  static INLINE vector load(const type* p) { return _mm512_load_ps(p); }
  static INLINE void store(type* p, vector v) { _mm512_store_ps(p, v); }
  static INLINE __m512 multiply_add(__m512 sum, vector a, vector b) {
    return _mm512_fmadd_ps(a, b, sum);
  }
  static INLINE void round(type* y, __m128 sums, __mmask8 which) {
    _mm_mask_storeu_ps(y, which, sums);
  }
  static INLINE __m128 widen(const void* p, __mmask8 which) {
    return _mm_maskz_loadu_ps(which, p);
  }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
  using type = uint16_t;
  using vector = __m512i;
  static constexpr int lanes = 32;
  static INLINE vector load(const type* p) { return _mm512_load_si512(p); }
  static INLINE void store(type* p, vector v) { _mm512_store_si512(p, v); }
  static INLINE __m512 multiply_add(__m512 sum, vector a, vector b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static INLINE void round(type* y, __m128 sums, __mmask8 which) {
    _mm_mask_storeu_epi16(y, which, (__m128i)_mm_cvtneps_pbh(sums));
  }
  static INLINE __m128 widen(const void* p, __mmask8 which) {
    const __m128i halves = _mm_maskz_loadu_epi16(which, p);
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(halves), 16));
  }
};
#endif

// -- codes: `chunk` weights become `vectors` vectors, times what `scale` made of the scale of their group, or
// times 1 where it applies to sums; `pack` puts as many inputs into vectors of the same order ------------

struct Unscaled {};

template <class D>
struct Codes {
  static constexpr int chunk = D::lanes, vectors = 1;
  static void pack(typename D::type* to, int64_t, const typename D::type* from, int count) {
    std::memcpy(to, from, size_t(count) * sizeof(*to));
  }
};

// One scale an output, which applies to its sum: products of codes are exact.
template <class D>
struct Int8;
// Scales of groups.
template <class D>
struct GroupedInt8;
// A table of the 16 values, scaled: a scale costs a product a group.
template <class D>
struct Int4;

template <>
struct Int8<Float32> : Codes<Float32> {
  static constexpr bool scaled = false;
  static int64_t bytes(int64_t k) { return k; }
  static INLINE Unscaled scale(float) { return {}; }
  static INLINE void decode(const uint8_t* p, __mmask64 valid, Unscaled, __m512* to) {
    to[0] = plain(p, valid);
  }
  static INLINE __m512 plain(const uint8_t* p, __mmask64 valid) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(__mmask16(valid), p)));
  }
};

template <>
struct GroupedInt8<Float32> : Codes<Float32> {
  static constexpr bool scaled = true;
  static int64_t bytes(int64_t k) { return k; }
  static INLINE __m512 scale(float s) { return _mm512_set1_ps(s); }
  static INLINE void decode(const uint8_t* p, __mmask64 valid, __m512 s, __m512* to) {
    to[0] = _mm512_mul_ps(Int8<Float32>::plain(p, valid), s);
  }
};

template <>
struct Int4<Float32> : Codes<Float32> {
  static constexpr bool scaled = true;
  static int64_t bytes(int64_t k) { return (k + 1) / 2; }
  static INLINE __m512 scale(float s) {
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    return _mm512_mul_ps(values, _mm512_set1_ps(s));
  }
  // A byte becomes two dwords whose low four bits choose from the table; higher bits are ignored.
  static INLINE void decode(const uint8_t* p, __mmask64 valid, __m512 table, __m512* to) {
    const __m512i wide = _mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8(__mmask16(valid), p));
    to[0] = _mm512_permutexvar_ps(_mm512_or_si512(wide, _mm512_slli_epi64(wide, 28)), table);
  }
};

#if defined(__AVX512BF16__)
// The low and the high byte of the bfloat16 of 0 … 127.
struct Magnitudes {
  alignas(64) uint8_t low[128], high[128];
  constexpr Magnitudes() : low(), high() {
    for (int value = 1; value < 128; ++value) {
      int exponent = 0;
      while (value >> (exponent + 1)) ++exponent;
      const int bits = (127 + exponent) << 7 | ((value << (7 - exponent)) & 127);
      low[value] = uint8_t(bits);
      high[value] = uint8_t(bits >> 8);
    }
  }
};
constexpr Magnitudes kMagnitudes;

// Both bytes of a bfloat16 are looked up by magnitude: exact, and half the work of two conversions.
// What comes of it is every other piece of eight weights in one vector, the rest in the other.
template <>
struct Int8<BFloat16> : Codes<BFloat16> {
  static constexpr int chunk = 64, vectors = 2;
  static constexpr bool scaled = false;
  static int64_t bytes(int64_t k) { return k; }
  static INLINE Unscaled scale(float) { return {}; }
  static void pack(uint16_t* to, int64_t stride, const uint16_t* from, int count) {
    for (int k = 0; k < count; k += 8)
      std::memcpy(to + k / 16 * 8 + k / 8 % 2 * stride, from + k, size_t(std::min(8, count - k)) * 2);
  }
  static INLINE void decode(const uint8_t* p, __mmask64 valid, Unscaled, __m512i* to) {
    const __m512i code = _mm512_maskz_loadu_epi8(valid, p), size = _mm512_abs_epi8(code);
    const __m512i low = look_up(kMagnitudes.low, size);
    const __m512i sign = _mm512_set1_epi8(char(0x80));
    // high | (code & sign)
    const __m512i high = _mm512_ternarylogic_epi32(look_up(kMagnitudes.high, size), code, sign, 0xf8);
    to[0] = _mm512_unpacklo_epi8(low, high);
    to[1] = _mm512_unpackhi_epi8(low, high);
  }
  static INLINE __m512i look_up(const uint8_t* table, __m512i index) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), index, _mm512_load_si512(table + 64));
  }
};

template <>
struct GroupedInt8<BFloat16> : Codes<BFloat16> {
  static constexpr bool scaled = true;
  static int64_t bytes(int64_t k) { return k; }
  static INLINE __m512 scale(float s) { return _mm512_set1_ps(s); }
  static INLINE void decode(const uint8_t* p, __mmask64 valid, __m512 s, __m512i* to) {
    __m512 low, high;
    GroupedInt8<Float32>::decode(p, valid & 0xffff, s, &low);
    GroupedInt8<Float32>::decode(p + 16, valid >> 16, s, &high);
    to[0] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }
};

template <>
struct Int4<BFloat16> : Codes<BFloat16> {
  static constexpr bool scaled = true;
  static int64_t bytes(int64_t k) { return (k + 1) / 2; }
  static INLINE __m512i scale(float s) {
    const __m512 table = Int4<Float32>::scale(s);
    return (__m512i)_mm512_cvtne2ps_pbh(table, table);
  }
  // A byte becomes two words whose low four bits choose from the table, which is there twice.
  static INLINE void decode(const uint8_t* p, __mmask64 valid, __m512i table, __m512i* to) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(__mmask16(valid), p));
    to[0] = _mm512_permutexvar_epi16(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)), table);
  }
};
#endif

template <class C>
using Scale = decltype(C::scale(0));

// The scales of group g of the O outputs from n on.
template <class C, int O>
INLINE void scales(const float* scale, int64_t groups, int64_t n, int64_t g, Scale<C>* to) {
  UNROLL for (int o = 0; o < O; ++o) to[o] = C::scale(scale[(n + o) * groups + g]);
}

// Which bytes of a chunk hold its first `count` weights.
template <class C>
INLINE __mmask64 valid(int64_t count) {
  return count >= C::chunk ? ~__mmask64(0) : (__mmask64(1) << C::bytes(count)) - 1;
}

// -- memory: inputs in the order of decoded weights, every group padded with zeros to whole chunks -----

// Memory of one thread that stays for its next call: fresh pages cost more than what is written there.
template <class T, int Which>
T* room(int64_t size) {
  struct Free {
    void operator()(T* p) const { operator delete(p, std::align_val_t(64)); }
  };
  thread_local std::unique_ptr<T, Free> data;
  thread_local int64_t held = 0;
  if (size > held) {
    data.reset();
    held = 0;
    data.reset(static_cast<T*>(operator new(size_t(size) * sizeof(T), std::align_val_t(64))));
    held = size;
  }
  return data.get();
}

template <class C>
struct Layout {
  int64_t groups, padded, width;
  explicit Layout(const Problem& p)
      : groups((p.k + p.group - 1) / p.group),
        padded(round_up(std::min(p.group, p.k), C::chunk)),
        width(groups * padded) {}
};

// The inputs of a tile as one stream: vector by vector along k, and of each, row by row.
template <class D, class C>
void pack(const Problem& p, const Layout<C>& layout, int64_t row, int64_t rows, typename D::type* to) {
  const auto* x = static_cast<const typename D::type*>(p.x) + row * p.k;
  for (int64_t g = 0; g < layout.groups; ++g)
    for (int64_t i = 0; i < layout.padded; i += C::chunk, to += rows * C::chunk) {
      const int64_t last = std::min(p.k, (g + 1) * p.group), k = g * p.group + i;
      const int count = int(std::clamp<int64_t>(last - k, 0, C::chunk));
      if (count < C::chunk) std::memset(to, 0, size_t(rows * C::chunk) * sizeof(*to));
      for (int64_t r = 0; r < rows && count > 0; ++r)
        C::pack(to + r * D::lanes, rows * D::lanes, x + r * p.k + k, count);
    }
}

// Starts to load what is needed soon; any address will do.
INLINE void fetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// -- one tile: O outputs of R rows -----------------------------------------------------------------------

template <int O, int R>
struct Sums {
  __m512 at[O][R];
  INLINE void clear() {
    UNROLL for (int o = 0; o < O; ++o) {
      UNROLL for (int r = 0; r < R; ++r) at[o][r] = _mm512_setzero_ps();
    }
  }
  INLINE void load(const __m512* from) {
    UNROLL for (int o = 0; o < O; ++o) {
      UNROLL for (int r = 0; r < R; ++r) at[o][r] = from[o * R + r];
    }
  }
  INLINE void store(__m512* to) const {
    UNROLL for (int o = 0; o < O; ++o) {
      UNROLL for (int r = 0; r < R; ++r) to[o * R + r] = at[o][r];
    }
  }
};

template <class D, int O, int R>
INLINE void multiply_add(Sums<O, R>& sums, const typename D::type* x, const typename D::vector* w,
                         int step) {
  UNROLL for (int r = 0; r < R; ++r) {
    auto in = D::load(x + r * D::lanes);
    asm("" : "+v"(in));  // loaded once: the compiler would make it an operand of every product
    UNROLL for (int o = 0; o < O; ++o) {
      sums.at[o][r] = D::multiply_add(sums.at[o][r], in, w[o * step]);
    }
  }
}

template <class D, class C, int O, int R>
INLINE void add_chunk(Sums<O, R>& sums, const typename D::type* x, const uint8_t* row, int64_t stride,
                      const Scale<C>* scale, __mmask64 mask) {
  typename D::vector w[O * C::vectors];
  UNROLL for (int o = 0; o < O; ++o) {
    // The next outputs lie on other pages, which the processor does not fetch ahead by itself.
    fetch(row + (O + o) * stride);
    C::decode(row + o * stride, mask, scale[o], w + o * C::vectors);
  }
  UNROLL for (int v = 0; v < C::vectors; ++v) {
    multiply_add<D>(sums, x + v * R * D::lanes, w + v, C::vectors);
  }
}

// Adds the products with the `count` weights at `row`, as they are in memory.
template <class D, class C, int O, int R>
INLINE void add_codes(Sums<O, R>& sums, const typename D::type* x, const uint8_t* row, int64_t stride,
                      const Scale<C>* scale, int64_t count) {
  for (; count >= C::chunk; count -= C::chunk, x += R * C::chunk, row += C::bytes(C::chunk))
    add_chunk<D, C>(sums, x, row, stride, scale, ~__mmask64(0));
  if (count > 0) add_chunk<D, C>(sums, x, row, stride, scale, valid<C>(count));
}

// Adds the products with `count` decoded weights of each output.
template <class D, int O, int R>
INLINE void add_panel(Sums<O, R>& sums, const typename D::type* x, const typename D::type* panel,
                      int64_t count) {
  for (int64_t i = 0; i < count; i += D::lanes, x += R * D::lanes, panel += O * D::lanes) {
    typename D::vector w[O];
    UNROLL for (int o = 0; o < O; ++o) w[o] = D::load(panel + o * D::lanes);
    multiply_add<D>(sums, x, w, 1);
  }
}

// The sums of the lanes of four vectors.
INLINE __m128 reduce(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <class D, class C, int O, int R>
INLINE void finish(const Problem& p, const Sums<O, R>& sums, int64_t row, int64_t n) {
  const __mmask8 first = (1 << O) - 1;
  const __mmask8 stored = first & (0xf << std::clamp<int64_t>(p.kept - n, 0, O));
  const __m128 scale = C::scaled ? _mm_set1_ps(1) : _mm_maskz_loadu_ps(first, p.scale + n);
  const auto* from = static_cast<const typename D::type*>(p.bias);
  const __m128 bias = from ? D::widen(from + n, first) : _mm_setzero_ps();
  auto* y = static_cast<typename D::type*>(p.y) + row * p.n + n;
  UNROLL for (int r = 0; r < R; ++r) {
    // Of a single output, the first of four: what the others hold is not stored.
    const __m512 a = sums.at[0][r], b = sums.at[1 % O][r], c = sums.at[2 % O][r], d = sums.at[3 % O][r];
    D::round(y + r * p.n, _mm_fmadd_ps(reduce(a, b, c, d), scale, bias), stored);
  }
}

constexpr int kOutputs = 4;
constexpr int kRows = 6;
// Chunks of several vectors leave room for fewer sums while they are decoded.
template <class C>
constexpr int kFew = C::vectors > 1 ? 4 : 6;

template <class D, class C, int O, int R>
void few(const Problem& p, const Layout<C>& layout, const typename D::type* x, int64_t n) {
  Sums<O, R> total;
  total.clear();
  const int64_t stride = C::bytes(p.k);
  const uint8_t* row = p.code + n * stride;
  for (int64_t g = 0; g < layout.groups; ++g, x += layout.padded * R) {
    Scale<C> scale[O];
    scales<C, O>(p.scale, layout.groups, n, g, scale);
    const int64_t k = g * p.group, count = std::min(p.group, p.k - k);
    add_codes<D, C>(total, x, row + C::bytes(k), stride, scale, count);
  }
  finish<D, C, O, R>(p, total, 0, n);
}

// A stretch of k that a panel holds.
struct Stretch {
  int64_t first, last;  // in the padded layout
  bool opens, closes;
};

template <class D, class C, int O>
void decode(const Problem& p, const Layout<C>& layout, int64_t n, const Stretch& s,
            int64_t ahead, typename D::type* panel) {
  const int64_t stride = C::bytes(p.k);
  for (int64_t at = s.first; at < s.last;) {
    const int64_t g = at / layout.padded, start = g * layout.padded;
    const int64_t end = std::min(s.last, start + layout.padded), past = std::min(p.k, (g + 1) * p.group);
    Scale<C> scale[O];
    scales<C, O>(p.scale, layout.groups, n, g, scale);
    for (; at < end; at += C::chunk, panel += O * C::chunk) {
      const int64_t k = g * p.group + at - start, count = std::max<int64_t>(past - k, 0);
      UNROLL for (int o = 0; o < O; ++o) {
        typename D::vector w[C::vectors];
        const uint8_t* code = p.code + (n + o) * stride + C::bytes(k);
        fetch(code + ahead);
        C::decode(code, valid<C>(count), scale[o], w);
        UNROLL for (int v = 0; v < C::vectors; ++v) D::store(panel + (v * O + o) * D::lanes, w[v]);
      }
    }
  }
}

template <class D, class C, int O, int R>
void many(const Problem& p, const Layout<C>&, const Stretch& s, const typename D::type* x,
          const typename D::type* panel, __m512* kept, int64_t row, int64_t n) {
  Sums<O, R> total;
  if (s.opens)
    total.clear();
  else
    total.load(kept);
  add_panel<D>(total, x + s.first * R, panel, s.last - s.first);
  if (s.closes)
    finish<D, C, O, R>(p, total, row, n);
  else
    total.store(kept);
}

// One tile of any number of rows up to R.
template <class D, class C, int O, int R, class... Rest>
INLINE void of_rows(int64_t rows, const Problem& p, const Layout<C>& layout, const Rest&... rest) {
  if constexpr (R > 1)
    if (rows < R) return of_rows<D, C, O, R - 1>(rows, p, layout, rest...);
  if constexpr (sizeof...(Rest) == 2)
    few<D, C, O, R>(p, layout, rest...);
  else
    many<D, C, O, R>(p, layout, rest...);
}

// Bytes of a panel: with the inputs of a tile it fills most of the first-level cache.
constexpr int64_t kPanelBytes = 16 * 1024;
// Panels that the inputs of a tile meet while they are there; together they stay in the second level.
constexpr int64_t kPanels = 16;
// Bytes of inputs for which weights are decoded once; they stay in the third level.
constexpr int64_t kBlockBytes = 3 * 1024 * 1024;
// Below this number of products, waking a second thread costs more than it saves.
constexpr int64_t kSerial = 1 << 17;

// Rows [row, last) of the problem, packed into x.
template <class D>
struct Block {
  typename D::type* x;
  int64_t row, last;
};

// How the work of many rows is cut.
template <class D, class C>
struct Plan {
  static constexpr int64_t tile = kRows;
  int64_t stretch, panel, rows, outputs, kept;

  Plan(const Problem& p, const Layout<C>& layout) {
    constexpr int64_t bytes = sizeof(typename D::type);
    stretch = kPanelBytes / kOutputs / bytes;
    panel = stretch * kOutputs;
    const int64_t fit = kBlockBytes / (std::max<int64_t>(layout.width, 1) * bytes) / tile * tile;
    rows = std::min(p.rows, std::max(tile, fit));
    int64_t threads = 1;
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    outputs = std::min(kOutputs * kPanels, round_up((p.n + threads - 1) / threads, kOutputs));
    // Sums wait in memory only where k takes several stretches.
    kept = layout.width > stretch ? rows * kOutputs : 0;
  }
};

// Memory of a thread.
template <class D>
struct Scratch {
  typename D::type* panels;
  __m512* kept;
};

// Outputs [n, end), O at a time.
template <class D, class C, int O>
void many_outputs(const Problem& p, const Layout<C>& layout, const Plan<D, C>& plan,
                  const Block<D>& block, const Scratch<D>& scratch, int64_t n, int64_t end) {
  for (int64_t first = 0; first < layout.width; first += plan.stretch) {
    const int64_t last = std::min(first + plan.stretch, layout.width);
    const Stretch s{first, last, first == 0, last == layout.width};
    // From here to the codes that are decoded next.
    const int64_t ahead =
        s.closes ? C::bytes(p.k) * (end - n) - C::bytes(first) : C::bytes(plan.stretch);
    for (int64_t o = n; o < end; o += O)
      decode<D, C, O>(p, layout, o, s, ahead, scratch.panels + (o - n) / O * plan.panel);
    for (int64_t row = block.row; row < block.last; row += plan.tile)
      for (int64_t o = n; o < end; o += O) {
        const auto* x = block.x + (row - block.row) * layout.width;
        const auto* panel = scratch.panels + (o - n) / O * plan.panel;
        auto* kept = scratch.kept + (o - n) / O * plan.kept + (row - block.row) * O;
        of_rows<D, C, O, plan.tile>(block.last - row, p, layout, s, x, panel, kept, row, o);
      }
  }
}

// What four do not divide is computed in a tile of four, which begins before it: inputs pass by once.
Problem stored_from(const Problem& p, int64_t n) {
  Problem rest = p;
  rest.kept = n;
  return rest;
}

template <class D, class C>
void linear_many(const Problem& p) {
  const Layout<C> layout(p);
  const Plan<D, C> plan(p, layout);
  auto* const x = room<typename D::type, 0>(plan.rows * layout.width);
#pragma omp parallel if (p.rows * p.n * p.k > kSerial)
  {
    const Scratch<D> scratch{
        room<typename D::type, 1>(plan.panel * kPanels),
        reinterpret_cast<__m512*>(room<float, 2>(plan.kept * kPanels * 16)),
    };
    for (int64_t row = 0; row < p.rows; row += plan.rows) {
      const Block<D> block{x, row, std::min(p.rows, row + plan.rows)};
#pragma omp for schedule(static)
      for (int64_t r = row; r < block.last; r += plan.tile)
        pack<D>(p, layout, r, std::min(plan.tile, block.last - r), x + (r - row) * layout.width);
#pragma omp for schedule(static)
      for (int64_t n = 0; n < p.n; n += plan.outputs) {
        const int64_t end = std::min(n + plan.outputs, p.n);
        const int64_t whole = n + (end - n) / kOutputs * kOutputs;
        if (n < whole) many_outputs<D, C, kOutputs>(p, layout, plan, block, scratch, n, whole);
        if (whole == end) continue;
        if (p.n < kOutputs)
          many_outputs<D, C, 1>(p, layout, plan, block, scratch, whole, end);
        else
          many_outputs<D, C, kOutputs>(stored_from(p, whole), layout, plan, block, scratch, end - kOutputs, end);
      }
    }
  }
}

template <class D, class C>
void linear_few(const Problem& p) {
  const Layout<C> layout(p);
  auto* const x = room<typename D::type, 0>(p.rows * layout.width);
  pack<D>(p, layout, 0, p.rows, x);
#pragma omp parallel for schedule(static) if (p.rows * p.n * p.k > kSerial)
  for (int64_t n = 0; n < p.n; n += kOutputs) {
    if (p.n >= kOutputs)
      of_rows<D, C, kOutputs, kFew<C>>(p.rows, stored_from(p, n), layout, x, std::min(n, p.n - kOutputs));
    else
      for (int64_t o = n; o < p.n; ++o) of_rows<D, C, 1, kFew<C>>(p.rows, p, layout, x, o);
  }
}

template <class D, class C>
void linear(const Problem& p) {
  p.rows > kFew<C> ? linear_many<D, C>(p) : linear_few<D, C>(p);
}

template <class D>
void dispatch(const Problem& p, int bits) {
  if (bits == 4)
    linear<D, Int4<D>>(p);
  else
    p.group < p.k ? linear<D, GroupedInt8<D>>(p) : linear<D, Int8<D>>(p);
}

}  // namespace

#define LINEAR(name, dtype)                                                                        \
  PUBLIC void name(const void* x, const uint8_t* code, const float* scale, const void* bias,       \
                   void* y, int64_t rows, int64_t n, int64_t k, int64_t group, int bits) {         \
    dispatch<dtype>(Problem{x, code, scale, bias, y, rows, n, k, group}, bits);                    \
  }

LINEAR(w8a16_float32, Float32)
#if defined(__AVX512BF16__)
LINEAR(w8a16_bfloat16, BFloat16)
#endif
#endif
