// What happens between the matrix products of a stack's step, fused so that a tensor passes through the cache once.
// bsnn/engine/passes.py is the same in plain torch, with the formulas; tests compare the two. C interface, no torch:
// built by the machine's C++ compiler on first use (bsnn/engine/cpu.py).
//
// K networks, N units, B samples. Row-major arrays; [K][N][B] is contiguous. A network's arithmetic is the same
// whatever its place in the stack and whatever its neighbours are.

#include <cmath>
#include <cstdint>
#include <cstring>

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

// h *= r, then batch norm where there is one, then phi: x_out = phi(u), u = h or gamma (h - mean) rstd + beta.
template <typename T>
void forward(const Shape &s, const FunctionRow *functions, T *h, const T *r, const T *gamma, const T *beta, T *mean,
             T *rstd, T *running_mean, T *running_var, double eps, double running, T *x_out) {
  const int64_t B = s.batch, N = s.width;
  const T unbiased = T(1) / T(B > 1 ? B - 1 : 1), w = T(running);
  for (int64_t k = 0; k < s.networks; ++k) {
    const T a = T(functions[k].a), b = T(functions[k].b);
    const bool bn = k >= s.first_bn;
    with_function<T>(functions[k], [&](auto f) {
      for (int64_t i = 0; i < N; ++i) {
        T *hi = h + (k * N + i) * B, *xi = x_out + (k * N + i) * B;
        const T ri = r ? r[k * N + i] : T(1);
        if (!bn) {
          along<T>(B, [&](int64_t l, auto part) {
            const V<T> u = part.load(hi + l) * ri;
            part.store(hi + l, u);
            part.store(xi + l, a * f.value(u) + b);
          });
          continue;
        }
        const int64_t at = (k - s.first_bn) * N + i;
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
        const T inverse = T(1) / std::sqrt((square > T(0) ? square : square * T(0)) / T(B) + T(eps));
        mean[at] = centre, rstd[at] = inverse;
        running_mean[at] = (T(1) - w) * running_mean[at] + w * centre;
        running_var[at] = (T(1) - w) * running_var[at] + w * (square * unbiased);
        const T scale = inverse * gamma[at], shift = beta[at];
        along<T>(B, [&](int64_t l, auto part) {
          part.store(xi + l, a * f.value((part.load(hi + l) - centre) * scale + shift) + b);
        });
      }
    });
  }
}

// The same with fixed statistics: evaluation. h may be x_out.
template <typename T>
void evaluate(const Shape &s, const FunctionRow *functions, const T *h, const T *r, const T *gamma, const T *beta,
              const T *running_mean, const T *running_var, double eps, T *x_out) {
  const int64_t B = s.batch, N = s.width;
  for (int64_t k = 0; k < s.networks; ++k) {
    const T a = T(functions[k].a), b = T(functions[k].b);
    const bool bn = k >= s.first_bn;
    with_function<T>(functions[k], [&](auto f) {
      for (int64_t i = 0; i < N; ++i) {
        const T *hi = h + (k * N + i) * B;
        T *xi = x_out + (k * N + i) * B;
        const T ri = r ? r[k * N + i] : T(1);
        T centre = T(0), scale = T(1), shift = T(0);
        if (bn) {
          const int64_t at = (k - s.first_bn) * N + i;
          centre = running_mean[at], shift = beta[at];
          scale = T(1) / std::sqrt(running_var[at] + T(eps)) * gamma[at];
        }
        along<T>(B, [&](int64_t l, auto part) {
          part.store(xi + l, a * f.value((part.load(hi + l) * ri - centre) * scale + shift) + b);
        });
      }
    });
  }
}

