# mypy: ignore-errors
"""The passes as Triton kernels, and the products fused with them; bsnn.engine.triton_passes launches them.

bsnn.engine.passes is the same in plain torch, with the formulas; tests compare the two. A program handles one member k
and a block of units, for all samples of the batch: its sums over the batch are whole, it shares nothing with other
members, and no result depends on the order in which programs run. A member's function and whether it has batch norm
are looked up by the program, so one compiled kernel serves all stacks of one shape, and a member's numbers can't depend
on the kind of its neighbours.

Shapes in names: K networks, L layers, N width, B batch. [K, N, B] and [K, N, N] are contiguous. BLOCK_B >= B is a power
of two. N and B are compile-time constants: where N is a multiple of 4, though not of 16, 16-byte accesses still come
out. Offsets of members are 64-bit: the weights of a stack have more than 2^31 elements.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

# bsnn.engine.functions.Family; what is left is the swish
TANH: tl.constexpr = tl.constexpr(0)
LEAKY_RELU: tl.constexpr = tl.constexpr(1)
ELU: tl.constexpr = tl.constexpr(2)


# --- functions ---


@triton.jit
def _split_exp(x):
    """e^x = 2^n e^s with |s| <= ln 2 / 2: (2^n, e^s - 1), as in kernels.cpp. nan stays nan.

    Triton's own exp has no expm1 beside it, and e^x - 1 and a tanh made from it would lose the digits of small x.
    """
    x = tl.where(x < -87.0, -87.0, x)
    x = tl.where(x > 88.0, 88.0, x)
    shifted = x * 1.4426950408889634 + 12582912.0  # 1.5 * 2^23: adding it rounds to whole numbers
    n = shifted - 12582912.0
    s = (x - n * 0.693359375) - n * -2.12194440e-4
    m = s * (1 / 720 + s * (1 / 5040))  # Taylor's series, the last terms below rounding
    m = s * (1 / 24 + s * (1 / 120 + m))
    m = s * (1.0 + s * (1 / 2 + s * (1 / 6 + m)))
    # the low bits of `shifted` hold n, its other bits leave by the shift
    power = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
    return power, m


@triton.jit
def _exp(x):
    power, m = _split_exp(x)
    return power * m + power


@triton.jit
def _expm1(x):
    power, m = _split_exp(x)
    return power * m + (power - 1.0)


@triton.jit
def _value_and_slope(u, k, families, numbers):
    """phi(u) = a f(u) + b and phi'(u) = a f'(u) of member k; bsnn.engine.functions lists f. At a kink phi' is that of
    the left side."""
    family = tl.load(families + k)
    p = tl.load(numbers + 4 * k)
    q = tl.load(numbers + 4 * k + 1)
    a = tl.load(numbers + 4 * k + 2)
    b = tl.load(numbers + 4 * k + 3)
    if family == TANH:
        m = _expm1(tl.where(u > 10.0, 20.0, 2.0 * u))  # tanh 10 is 1 to all digits
        f = m / (m + 2.0)
        slope = 1.0 - f * f
    elif family == LEAKY_RELU:
        f = tl.where(u <= 0.0, tl.where(p == 0.0, 0.0, p * u), u)  # 0 * inf is nan
        slope = tl.where(u > 0.0, 1.0, p)
    elif family == ELU:
        m = _expm1(tl.where(u > 0.0, 0.0, u))
        f = tl.where(u > 0.0, q * u, q * p * m)
        slope = tl.where(u > 0.0, q, q * p * (m + 1.0))
    else:
        s = 1.0 / (1.0 + _exp(-p * u))
        f = u * s
        slope = s + p * f * (1.0 - s)
    return a * f + b, a * slope


# --- what the kernels share ---


@triton.jit
def _place(k, units, B: tl.constexpr, N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Offsets of all samples of `units` in member k's part of a [K, N, B], and which of them exist."""
    samples = tl.arange(0, BLOCK_B)
    at = k * (N * B) + units[:, None] * B + samples[None, :]
    return at, (units[:, None] < N) & (samples[None, :] < B)


