// The layers of a stack's networks: products, and what happens between them, fused so that numbers are used while they
// are in the first cache. bsnn/engine/passes.py says the same in plain torch, with the formulas; tests compare the two.
// C interface, no torch: built by the machine's C++ compiler on first use (bsnn/engine/cpu.py).
//
// K networks, N units, B samples. Row-major arrays; [K][N][B] is contiguous. A network's arithmetic is the same
// whatever its place in the stack and whatever its neighbours are.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __unix__
#include <unistd.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// --- 64 bytes of numbers at a time (GCC's and Clang's vector extension; narrower machines split them) ---

template <typename T> struct Format;
template <> struct Format<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127, terms = 7;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  static constexpr float smallest = -87.0f, largest = 88.0f, tanh_one = 10.0f;
};
template <> struct Format<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023, terms = 14;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0;
  static constexpr double smallest = -708.0, largest = 709.0, tanh_one = 20.0;
};

template <typename T> struct Simd {
  static constexpr int64_t width = 64 / sizeof(T);
  typedef T V __attribute__((vector_size(64)));
  typedef typename Format<T>::Int I __attribute__((vector_size(64)));
};
template <typename T> using V = typename Simd<T>::V;
template <typename T> using I = typename Simd<T>::I;

template <typename T> inline T sum_of(V<T> v) {
  T lanes[Simd<T>::width];
  std::memcpy(lanes, &v, sizeof v);
  for (int64_t half = Simd<T>::width / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// A whole vector of a row, and the end of a row that isn't one.
template <typename T> struct Whole {
  V<T> load(const T *p) const {
    V<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  void store(T *p, V<T> v) const { std::memcpy(p, &v, sizeof v); }
  V<T> for_sum(V<T> v) const { return v; }
};
template <typename T> struct End {
  size_t bytes;
  V<T> load(const T *p) const {
    V<T> v = {};
    std::memcpy(&v, p, bytes);
    return v;
  }
  void store(T *p, V<T> v) const { std::memcpy(p, &v, bytes); }
  V<T> for_sum(V<T> v) const {
    V<T> kept = {};
    std::memcpy(&kept, &v, bytes);
    return kept;
  }
};
template <typename T, typename Use> inline void along(int64_t length, Use use) {
  int64_t at = 0;
  for (; at + Simd<T>::width <= length; at += Simd<T>::width) use(at, Whole<T>{});
  if (at < length) use(at, End<T>{static_cast<size_t>(length - at) * sizeof(T)});
}

// --- exponentials ---

// e^x = 2^n e^r with |r| <= ln 2 / 2: 2^n and e^r - 1. nan stays nan.
template <typename T> inline void split_exp(V<T> x, V<T> &power, V<T> &minus_one) {
  using F = Format<T>;
  x = x < F::smallest ? V<T>{} + F::smallest : x;
  x = x > F::largest ? V<T>{} + F::largest : x;
  const V<T> n = (x * T(1.4426950408889634) + F::round) - F::round;
  const V<T> r = (x - n * F::ln2_high) - n * F::ln2_low;
  constexpr T factorials[] = {T(1), T(2), T(6), T(24), T(120), T(720), T(5040), T(40320), T(362880), T(3628800),
                              T(39916800), T(479001600), T(6227020800.0), T(87178291200.0)};
  V<T> sum = r * (T(1) / factorials[F::terms - 1]);  // Taylor's series, its last term below rounding
  for (int k = F::terms - 1; k >= 1; --k) sum = (sum + T(1) / factorials[k - 1]) * r;
  const I<T> bits = (__builtin_convertvector(n, I<T>) + F::bias) << F::mantissa;
  std::memcpy(&power, &bits, sizeof power);
  minus_one = sum;
}
template <typename T> inline V<T> exp_(V<T> x) {  // 0 where it would be subnormal
  V<T> power, minus_one;
  split_exp<T>(x, power, minus_one);
  return x < Format<T>::smallest ? V<T>{} : power * minus_one + power;
}
template <typename T> inline V<T> expm1_(V<T> x) {  // also for tiny x, where e^x - 1 would lose its digits
  V<T> power, minus_one;
  split_exp<T>(x, power, minus_one);
  return power * minus_one + (power - T(1));
}

// --- the functions of bsnn/engine/functions.py: f(x) and f'(x) ---

template <typename T> struct Tanh {
  T p, q;
  V<T> value(V<T> x) const {
    const T limit = T(2) * Format<T>::tanh_one;  // from where tanh is 1 to all digits
    const V<T> two = T(2) * x, m = expm1_<T>(two > limit ? V<T>{} + limit : two);
    return m / (m + T(2));
  }
  void both(V<T> x, V<T> &f, V<T> &slope) const { f = value(x), slope = T(1) - f * f; }
};
template <typename T> struct Identity {  // of the positive side, for ReLU
  T p, q;
  V<T> value(V<T> x) const { return x <= T(0) ? V<T>{} : x; }
  void both(V<T> x, V<T> &f, V<T> &slope) const { f = value(x), slope = x > T(0) ? V<T>{} + T(1) : V<T>{}; }
};
template <typename T> struct LeakyReLU {
  T p, q;
  V<T> value(V<T> x) const { return x <= T(0) ? p * x : x; }
  void both(V<T> x, V<T> &f, V<T> &slope) const { f = value(x), slope = x > T(0) ? V<T>{} + T(1) : V<T>{} + p; }
};
template <typename T> struct ELU {
  T p, q;
  V<T> below(V<T> x) const { return expm1_<T>(x > T(0) ? V<T>{} : x); }
  V<T> value(V<T> x) const { return x > T(0) ? q * x : (q * p) * below(x); }
  void both(V<T> x, V<T> &f, V<T> &slope) const {
    const V<T> m = below(x);
    f = x > T(0) ? q * x : (q * p) * m;
    slope = x > T(0) ? V<T>{} + q : (q * p) * (m + T(1));
  }
};
template <typename T> struct Swish {
  T p, q;
  // sigmoid(p x) and 1 - sigmoid(p x), both to all digits; e^-|p x| doesn't overflow
  void sigmoid(V<T> x, V<T> &s, V<T> &rest) const {
    const V<T> z = p * x, e = exp_<T>(z > T(0) ? -z : z), inverse = T(1) / (T(1) + e);
    s = z > T(0) ? inverse : e * inverse, rest = z > T(0) ? e * inverse : inverse;
  }
  V<T> value(V<T> x) const {
    V<T> s, rest;
    sigmoid(x, s, rest);
    return x * s;
  }
  void both(V<T> x, V<T> &f, V<T> &slope) const {
    V<T> s, rest;
    sigmoid(x, s, rest);
    f = x * s, slope = s + p * f * rest;
  }
};

struct Shape {
  int64_t networks, batch, width, first_bn;  // networks from first_bn on have batch norm
};
struct FunctionRow {
  int64_t family;
  double p, q, a, b;
};

template <typename T, typename Use> void with_function(const FunctionRow &row, Use use) {
  const T p = T(row.p), q = T(row.q);
  switch (row.family) {
    case 0: return use(Tanh<T>{p, q});
    case 1: return p == T(0) ? use(Identity<T>{p, q}) : use(LeakyReLU<T>{p, q});
    case 2: return use(ELU<T>{p, q});
    default: return use(Swish<T>{p, q});
  }
}

// --- the passes; row i of network k holds unit i's B samples side by side ---

// One layer's tensors of network k. Without batch norm gamma and the others are null, without a constrained layer r is.
template <typename T> struct Unit {
  T *r, *gamma, *beta, *gamma_velocity, *beta_velocity, *mean, *rstd, *running_mean, *running_var, *radial;
};
template <typename T> struct Layers {  // the same for all layers and networks, [L][K][N] or [L][Kb][N]
  T *V, *velocity;
  Unit<T> of;
  Unit<T> unit(const Shape &s, int64_t layer, int64_t k) const {
    Unit<T> u = {};
    const int64_t at = (layer * s.networks + k) * s.width;
    if (of.r) u.r = of.r + at, u.radial = of.radial + at;
    if (k >= s.first_bn) {
      const int64_t bn = (layer * (s.networks - s.first_bn) + k - s.first_bn) * s.width;
      u.gamma = of.gamma + bn, u.beta = of.beta + bn;
      u.gamma_velocity = of.gamma_velocity + bn, u.beta_velocity = of.beta_velocity + bn;
      u.mean = of.mean + bn, u.rstd = of.rstd + bn;
      u.running_mean = of.running_mean + bn, u.running_var = of.running_var + bn;
    }
    return u;
  }
};
struct Numbers {
  double learning_rate, momentum, eps, running;
};

// Rows first to last: h *= r, then batch norm where there is one, then phi: x = phi(u), u = h or
// gamma (h - mean) rstd + beta.
template <typename T, typename F>
void forward_rows(const F &f, const FunctionRow &function, const Unit<T> &unit, const Numbers &n, int64_t B,
                  int64_t first, int64_t last, T *h, T *x) {
  const T a = T(function.a), b = T(function.b), w = T(n.running), unbiased = T(1) / T(B > 1 ? B - 1 : 1);
  for (int64_t i = first; i < last; ++i) {
    T *hi = h + i * B, *xi = x + i * B;
    const T ri = unit.r ? unit.r[i] : T(1);
    if (!unit.gamma) {
      along<T>(B, [&](int64_t l, auto part) {
        const V<T> u = part.load(hi + l) * ri;
        part.store(hi + l, u);
        part.store(xi + l, a * f.value(u) + b);
      });
      continue;
    }
    // one pass: the variance about a sample, which is never many deviations from the mean
    const T origin = hi[0] * ri;
    V<T> sums = {}, squares = {};
    along<T>(B, [&](int64_t l, auto part) {
      const V<T> u = part.load(hi + l) * ri, shifted = part.for_sum(u - origin);
      part.store(hi + l, u);
      sums += shifted;
      squares += shifted * shifted;
    });
    const T offset = sum_of<T>(sums) / T(B), centre = origin + offset;
    const T square = sum_of<T>(squares) - T(B) * offset * offset;
    const T inverse = T(1) / std::sqrt((square > T(0) ? square : square * T(0)) / T(B) + T(n.eps));
    unit.mean[i] = centre, unit.rstd[i] = inverse;
    unit.running_mean[i] = (T(1) - w) * unit.running_mean[i] + w * centre;
    unit.running_var[i] = (T(1) - w) * unit.running_var[i] + w * (square * unbiased);
    const T scale = inverse * unit.gamma[i], shift = unit.beta[i];
    along<T>(B, [&](int64_t l, auto part) {
      part.store(xi + l, a * f.value((part.load(hi + l) - centre) * scale + shift) + b);
    });
  }
}

// The same with fixed statistics: evaluation. h may be x.
template <typename T, typename F>
void evaluate_rows(const F &f, const FunctionRow &function, const Unit<T> &unit, const Numbers &n, int64_t B,
                   int64_t first, int64_t last, const T *h, T *x) {
  const T a = T(function.a), b = T(function.b);
  for (int64_t i = first; i < last; ++i) {
    const T *hi = h + i * B;
    T *xi = x + i * B;
    const T ri = unit.r ? unit.r[i] : T(1);
    T centre = T(0), scale = T(1), shift = T(0);
    if (unit.gamma) {
      centre = unit.running_mean[i], shift = unit.beta[i];
      scale = T(1) / std::sqrt(unit.running_var[i] + T(n.eps)) * unit.gamma[i];
    }
    along<T>(B, [&](int64_t l, auto part) {
      part.store(xi + l, a * f.value((part.load(hi + l) * ri - centre) * scale + shift) + b);
    });
  }
}

// On the way back: x = phi(u) anew, and slope = dx/du.
template <typename T, typename F>
void activate_rows(const F &f, const FunctionRow &function, const Unit<T> &unit, int64_t B, int64_t first, int64_t last,
                   const T *h, T *x, T *slope) {
  const T a = T(function.a), b = T(function.b);
  for (int64_t i = first; i < last; ++i) {
    const T *hi = h + i * B;
    T *xi = x + (i - first) * B, *si = slope + i * B;
    const T centre = unit.gamma ? unit.mean[i] : T(0), scale = unit.gamma ? unit.rstd[i] * unit.gamma[i] : T(1);
    const T shift = unit.gamma ? unit.beta[i] : T(0);
    along<T>(B, [&](int64_t l, auto part) {
      const V<T> u = part.load(hi + l);
      V<T> value, derivative;
      f.both(unit.gamma ? (u - centre) * scale + shift : u, value, derivative);
      part.store(xi + l, a * value + b);
      part.store(si + l, a * derivative);
    });
  }
}

// error: dE/dx of the layer's output on entry, r y on return, y = dE/dh. Also radial_i = sum_b y_ib h_ib, and SGD on
// gamma and beta.
template <typename T>
void backward_rows(const Unit<T> &unit, const Numbers &n, int64_t B, int64_t first, int64_t last, T *error, const T *h,
                   const T *slope) {
  const T rate = T(n.learning_rate), mu = T(n.momentum);
  for (int64_t i = first; i < last; ++i) {
    const T *hi = h + i * B, *si = slope + i * B;
    T *ei = error + i * B;
    const T ri = unit.r ? unit.r[i] : T(1);
    V<T> sum = {};
    if (!unit.gamma) {
      along<T>(B, [&](int64_t l, auto part) {
        const V<T> y = part.load(ei + l) * part.load(si + l);
        sum += part.for_sum(y * part.load(hi + l));
        part.store(ei + l, y * ri);
      });
      if (unit.radial) unit.radial[i] = sum_of<T>(sum);
      continue;
    }
    const T centre = unit.mean[i], inverse = unit.rstd[i], scale = inverse * unit.gamma[i];
    V<T> gammas = {}, betas = {};
    along<T>(B, [&](int64_t l, auto part) {
      const V<T> centred = part.load(hi + l) - centre, g = part.load(ei + l) * part.load(si + l);
      part.store(ei + l, g);
      betas += part.for_sum(g);
      gammas += part.for_sum(g * (centred * inverse));
    });
    const T dgamma = sum_of<T>(gammas), dbeta = sum_of<T>(betas);
    const T g_mean = dbeta / T(B), gn_mean = dgamma / T(B);
    along<T>(B, [&](int64_t l, auto part) {
      const V<T> u = part.load(hi + l);
      const V<T> y = scale * (part.load(ei + l) - g_mean - (u - centre) * inverse * gn_mean);
      sum += part.for_sum(y * u);
      part.store(ei + l, y * ri);
    });
    unit.radial[i] = sum_of<T>(sum);
    unit.gamma_velocity[i] = mu * unit.gamma_velocity[i] + dgamma;
    unit.beta_velocity[i] = mu * unit.beta_velocity[i] + dbeta;
    unit.gamma[i] -= rate * unit.gamma_velocity[i];
    unit.beta[i] -= rate * unit.beta_velocity[i];
  }
}

// Squares are added in double: those of float under- and overflow. A row of weights is taken in vectors of 64 bytes,
// then of 16, then one by one, for its length is rarely a multiple of a vector.
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef double Double2 __attribute__((vector_size(16)));
typedef double Double4 __attribute__((vector_size(32)));

struct SquareSum {
  V<double> eight = {};
  Double4 four = {};
  Double2 two = {};
  double one = 0;
  void add(V<double> v) { eight += v * v; }
  void add(Double4 v) { four += v * v; }
  void add(Double2 v) { two += v * v; }
  void add(double v) { one += v * v; }
  void add(V<float> v) {
    Float8 halves[2];
    std::memcpy(halves, &v, sizeof v);
    add(__builtin_convertvector(halves[0], V<double>)), add(__builtin_convertvector(halves[1], V<double>));
  }
  void add(Float4 v) { add(__builtin_convertvector(v, Double4)); }
  void add(float v) { add(static_cast<double>(v)); }
  double total() const {
    return sum_of<double>(eight) + ((four[0] + four[1]) + (four[2] + four[3])) + (two[0] + two[1]) + one;
  }
};
template <typename T> struct Quarter {
  typedef T V __attribute__((vector_size(16)));
};
template <typename T> struct Length {  // of a row, in the row's own precision
  V<T> whole = {};
  typename Quarter<T>::V quarter = {};
  T one = T(0);
  void add(V<T> v) { whole += v * v; }
  void add(typename Quarter<T>::V v) { quarter += v * v; }
  void add(T v) { one += v * v; }
  T total() const {
    T rest = one;
    for (size_t i = 0; i < 16 / sizeof(T); ++i) rest += quarter[i];
    return std::sqrt(sum_of<T>(whole) + rest);
  }
};

// SGD on N numbers of a row of V: gradient = product - r^2 radial v; velocity = momentum velocity + gradient;
// v -= rate velocity. Adds the new v to `length` and |gradient|^2 to `squares`.
template <typename T>
void update_part(const Numbers &n, int64_t N, const T *product, T *v, T *velocity, T along_v, Length<T> &length,
                 SquareSum &squares) {
  const T rate = T(n.learning_rate), mu = T(n.momentum);
  int64_t j = 0;
  auto advance = [&](auto old) {  // by as many numbers as the type of `old` holds
    decltype(old) gradient, speed;
    std::memcpy(&old, v + j, sizeof old);
    std::memcpy(&gradient, product + j, sizeof old);
    std::memcpy(&speed, velocity + j, sizeof old);
    gradient -= along_v * old;
    speed = mu * speed + gradient;
    old -= rate * speed;
    std::memcpy(velocity + j, &speed, sizeof old);
    std::memcpy(v + j, &old, sizeof old);
    length.add(old);
    squares.add(gradient);
    j += static_cast<int64_t>(sizeof old / sizeof(T));
  };
  while (j + Simd<T>::width <= N) advance(V<T>{});
  while (j + Simd<T>::width / 4 <= N) advance(typename Quarter<T>::V{});
  while (j < N) advance(T{});
}

// --- products ---

// A block of ROWS x COLUMNS vectors of a product is held in registers: 24 of the 32 that AVX-512 has, 12 of AVX2's 16.
constexpr int ROWS = 6;
#ifdef __AVX512F__
constexpr int COLUMNS = 4;
#else
constexpr int COLUMNS = 1;
#endif
constexpr int64_t BLOCKS = 4 / COLUMNS;                                   // side by side in a panel:
template <typename T> constexpr int64_t PANEL = 4 * Simd<T>::width;  // columns of a product that are taken together

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t parts(int64_t length, int64_t most) { return (length + most - 1) / most; }  // at most so long
inline int64_t even(int64_t length, int64_t most, int64_t unit) {  // the parts' length, a multiple of `unit`
  return parts(parts(length, parts(length, most)), unit) * unit;
}

// Memory that will be wanted soon is fetched while products are computed, a line every so many steps of theirs: few
// lines can be on their way at a time, and in a burst they would keep the products from their own.
class Ahead {
  static constexpr int64_t NEVER = INT64_MAX;
  struct Piece {
    const char *at, *end;
  } pieces[3] = {};
  int count = 0, current = 0;
  int64_t lines = 0;

 public:
  int64_t every = 0, due = NEVER;  // steps from one line to the next, and until the next

  template <typename T> void add(const T *from, int64_t numbers) {
    const int64_t bytes = numbers * static_cast<int64_t>(sizeof(T));
    const char *at = reinterpret_cast<const char *>(from);
    pieces[count++] = {at, at + bytes};
    lines += bytes / 64;
  }
  void during(int64_t steps) {
    if (lines) every = steps > lines ? steps / lines : 1, due = 0;
  }
  const char *line() {
    if (pieces[current].at >= pieces[current].end) {
      if (current + 1 < count)
        ++current;
      else
        due = NEVER;
    }
    return pieces[current].at;
  }
  void done(const char *line, int64_t due_then) { pieces[current].at = line, due = due_then; }
};

template <int N> struct Count {
  static constexpr int value = N;
};

// out[i][j] = sum_k left(i, k) right[k * stride + j], added to what is there if `add`: R rows, C vectors.
// left(i, k) is left[i * row + k], or with DOWN left[k * row + i].
template <typename T, int R, int C, bool DOWN>
void block(int64_t length, const T *left, int64_t row, const T *right, int64_t stride, T *out, int64_t out_stride,
           bool add, Ahead &ahead) {
  V<T> sums[R][C];
  if (add) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int w = 0; w < C; ++w)
        std::memcpy(&sums[i][w], out + i * out_stride + w * Simd<T>::width, sizeof sums[i][w]);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int w = 0; w < C; ++w) sums[i][w] = V<T>{};
  }
  const char *line = ahead.line();
  int64_t due = ahead.due;
  const int64_t every = ahead.every;
  for (int64_t k = 0; k < length; ++k) {
    if (k == due) {
      __builtin_prefetch(line);
      line += 64, due += every;
    }
    V<T> b[C];
#pragma GCC unroll 8
    for (int w = 0; w < C; ++w) std::memcpy(&b[w], right + w * Simd<T>::width, sizeof b[w]);
    right += stride;
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const T a = DOWN ? left[i] : left[i * row];
#pragma GCC unroll 8
      for (int w = 0; w < C; ++w) sums[i][w] += a * b[w];
    }
    left += DOWN ? row : 1;
  }
  ahead.done(line, due - length);
  asm("" : "+r"(out), "+r"(out_stride));  // addresses are worked out here, not kept from above: there is no room
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int w = 0; w < C; ++w)
      std::memcpy(out + i * out_stride + w * Simd<T>::width, &sums[i][w], sizeof sums[i][w]);
}