// error: dE/dx of this layer's output on entry, r y on return, y = dE/dh. Also radial_i = sum_b y_ib h_ib, the layer's
// output x_out = phi(u) anew, and SGD on gamma and beta.
template <typename T>
void backward(const Shape &s, const FunctionRow *functions, T *error, const T *h, const T *r, T *gamma, T *beta,
              T *gamma_velocity, T *beta_velocity, const T *mean, const T *rstd, double learning_rate, double momentum,
              T *radial, T *x_out) {
  const int64_t B = s.batch, N = s.width;
  const T rate = T(learning_rate), mu = T(momentum);
  for (int64_t k = 0; k < s.networks; ++k) {
    const T a = T(functions[k].a), b = T(functions[k].b);
    const bool bn = k >= s.first_bn;
    with_function<T>(functions[k], [&](auto f) {
      for (int64_t i = 0; i < N; ++i) {
        const T *hi = h + (k * N + i) * B;
        T *ei = error + (k * N + i) * B, *xi = x_out + (k * N + i) * B;
        const T ri = r ? r[k * N + i] : T(1);
        V<T> sum = {};
        if (!bn) {
          along<T>(B, [&](int64_t l, auto part) {
            const V<T> u = part.load(hi + l);
            V<T> value, slope;
            f.both(u, value, slope);
            part.store(xi + l, a * value + b);
            const V<T> y = part.load(ei + l) * (a * slope);
            sum += part.for_sum(y * u);
            part.store(ei + l, y * ri);
          });
          if (radial) radial[k * N + i] = sum_of<T>(sum);
          continue;
        }
        const int64_t at = (k - s.first_bn) * N + i;
        const T centre = mean[at], inverse = rstd[at], scale = inverse * gamma[at], shift = beta[at];
        V<T> gammas = {}, betas = {};
        along<T>(B, [&](int64_t l, auto part) {
          const V<T> centred = part.load(hi + l) - centre;
          V<T> value, slope;
          f.both(centred * scale + shift, value, slope);
          part.store(xi + l, a * value + b);
          const V<T> g = part.load(ei + l) * (a * slope);
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
        radial[k * N + i] = sum_of<T>(sum);
        gamma_velocity[at] = mu * gamma_velocity[at] + dgamma;
        beta_velocity[at] = mu * beta_velocity[at] + dbeta;
        gamma[at] -= rate * gamma_velocity[at];
        beta[at] -= rate * beta_velocity[at];
      }
    });
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

// gradient = product - r^2 radial v; velocity = momentum velocity + gradient; v -= rate velocity; r = 1 / |v|.
// norms[k]: |gradient|_F.
template <typename T>
void update(int64_t networks, int64_t width, const T *product, T *weights, T *velocity, T *r, const T *radial,
            double learning_rate, double momentum, double *norms) {
  const int64_t N = width;
  const T rate = T(learning_rate), mu = T(momentum);
  for (int64_t k = 0; k < networks; ++k) {
    SquareSum gradient_squares;
    for (int64_t i = 0; i < N; ++i) {
      const int64_t row = k * N + i;
      const T *p = product + row * N;
      T *v = weights + row * N, *m = velocity + row * N;
      const T along_v = r[row] * r[row] * radial[row];
      Length<T> length;
      int64_t j = 0;
      auto advance = [&](auto old) {  // by as many numbers as the type of `old` holds
        decltype(old) gradient, speed;
        std::memcpy(&old, v + j, sizeof old);
        std::memcpy(&gradient, p + j, sizeof old);
        std::memcpy(&speed, m + j, sizeof old);
        gradient -= along_v * old;
        speed = mu * speed + gradient;
        old -= rate * speed;
        std::memcpy(m + j, &speed, sizeof old);
        std::memcpy(v + j, &old, sizeof old);
        length.add(old);
        gradient_squares.add(gradient);
        j += static_cast<int64_t>(sizeof old / sizeof(T));
      };
      while (j + Simd<T>::width <= N) advance(V<T>{});
      while (j + Simd<T>::width / 4 <= N) advance(typename Quarter<T>::V{});
      while (j < N) advance(T{});
      r[row] = T(1) / length.total();
    }
    norms[k] = std::sqrt(gradient_squares.total());
  }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                             \
  extern "C" void forward_##suffix(const Shape *s, const FunctionRow *f, T *h, const T *r, const T *gamma,            \
                                   const T *beta, T *mean, T *rstd, T *running_mean, T *running_var, double eps,      \
                                   double running, T *x_out) {                                                        \
    forward<T>(*s, f, h, r, gamma, beta, mean, rstd, running_mean, running_var, eps, running, x_out);                 \
  }                                                                                                                   \
  extern "C" void evaluate_##suffix(const Shape *s, const FunctionRow *f, const T *h, const T *r, const T *gamma,     \
                                    const T *beta, const T *running_mean, const T *running_var, double eps,           \
                                    T *x_out) {                                                                       \
    evaluate<T>(*s, f, h, r, gamma, beta, running_mean, running_var, eps, x_out);                                     \
  }                                                                                                                   \
  extern "C" void backward_##suffix(const Shape *s, const FunctionRow *f, T *error, const T *h, const T *r, T *gamma, \
                                    T *beta, T *gamma_velocity, T *beta_velocity, const T *mean, const T *rstd,       \
                                    double learning_rate, double momentum, T *radial, T *x_out) {                     \
    backward<T>(*s, f, error, h, r, gamma, beta, gamma_velocity, beta_velocity, mean, rstd, learning_rate, momentum,  \
                radial, x_out);                                                                                       \
  }                                                                                                                   \
  extern "C" void update_##suffix(const Shape *s, const T *product, T *V, T *velocity, T *r, const T *radial,         \
                                  double learning_rate, double momentum, double *norms) {                             \
    update<T>(s->networks, s->width, product, V, velocity, r, radial, learning_rate, momentum, norms);                \
  }

EXPORT(float, f32)
EXPORT(double, f64)