@triton.jit
def _finish_forward(h, at, here, k, units, h_ptr, x_ptr, families, numbers, r, gamma, beta, mean, rstd, running_mean,
                    running_var, first_bn, eps, running, B: tl.constexpr, N: tl.constexpr,
                    BOTTOM: tl.constexpr):  # fmt: skip
    """From the product h = V x, 0 where not `here`, to h = r V x and phi(u), both written."""
    exists = units < N
    if not BOTTOM:
        h = h * tl.load(r + k * N + units, mask=exists, other=0.0)[:, None]
        tl.store(h_ptr + at, h, mask=here)
    u = h
    if not BOTTOM:  # noqa: SIM102 - known when compiling, the other is not
        if k >= first_bn:
            j = (k - first_bn) * N + units
            centre = tl.sum(h, axis=1) / B
            u = tl.where(here, h - centre[:, None], 0.0)
            squares = tl.sum(u * u, axis=1)
            inverse = tl.div_rn(1.0, tl.sqrt_rn(squares / B + eps))
            tl.store(mean + j, centre, mask=exists)
            tl.store(rstd + j, inverse, mask=exists)
            unbiased = squares / (B - 1 if B > 1 else 1)
            old = tl.load(running_mean + j, mask=exists, other=0.0)
            tl.store(running_mean + j, (1.0 - running) * old + running * centre, mask=exists)
            old = tl.load(running_var + j, mask=exists, other=0.0)
            tl.store(running_var + j, (1.0 - running) * old + running * unbiased, mask=exists)
            scale = inverse * tl.load(gamma + j, mask=exists, other=0.0)
            u = u * scale[:, None] + tl.load(beta + j, mask=exists, other=0.0)[:, None]
    value, _ = _value_and_slope(u, k, families, numbers)
    tl.store(x_ptr + at, value, mask=here)


@triton.jit
def _pre_activation(h, k, units, gamma, beta, mean, rstd, first_bn, N: tl.constexpr, BOTTOM: tl.constexpr):
    """u once more, from h and the forward pass's statistics."""
    u = h
    if not BOTTOM:  # noqa: SIM102 - known when compiling, the other is not
        if k >= first_bn:
            exists = units < N
            j = (k - first_bn) * N + units
            scale = tl.load(rstd + j, mask=exists, other=0.0) * tl.load(gamma + j, mask=exists, other=0.0)
            centre = tl.load(mean + j, mask=exists, other=0.0)
            u = (h - centre[:, None]) * scale[:, None] + tl.load(beta + j, mask=exists, other=0.0)[:, None]
    return u


@triton.jit
def _finish_backward(error, at, here, k, units, h_ptr, error_ptr, x_ptr, families, numbers, r, gamma, beta,
                     gamma_velocity, beta_velocity, mean, rstd, radial, first_bn, learning_rate, momentum,
                     B: tl.constexpr, N: tl.constexpr, BOTTOM: tl.constexpr):  # fmt: skip
    """From error = dE/dx, 0 where not `here`, to r y, written; radial; SGD on gamma and beta; x, written."""
    exists = units < N
    h = tl.load(h_ptr + at, mask=here, other=0.0)
    u = _pre_activation(h, k, units, gamma, beta, mean, rstd, first_bn, N, BOTTOM)
    value, slope = _value_and_slope(u, k, families, numbers)
    tl.store(x_ptr + at, value, mask=here)
    y = tl.where(here, error * slope, 0.0)
    if not BOTTOM:  # noqa: SIM102 - known when compiling, the other is not
        if k >= first_bn:
            j = (k - first_bn) * N + units
            inverse = tl.load(rstd + j, mask=exists, other=0.0)
            centre = tl.load(mean + j, mask=exists, other=0.0)
            weight = tl.load(gamma + j, mask=exists, other=0.0)
            shift = tl.load(beta + j, mask=exists, other=0.0)
            normalised = (h - centre[:, None]) * inverse[:, None]
            dbeta = tl.sum(y, axis=1)
            dgamma = tl.sum(y * normalised, axis=1)
            y = y - (dbeta / B)[:, None] - normalised * (dgamma / B)[:, None]
            y = tl.where(here, y * (inverse * weight)[:, None], 0.0)
            speed = momentum * tl.load(gamma_velocity + j, mask=exists, other=0.0) + dgamma
            tl.store(gamma_velocity + j, speed, mask=exists)
            tl.store(gamma + j, weight - learning_rate * speed, mask=exists)
            speed = momentum * tl.load(beta_velocity + j, mask=exists, other=0.0) + dbeta
            tl.store(beta_velocity + j, speed, mask=exists)
            tl.store(beta + j, shift - learning_rate * speed, mask=exists)
    if not BOTTOM:
        tl.store(radial + k * N + units, tl.sum(y * h, axis=1), mask=exists)
        y = y * tl.load(r + k * N + units, mask=exists, other=0.0)[:, None]
    tl.store(error_ptr + at, y, mask=here)