// The same for any number of rows and of whole vectors.
template <typename T, bool DOWN>
void product(int64_t rows, int64_t columns, int64_t length, const T *left, int64_t row, const T *right, int64_t stride,
             T *out, int64_t out_stride, bool add, Ahead &ahead) {
  auto across = [&](auto r, int64_t i) {
    constexpr int R = decltype(r)::value;
    auto with = [&](auto c, int64_t j) {
      block<T, R, decltype(c)::value, DOWN>(length, left + (DOWN ? i : i * row), row, right + j, stride,
                                            out + i * out_stride + j, out_stride, add, ahead);
    };
    int64_t j = 0;
    for (; j + COLUMNS * Simd<T>::width <= columns; j += COLUMNS * Simd<T>::width) with(Count<COLUMNS>{}, j);
    const int64_t left_over = (columns - j) / Simd<T>::width;
    if (left_over == 3) with(Count<3>{}, j);
    if (left_over == 2) with(Count<2>{}, j);
    if (left_over == 1) with(Count<1>{}, j);
  };
  int64_t i = 0;
  for (; i + ROWS <= rows; i += ROWS) across(Count<ROWS>{}, i);
  for (; i + 4 <= rows; i += 4) across(Count<4>{}, i);
  for (; i + 2 <= rows; i += 2) across(Count<2>{}, i);
  for (; i < rows; ++i) across(Count<1>{}, i);
}