# --- the passes ---


@triton.jit(do_not_specialize=["first_bn"])
def forward_kernel(h_ptr, x_ptr, families, numbers, r, gamma, beta, mean, rstd, running_mean, running_var, first_bn,
                   eps, running, B: tl.constexpr, N: tl.constexpr, BLOCK_B: tl.constexpr, OWN: tl.constexpr,
                   BOTTOM: tl.constexpr):  # fmt: skip
    k = tl.program_id(1).to(tl.int64)
    units = tl.program_id(0) * OWN + tl.arange(0, OWN)
    at, here = _place(k, units, B, N, BLOCK_B)
    h = tl.load(h_ptr + at, mask=here, other=0.0)
    _finish_forward(h, at, here, k, units, h_ptr, x_ptr, families, numbers, r, gamma, beta, mean, rstd, running_mean,
                    running_var, first_bn, eps, running, B, N, BOTTOM)  # fmt: skip


@triton.jit(do_not_specialize=["first_bn", "batch"])
def evaluate_kernel(h_ptr, x_ptr, families, numbers, r, gamma, beta, running_mean, running_var, first_bn, eps, batch,
                    N: tl.constexpr, BLOCK_B: tl.constexpr, OWN: tl.constexpr, BOTTOM: tl.constexpr):  # fmt: skip
    """A program handles BLOCK_B samples of any number."""
    k = tl.program_id(2).to(tl.int64)
    units = tl.program_id(1) * OWN + tl.arange(0, OWN)
    samples = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    exists = units < N
    here = exists[:, None] & (samples[None, :] < batch)
    at = (k * N + units[:, None]) * batch + samples[None, :]
    u = tl.load(h_ptr + at, mask=here, other=0.0)
    if not BOTTOM:
        u = u * tl.load(r + k * N + units, mask=exists, other=0.0)[:, None]
        if k >= first_bn:
            j = (k - first_bn) * N + units
            variance = tl.load(running_var + j, mask=exists, other=0.0)
            scale = tl.div_rn(1.0, tl.sqrt_rn(variance + eps)) * tl.load(gamma + j, mask=exists, other=0.0)
            centre = tl.load(running_mean + j, mask=exists, other=0.0)
            u = (u - centre[:, None]) * scale[:, None] + tl.load(beta + j, mask=exists, other=0.0)[:, None]
    value, _ = _value_and_slope(u, k, families, numbers)
    tl.store(x_ptr + at, value, mask=here)


@triton.jit(do_not_specialize=["first_bn"])
def backward_kernel(error_ptr, h_ptr, x_ptr, families, numbers, r, gamma, beta, gamma_velocity, beta_velocity, mean,
                    rstd, radial, first_bn, learning_rate, momentum, B: tl.constexpr, N: tl.constexpr,
                    BLOCK_B: tl.constexpr, OWN: tl.constexpr, BOTTOM: tl.constexpr):  # fmt: skip
    k = tl.program_id(1).to(tl.int64)
    units = tl.program_id(0) * OWN + tl.arange(0, OWN)
    at, here = _place(k, units, B, N, BLOCK_B)
    error = tl.load(error_ptr + at, mask=here, other=0.0)
    _finish_backward(error, at, here, k, units, h_ptr, error_ptr, x_ptr, families, numbers, r, gamma, beta,
                     gamma_velocity, beta_velocity, mean, rstd, radial, first_bn, learning_rate, momentum, B, N,
                     BOTTOM)  # fmt: skip