// A square of vectors, rows to columns.
template <typename T> inline void transpose_square(V<T> (&v)[Simd<T>::width]) {
  constexpr int64_t side = Simd<T>::width;
  T from[side][side], to[side][side];
  std::memcpy(from, v, sizeof v);
  for (int64_t i = 0; i < side; ++i)
    for (int64_t j = 0; j < side; ++j) to[j][i] = from[i][j];
  std::memcpy(v, to, sizeof v);
}
#ifdef __AVX512F__
template <> inline void transpose_square<float>(V<float> (&v)[16]) {
  __m512 a[16], b[16];
  std::memcpy(a, v, sizeof v);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2)
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  auto pairs = [](__m512 low, __m512 high, bool upper) {
    const __m512d l = _mm512_castps_pd(low), h = _mm512_castps_pd(high);
    return _mm512_castpd_ps(upper ? _mm512_unpackhi_pd(l, h) : _mm512_unpacklo_pd(l, h));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)  // a[4 g + c]: rows 4 g to 4 g + 3 of columns c, 4 + c, 8 + c, 12 + c
    for (int c = 0; c < 4; ++c) a[i + c] = pairs(b[i + c / 2], b[i + 2 + c / 2], c % 2);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88);
    const __m512 even_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
    const __m512 odd_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    b[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    b[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    b[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    b[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
  std::memcpy(v, b, sizeof v);
}
#endif

// A vector's width of rows of x, from row `first` on, into the panels of x^T: [panels][B][PANEL].
template <typename T> void transpose(int64_t first, int64_t rows, int64_t B, const T *x, T *panels) {
  constexpr int64_t side = Simd<T>::width;
  T *out = panels + first / PANEL<T> * PANEL<T> * B + first % PANEL<T>;
  for (int64_t j = 0; j < B; j += side) {
    V<T> square[side];
    for (int64_t u = 0; u < side; ++u) {
      square[u] = V<T>{};
      if (u < rows) std::memcpy(&square[u], x + u * B + j, sizeof square[u]);
    }
    transpose_square<T>(square);
    for (int64_t w = 0; w < side; ++w) std::memcpy(out + (j + w) * PANEL<T>, &square[w], sizeof square[w]);
  }
}

// --- a network's layers, products included; B a whole number of vectors ---

// Rows of V that are taken at a time, while the next are fetched: few enough for the second-level cache, many enough for
// what is read again for each such part not to count.
constexpr int64_t MOST_ROWS = 96;

// Rows of x that a product goes through at a time. 128 are 32 KiB; a first-level cache that holds them besides the rest
// spares the second-level one most of its reads. A smaller one isn't worth the sums' way to memory and back.
inline int64_t most_length(int64_t N) {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  static const long cache = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (cache >= 48 * 1024) return 128;
#endif
  return N;
}

// From x, the lowest layer's input, to h[1], ..., h[depth]; h_stride numbers apart. x and spare serve in turn.
template <typename T>
void forward_layers(const Shape &s, const FunctionRow *functions, const Layers<T> &layers, const Numbers &n,
                    int64_t depth, T *h, int64_t h_stride, T *x, T *spare, bool training) {
  const int64_t B = s.batch, N = s.width, panels = parts(B, PANEL<T>);
  const int64_t rows = even(N, MOST_ROWS, ROWS), length = even(N, most_length(N), 1);
  for (int64_t k = 0; k < s.networks; ++k) {
    with_function<T>(functions[k], [&](auto f) {
      T *in = x + k * N * B, *out = spare + k * N * B;
      for (int64_t layer = 0; layer < depth; ++layer) {
        const T *V = layers.V + (layer * s.networks + k) * N * N;
        const Unit<T> unit = layers.unit(s, layer, k);
        T *hk = training ? h + (layer + 1) * h_stride + k * N * B : out;
        for (int64_t first = 0; first < N; first += rows) {
          const int64_t last = least(first + rows, N);
          Ahead ahead;
          if (last < N || layer + 1 < depth) {
            const int64_t next = last < N ? last : 0, up = last < N ? 0 : 1, count = least(rows, N - next);
            ahead.add(V + up * s.networks * N * N + next * N, count * N);
            if (training) ahead.add(hk + up * h_stride + next * B, count * B);
          }
          ahead.during(parts(last - first, ROWS) * panels * BLOCKS * N);
          for (int64_t j = 0; j < B; j += PANEL<T>)
            for (int64_t at = 0; at < N; at += length)
              for (int64_t i = first; i < last; i += ROWS) {
                const int64_t end = least(i + ROWS, last);
                product<T, false>(end - i, least(PANEL<T>, B - j), least(length, N - at), V + i * N + at, N,
                                  in + at * B + j, B, hk + i * B + j, B, at > 0, ahead);
                if (j + PANEL<T> < B || at + length < N) continue;
                if (training)
                  forward_rows<T>(f, functions[k], unit, n, B, i, end, hk, out);
                else
                  evaluate_rows<T>(f, functions[k], unit, n, B, i, end, hk, out);
              }
        }
        T *const used = in;
        in = out, out = used;
      }
    });
  }
}

// From error = r y of the highest layer down to y of the layer below the lowest one, with SGD on all of them; error and
// spare serve in turn. V and its velocity are gone through once: some rows at a time give their part of the error below,
// get their gradient and are updated, while the next are fetched.
// slope: [K][N][B] of scratch; scratch: x^T's panels, and a vector of rows of x or ROWS x PANEL of the gradient.
template <typename T>
void backward_layers(const Shape &s, const FunctionRow *functions, const Layers<T> &layers, const Numbers &n,
                     int64_t depth, const T *h, int64_t h_stride, T *error, T *spare, T *slope, T *scratch,
                     double *norms) {
  constexpr int64_t side = Simd<T>::width;
  const int64_t B = s.batch, N = s.width, panels = parts(N, PANEL<T>), rows = even(N, MOST_ROWS, ROWS);
  T *const transposed = scratch, *const x = transposed + panels * PANEL<T> * B, *const gradient = x;
  for (int64_t k = 0; k < s.networks; ++k) {
    with_function<T>(functions[k], [&](auto f) {
      T *y = error + k * N * B, *below = spare + k * N * B;
      for (int64_t layer = depth - 1; layer >= 0; --layer) {
        const int64_t at = (layer * s.networks + k) * N * N, down = s.networks * N * N;
        T *V = layers.V + at, *velocity = layers.velocity + at;
        const Unit<T> unit = layers.unit(s, layer, k);
        const Unit<T> under = layer ? layers.unit(s, layer - 1, k) : Unit<T>{};
        const T *hk = h + layer * h_stride + k * N * B;
        for (int64_t j = 0; j < N; j += side) {
          const int64_t count = least(side, N - j);
          activate_rows<T>(f, functions[k], under, B, j, j + count, hk, x, slope);
          transpose<T>(j, count, B, x, transposed);
        }
        SquareSum squares;
        for (int64_t first = 0; first < N; first += rows) {
          const int64_t last = least(first + rows, N);
          Ahead ahead;
          if (last < N) {
            const int64_t numbers = least(rows, N - last) * N;
            ahead.add(V + last * N, numbers), ahead.add(velocity + last * N, numbers);
          } else if (layer) {
            ahead.add(hk - h_stride, N * B), ahead.add(V - down, rows * N), ahead.add(velocity - down, rows * N);
          }
          ahead.during(parts(N, ROWS) * parts(B, PANEL<T>) * BLOCKS * (last - first) +
                       parts(last - first, ROWS) * panels * BLOCKS * B);
          for (int64_t j = 0; j < N; j += ROWS) {
            const int64_t end = least(j + ROWS, N);
            product<T, true>(end - j, B, last - first, V + first * N + j, N, y + first * B, B, below + j * B, B,
                             first > 0, ahead);
            if (last == N) backward_rows<T>(under, n, B, j, end, below, hk, slope);
          }
          Length<T> lengths[MOST_ROWS + ROWS];
          for (int64_t j = 0; j < N; j += PANEL<T>) {
            const int64_t columns = least(PANEL<T>, N - j), padded = parts(columns, side) * side;
            for (int64_t i = first; i < last; i += ROWS) {
              const int64_t count = least(ROWS, last - i);
              product<T, false>(count, padded, B, y + i * B, B, transposed + j * B, PANEL<T>, gradient, PANEL<T>, false,
                                ahead);
              for (int64_t u = 0; u < count; ++u) {
                const int64_t row = i + u;
                update_part<T>(n, columns, gradient + u * PANEL<T>, V + row * N + j, velocity + row * N + j,
                               unit.r[row] * unit.r[row] * unit.radial[row], lengths[row - first], squares);
              }
            }
          }
          for (int64_t i = first; i < last; ++i) unit.r[i] = T(1) / lengths[i - first].total();
        }
        norms[layer * s.networks + k] = std::sqrt(squares.total());
        T *const used = y;
        y = below, below = used;
      }
    });
  }
}

}  // namespace

// The passes over one layer of all networks (`layer` < 0: the one below the constrained ones), then all layers at once.
#define EXPORT(T, suffix)                                                                                             \
  extern "C" void forward_##suffix(const Shape *s, const FunctionRow *f, const Layers<T> *layers, const Numbers *n,   \
                                   int64_t layer, T *h, T *x) {                                                       \
    for (int64_t k = 0; k < s->networks; ++k)                                                                         \
      with_function<T>(f[k], [&](auto phi) {                                                                          \
        forward_rows<T>(phi, f[k], layer < 0 ? Unit<T>{} : layers->unit(*s, layer, k), *n, s->batch, 0, s->width,     \
                        h + k * s->width * s->batch, x + k * s->width * s->batch);                                    \
      });                                                                                                             \
  }                                                                                                                   \
  extern "C" void evaluate_##suffix(const Shape *s, const FunctionRow *f, const Layers<T> *layers, const Numbers *n,  \
                                    int64_t layer, const T *h, T *x) {                                                \
    for (int64_t k = 0; k < s->networks; ++k)                                                                         \
      with_function<T>(f[k], [&](auto phi) {                                                                          \
        evaluate_rows<T>(phi, f[k], layer < 0 ? Unit<T>{} : layers->unit(*s, layer, k), *n, s->batch, 0, s->width,    \
                         h + k * s->width * s->batch, x + k * s->width * s->batch);                                   \
      });                                                                                                             \
  }                                                                                                                   \
  extern "C" void backward_##suffix(const Shape *s, const FunctionRow *f, const Layers<T> *layers, const Numbers *n,  \
                                    int64_t layer, T *error, const T *h, T *x) {                                      \
    for (int64_t k = 0; k < s->networks; ++k)                                                                         \
      with_function<T>(f[k], [&](auto phi) {                                                                          \
        const int64_t at = k * s->width * s->batch;                                                                   \
        const Unit<T> unit = layer < 0 ? Unit<T>{} : layers->unit(*s, layer, k);                                      \
        std::vector<T> slope(static_cast<size_t>(s->width * s->batch));                                               \
        activate_rows<T>(phi, f[k], unit, s->batch, 0, s->width, h + at, x + at, slope.data());                       \
        backward_rows<T>(unit, *n, s->batch, 0, s->width, error + at, h + at, slope.data());                          \
      });                                                                                                             \
  }                                                                                                                   \
  extern "C" void update_##suffix(const Shape *s, const Layers<T> *layers, const Numbers *n, int64_t layer,           \
                                  const T *product, double *norms) {                                                  \
    const int64_t N = s->width;                                                                                       \
    for (int64_t k = 0; k < s->networks; ++k) {                                                                       \
      const Unit<T> unit = layers->unit(*s, layer, k);                                                                \
      SquareSum squares;                                                                                              \
      for (int64_t i = 0; i < N; ++i) {                                                                               \
        const int64_t at = ((layer * s->networks + k) * N + i) * N;                                                   \
        Length<T> length;                                                                                             \
        update_part<T>(*n, N, product + (k * N + i) * N, layers->V + at, layers->velocity + at,                       \
                       unit.r[i] * unit.r[i] * unit.radial[i], length, squares);                                      \
        unit.r[i] = T(1) / length.total();                                                                            \
      }                                                                                                               \
      norms[k] = std::sqrt(squares.total());                                                                          \
    }                                                                                                                 \
  }                                                                                                                   \
  extern "C" void forward_layers_##suffix(const Shape *s, const FunctionRow *f, const Layers<T> *layers,              \
                                          const Numbers *n, int64_t depth, T *h, int64_t h_stride, T *x, T *spare,    \
                                          int64_t training) {                                                         \
    forward_layers<T>(*s, f, *layers, *n, depth, h, h_stride, x, spare, training != 0);                               \
  }                                                                                                                   \
  extern "C" void backward_layers_##suffix(const Shape *s, const FunctionRow *f, const Layers<T> *layers,             \
                                           const Numbers *n, int64_t depth, const T *h, int64_t h_stride, T *error,   \
                                           T *spare, T *x, T *scratch, double *norms) {                               \
    backward_layers<T>(*s, f, *layers, *n, depth, h, h_stride, error, spare, x, scratch, norms);                      \
  }

EXPORT(float, f32)
EXPORT(double, f64)