# --- products with their passes ---


@triton.jit(do_not_specialize=["first_bn"])
def layer_forward_kernel(x_in, h_ptr, x_ptr, V, families, numbers, r, gamma, beta, mean, rstd, running_mean,
                         running_var, first_bn, eps, running, B: tl.constexpr, N: tl.constexpr, BLOCK_B: tl.constexpr,
                         OWN: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
                         PRECISION: tl.constexpr):  # fmt: skip
    """V x for a block of rows of V and the whole batch, then the forward pass on it. x_ptr is not x_in."""
    k = tl.program_id(1).to(tl.int64)
    units = tl.program_id(0) * OWN + tl.arange(0, OWN)
    product = tl.zeros((OWN, BLOCK_B), tl.float32)
    for start in tl.range(0, N, STEP, num_stages=STAGES):
        columns = start + tl.arange(0, STEP)
        at_x, x_here = _place(k, columns, B, N, BLOCK_B)
        x = tl.load(x_in + at_x, mask=x_here, other=0.0)
        at_v = k * (N * N) + units[:, None] * N + columns[None, :]
        v = tl.load(V + at_v, mask=(units[:, None] < N) & (columns[None, :] < N), other=0.0)
        product = tl.dot(v, x, product, input_precision=PRECISION)
    at, here = _place(k, units, B, N, BLOCK_B)
    _finish_forward(product, at, here, k, units, h_ptr, x_ptr, families, numbers, r, gamma, beta, mean, rstd,
                    running_mean, running_var, first_bn, eps, running, B, N, False)  # fmt: skip


@triton.jit(do_not_specialize=["first_bn"])
def layer_error_kernel(error_ptr, h_ptr, below_ptr, x_ptr, V, families, numbers, r, gamma, beta, gamma_velocity,
                       beta_velocity, mean, rstd, radial, first_bn, learning_rate, momentum, B: tl.constexpr,
                       N: tl.constexpr, BLOCK_B: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
                       STAGES: tl.constexpr, PRECISION: tl.constexpr, BOTTOM: tl.constexpr):  # fmt: skip
    """V^T (r y) for a block of columns of V, then the backward pass on it.

    error_ptr: r y of the layer of V. h_ptr: h of the layer below, whose r y goes to below_ptr and whose output, the
    input of V's layer, to x_ptr. r to radial are that layer's too; BOTTOM says that it is not a constrained one.
    """
    k = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * OWN + tl.arange(0, OWN)
    error = tl.zeros((OWN, BLOCK_B), tl.float32)
    for start in tl.range(0, N, STEP, num_stages=STAGES):
        rows = start + tl.arange(0, STEP)
        at_y, y_here = _place(k, rows, B, N, BLOCK_B)
        y = tl.load(error_ptr + at_y, mask=y_here, other=0.0)
        at_v = k * (N * N) + rows[:, None] * N + columns[None, :]
        v = tl.load(V + at_v, mask=(rows[:, None] < N) & (columns[None, :] < N), other=0.0)
        error = tl.dot(tl.trans(v), y, error, input_precision=PRECISION)
    at, here = _place(k, columns, B, N, BLOCK_B)
    _finish_backward(error, at, here, k, columns, h_ptr, below_ptr, x_ptr, families, numbers, r, gamma, beta,
                     gamma_velocity, beta_velocity, mean, rstd, radial, first_bn, learning_rate, momentum, B, N,
                     BOTTOM)  # fmt: skip


@triton.jit
def update_kernel(product_ptr, error_ptr, x_ptr, V, velocity, r, radial, row_squares, norm_squares, learning_rate,
                  momentum, B: tl.constexpr, N: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
                  STAGES: tl.constexpr, PRECISION: tl.constexpr, MULTIPLY: tl.constexpr):  # fmt: skip
    """SGD on a tile of OWN x OWN weights, gradient = (r y) x^T - r^2 radial v.

    With MULTIPLY the product is computed here, STEP samples at a time, from error_ptr, r y, and x_ptr, the layer's
    input; otherwise it is read. A small K loop around few registers is what compiles well; V and velocity are asked for
    before it and arrive meanwhile.

    A program sees a part of each row, so it leaves sums of squares: row_squares [K, columns of tiles, N] of the new
    weights and norm_squares [K, tiles] of the gradient; norms_kernel adds them up. The gradient's are summed in
    float64: squares of float32 numbers below 1e-23 or above 1e19 are no float32 numbers.
    """
    k = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * OWN + tl.arange(0, OWN)
    columns = tl.program_id(0) * OWN + tl.arange(0, OWN)
    exists = rows < N
    at = k * (N * N) + rows[:, None] * N + columns[None, :]
    here = exists[:, None] & (columns[None, :] < N)
    v = tl.load(V + at, mask=here, other=0.0)
    speed = tl.load(velocity + at, mask=here, other=0.0)
    if MULTIPLY:
        product = tl.zeros((OWN, OWN), tl.float32)
        for start in tl.range(0, B, STEP, num_stages=STAGES):
            samples = start + tl.arange(0, STEP)
            at_y = k * (N * B) + rows[:, None] * B + samples[None, :]
            y = tl.load(error_ptr + at_y, mask=exists[:, None] & (samples[None, :] < B), other=0.0)
            at_x = k * (N * B) + columns[None, :] * B + samples[:, None]
            x = tl.load(x_ptr + at_x, mask=(columns[None, :] < N) & (samples[:, None] < B), other=0.0)
            product = tl.dot(y, x, product, input_precision=PRECISION)
    else:
        product = tl.load(product_ptr + at, mask=here, other=0.0)
    old = tl.load(r + k * N + rows, mask=exists, other=0.0)
    along = old * old * tl.load(radial + k * N + rows, mask=exists, other=0.0)
    gradient = product - along[:, None] * v
    speed = momentum * speed + gradient
    v = v - learning_rate * speed
    tl.store(velocity + at, speed, mask=here)
    tl.store(V + at, v, mask=here)
    part = k * tl.num_programs(0) + tl.program_id(0)
    tl.store(row_squares + part * N + rows, tl.sum(v * v, axis=1), mask=exists)
    wide = tl.where(here, gradient, 0.0).to(tl.float64)
    squares = tl.sum(tl.sum(wide * wide, axis=1), axis=0)
    tl.store(norm_squares + part * tl.num_programs(1) + tl.program_id(1), squares)


@triton.jit(do_not_specialize=["layer_stride", "member_stride"])
def norms_kernel(row_squares, norm_squares, r, norms, layer_stride, member_stride, PARTS: tl.constexpr,
                 TILES: tl.constexpr, N: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """r = 1 / |v| and norms[l, k] = |dE/dV|_F from sums of squares of parts: [L, K, PARTS, N] and [L, K, PARTS^2].
    TILES >= PARTS^2 is a power of two."""
    k, layer = tl.program_id(1), tl.program_id(2)
    member = layer.to(tl.int64) * tl.num_programs(1) + k
    units = tl.program_id(0) * OWN + tl.arange(0, OWN)
    exists = units < N
    squares = tl.zeros((OWN,), tl.float32)
    for part in range(PARTS):
        squares += tl.load(row_squares + (member * PARTS + part) * N + units, mask=exists, other=0.0)
    tl.store(r + member * N + units, tl.div_rn(1.0, tl.sqrt_rn(squares)), mask=exists)
    if tl.program_id(0) == 0:
        tiles = tl.arange(0, TILES)
        parts = tl.load(norm_squares + member * PARTS * PARTS + tiles, mask=tiles < PARTS * PARTS, other=0.0)
        tl.store(norms + layer * layer_stride + k * member_stride, tl.sqrt(tl.sum(parts, axis=0)))
