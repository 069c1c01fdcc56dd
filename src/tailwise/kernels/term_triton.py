"""The term of every loss as Triton kernels: each logit is read once, and each derivative written once.

The formula is that of :mod:`tailwise.losses.term`, which explains it. A program takes a tile of samples and classes:
what belongs to its classes stays in registers while it goes down the samples. What a loss does not have (a focal
factor, a margin, soft labels, weights, a mask) is decided when the kernel is compiled, by the types of the arguments
and by flags, and is not there then.

Labels of unsigned types are all known; those of signed types are unknown below 0, and floating-point ones, which may be
soft, where they are no number as well. A factor of a side is a number or a pointer to (C,) values, a negative side's
also None: as on the positive side.
"""

from __future__ import annotations

import triton
import triton.language as tl

# log(1 + t) = t q(t) for 0 ≤ t ≤ 1: q interpolates at Chebyshev's points, and is exact to 4e-8.
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7, _Q8 = (
    tl.constexpr(c)
    for c in (
        *(0.999999966, -0.49999445, 0.333181217, -0.24835399, 0.190768807),
        *(-0.136022476, 0.0775160868, -0.0290740647, 0.00512610214),
    )
)


@triton.jit
def _log1p(t):
    """log(1 + t) for 0 ≤ t ≤ 1, to full relative precision."""
    q = _Q8 * t + _Q7
    q = q * t + _Q6
    q = q * t + _Q5
    q = q * t + _Q4
    q = q * t + _Q3
    q = q * t + _Q2
    q = q * t + _Q1
    q = q * t + _Q0
    return q * t


@triton.jit
def _sigmoid(a):
    """σ(a); where the exponential overflows, the quotient is 0 as it should be."""
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def _softplus_and_log_sigmoid(a):
    """log(1 + eᵃ) and log σ(a); both are no number where a is none."""
    tail = _log1p(tl.exp(-tl.abs(a)))
    return tl.maximum(a, 0.0) + tail, tl.minimum(a, 0.0) - tail


@triton.jit
def _one_side(z, sign, shift, slope, inverse_divisor, exponent, FOCAL: tl.constexpr, PLAIN: tl.constexpr):
    """Value and derivative by z of sp(a) σ(b)^γ / λ₂, where a = s λ₁ (z − v), and b = a or, if PLAIN, s z."""
    steepness = sign * slope
    a = steepness * (z - shift)
    value, log_sigmoid = _softplus_and_log_sigmoid(a)
    derivative = steepness * tl.exp(log_sigmoid)
    if FOCAL:
        if PLAIN:
            focal_steepness = sign
            complement_log, focal_log = _softplus_and_log_sigmoid(sign * z)
        else:
            focal_steepness, complement_log, focal_log = steepness, value, log_sigmoid
        focal = tl.exp(exponent * focal_log)
        derivative = focal * (derivative + focal_steepness * exponent * tl.exp(-complement_log) * value)
        value = focal * value
    return value * inverse_divisor, derivative * inverse_divisor


@triton.jit
def _margin_side(z, shift, slope, inverse_divisor, exponent, margin):
    """Value and derivative by z of ASL's negative side: −p_m^γ log(1 − p_m) / λ₂ with p_m = max(σ(λ₁ (z − v)) − m, 0)."""
    a = slope * (z - shift)
    p = _sigmoid(a)
    is_below = p <= margin  # False for what is no number
    shifted = tl.where(is_below, 0.5, p - margin)
    rest = 1.0 - shifted
    # log(1 − s) = −log(1 + s / (1 − s)), which keeps its digits where s is small.
    small = tl.where(shifted > 0.5, 0.5, shifted)
    complement_log = tl.where(shifted > 0.5, -tl.log(rest), _log1p(small / (1.0 - small)))
    power = tl.exp(exponent * tl.log(shifted))
    by_p = power * (exponent * complement_log / shifted + 1.0 / rest)
    value = power * complement_log * inverse_divisor
    derivative = by_p * p * _sigmoid(-a) * slope * inverse_divisor
    return tl.where(is_below, 0.0, value), tl.where(is_below, 0.0, derivative)


@triton.jit
def _of_classes(factor, columns, inside):
    """A factor for the classes of a tile."""
    if factor is None:
        return None
    elif tl.to_tensor(factor).dtype.is_ptr():
        return tl.load(factor + columns, mask=inside, other=1.0).to(tl.float32)[None, :]
    else:
        return factor


@triton.jit
def _inverse(factor):
    """1 / λ₂."""
    if factor is None:
        return None
    else:
        return 1.0 / factor


@triton.jit
def _side_of_classes(side, columns, inside):
    """Shift, slope, inverse divisor and exponent for the classes of a tile."""
    return (
        _of_classes(side[0], columns, inside),
        _of_classes(side[1], columns, inside),
        _inverse(_of_classes(side[2], columns, inside)),
        _of_classes(side[3], columns, inside),
    )


@triton.jit
def _or(minus, plus):
    """A factor of the negative side."""
    if minus is None:
        return plus
    else:
        return minus


@triton.jit
def _select(is_positive, plus, minus):
    """A factor of the side that a label takes."""
    if minus is None:
        return plus
    else:
        return tl.where(is_positive, plus, minus)


@triton.jit
def _labels(targets, mask, rows, columns, stride, mask_stride, inside):
    """Labels of a tile, of their own type, and which of them are known; what is outside is not."""
    label = tl.load(targets + rows * stride + columns, mask=inside, other=0)
    known = inside
    if not targets.dtype.element_ty.is_int_unsigned():
        known = known & (label >= 0)
    if mask is not None:
        known = known & (tl.load(mask + rows * mask_stride + columns, mask=inside, other=0) != 0)
    return label, known


@triton.jit
def _number(label, known):
    """Known labels as float32, unknown ones as 0."""
    if label.dtype.is_floating():
        return tl.where(known, label.to(tl.float32), 0.0)
    else:
        return tl.where(known & (label > 0), 1.0, 0.0)


@triton.jit
def _weights(sample, label, smoothing, scale):
    """Weights of a tile, times the plain factor."""
    if sample is None and label is None:
        return scale
    else:
        if sample is None:
            product = label
        elif label is None:
            product = sample
        else:
            product = sample * label
        if smoothing is None:
            return scale * product
        else:
            return scale * (smoothing[0] + _sigmoid(smoothing[1] * (product - smoothing[2])))


@triton.jit
def _pair(z, label, known, positive, negative, margin, FOCAL_PLUS, FOCAL_MINUS, PLAIN):
    """Value and derivative of a tile, without weights."""
    shift, slope, divisor, exponent = positive
    other_shift, other_slope, other_divisor, other_exponent = negative
    if margin is None and not label.dtype.is_floating():
        up = label > 0
        return _one_side(
            z,
            tl.where(up, -1.0, 1.0),
            _select(up, shift, other_shift),
            _select(up, slope, other_slope),
            _select(up, divisor, other_divisor),
            _select(up, exponent, other_exponent),
            FOCAL_PLUS or FOCAL_MINUS,
            PLAIN,
        )
    else:
        plus, plus_slope = _one_side(z, -1.0, shift, slope, divisor, exponent, FOCAL_PLUS, PLAIN)
        other_shift, other_slope = _or(other_shift, shift), _or(other_slope, slope)
        other_divisor, other_exponent = _or(other_divisor, divisor), _or(other_exponent, exponent)
        if margin is None:
            minus, minus_slope = _one_side(
                z, 1.0, other_shift, other_slope, other_divisor, other_exponent, FOCAL_MINUS, PLAIN
            )
        else:
            minus, minus_slope = _margin_side(z, other_shift, other_slope, other_divisor, other_exponent, margin)
        if label.dtype.is_floating():
            y = _number(label, known)
            return y * plus + (1.0 - y) * minus, y * plus_slope + (1.0 - y) * minus_slope
        else:
            return tl.where(label > 0, plus, minus), tl.where(label > 0, plus_slope, minus_slope)


@triton.jit(do_not_specialize=["samples", "height"])
def evaluate(
    logits, targets, mask, positive, negative, sample, label, smoothing, scale, margin, factor, gradient, values,
    totals, counts, samples, classes, stride, targets_stride, mask_stride, gradient_stride, height,
    FOCAL_PLUS: tl.constexpr, FOCAL_MINUS: tl.constexpr, PLAIN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Evaluate the term for one tile of ``height`` samples and ``COLUMNS`` classes, ``ROWS`` samples at a time.

    Args:
        logits: (B, C) of any floating-point type; rows are ``stride`` apart.
        targets: (B, C) labels; rows are ``targets_stride`` apart.
        mask: (B, C) uint8, 0 where the label is unknown; or None. Rows are ``mask_stride`` apart.
        positive: shift, slope, divisor and exponent of the positive side.
        negative: those of the negative side.
        sample: (B,) weights of samples, or None.
        label: (C,) weights of classes, or None.
        smoothing: α, β and μ that make weights of the products, or None.
        scale: a plain factor.
        margin: of ASL, or None.
        factor: multiplies the derivative.
        gradient: (B, C), written; or None. It may be the logits. Rows are ``gradient_stride`` apart.
        values: (B, C) float32, contiguous, written; or None.
        totals: (T,) float32, written: the sum of each tile.
        counts: (T,) int32, written: the number of known pairs of each tile; or None.
        samples: B.
        classes: C.
        height: samples of a tile, a multiple of ``ROWS``.
        FOCAL_PLUS: whether a positive's exponent is not 0.
        FOCAL_MINUS: whether a negative's is not.
        PLAIN: whether the focal factor takes the plain logit.
    """
    # From the last tile to the first: what a pass before has read last is still in the cache.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    across = tl.cdiv(classes, COLUMNS)
    columns = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    top = tile // across * height
    inside_columns = columns < classes
    plus = _side_of_classes(positive, columns, inside_columns)
    minus = _side_of_classes(negative, columns, inside_columns)
    of_class = _of_classes(label, columns, inside_columns)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(top, min(top + height, samples), ROWS):
        rows = (start + tl.arange(0, ROWS))[:, None]
        inside = (rows < samples) & inside_columns[None, :]
        of_sample = sample
        if sample is not None:
            of_sample = tl.load(sample + rows, mask=rows < samples, other=1.0).to(tl.float32)
        rows = rows.to(tl.int64)
        z = tl.load(logits + rows * stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        labels, known = _labels(targets, mask, rows, columns[None, :], targets_stride, mask_stride, inside)
        value, derivative = _pair(z, labels, known, plus, minus, margin, FOCAL_PLUS, FOCAL_MINUS, PLAIN)
        weight = _weights(of_sample, of_class, smoothing, scale)
        value = tl.where(known, weight * value, 0.0)
        total += value
        if counts is not None:
            count += known.to(tl.int32)
        if gradient is not None:
            derivative = tl.where(known, weight * factor * derivative, 0.0)
            place = gradient + rows * gradient_stride + columns[None, :]
            tl.store(place, derivative.to(gradient.dtype.element_ty), mask=inside)
        if values is not None:
            tl.store(values + rows * classes + columns[None, :], value, mask=inside)
    tl.store(totals + tile, tl.sum(total))
    if counts is not None:
        tl.store(counts + tile, tl.sum(count))


@triton.jit(do_not_specialize=["samples", "height"])
def probability_sums(
    logits, targets, mask, sums, samples, classes, stride, targets_stride, mask_stride, height,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) of each class over the samples of one tile.

    Args:
        logits: as in :func:`evaluate`, and likewise ``targets``, ``mask``, ``samples``, ``classes``, the strides,
            ``height``, ``ROWS`` and ``COLUMNS``.
        sums: (D, 4, C) float32, written, where D is the number of tiles that lie below each other.
    """
    tile = tl.program_id(0)
    across = tl.cdiv(classes, COLUMNS)
    columns = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    down = tile // across
    inside_columns = columns < classes
    positive_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    positives = tl.zeros((ROWS, COLUMNS), tl.float32)
    negative_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    negatives = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(down * height, min(down * height + height, samples), ROWS):
        rows = (start + tl.arange(0, ROWS))[:, None]
        inside = (rows < samples) & inside_columns[None, :]
        rows = rows.to(tl.int64)
        z = tl.load(logits + rows * stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        label, known = _labels(targets, mask, rows, columns[None, :], targets_stride, mask_stride, inside)
        p = tl.where(known, _sigmoid(z), 0.0)  # whatever an unknown pair's logit is
        y = _number(label, known)
        rest = tl.where(known, 1.0 - y, 0.0)
        positive_sum += p * y
        positives += y
        negative_sum += p * rest
        negatives += rest
    place = sums + down.to(tl.int64) * 4 * classes + columns
    tl.store(place, tl.sum(positive_sum, 0), mask=inside_columns)
    tl.store(place + classes, tl.sum(positives, 0), mask=inside_columns)
    tl.store(place + 2 * classes, tl.sum(negative_sum, 0), mask=inside_columns)
    tl.store(place + 3 * classes, tl.sum(negatives, 0), mask=inside_columns)


@triton.jit(do_not_specialize=["samples", "width"])
def row_sums(
    targets, mask, factors, sums, samples, classes, targets_stride, mask_stride, width,
    KINDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Σ_k y_ik u_mk over the known labels of ``ROWS`` samples and of ``width`` classes, ``COLUMNS`` at a time.

    Args:
        targets: as in :func:`evaluate`, and likewise ``mask``, ``samples``, ``classes`` and the strides.
        factors: (M, C) float32, contiguous: the values u.
        sums: (S, B, M) float32, written, where S is the number of tiles that lie beside each other.
        width: classes of a tile, a multiple of ``COLUMNS``.
        KINDS: M.
    """
    tile = tl.program_id(0)
    across = tl.cdiv(classes, width)
    beside = tile % across
    rows = tile // across * ROWS + tl.arange(0, ROWS)
    wide_rows = rows.to(tl.int64)[:, None]
    for kind in tl.static_range(KINDS):
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(beside * width, min(beside * width + width, classes), COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            inside = (rows < samples)[:, None] & (columns < classes)[None, :]
            label, known = _labels(targets, mask, wide_rows, columns[None, :], targets_stride, mask_stride, inside)
            u = tl.load(factors + kind * classes + columns, mask=columns < classes, other=0.0)
            total += _number(label, known) * u[None, :]
        place = sums + (beside.to(tl.int64) * samples + rows) * KINDS + kind
        tl.store(place, tl.sum(total, 1), mask=rows < samples)


@triton.jit(do_not_specialize=["first"])
def scatter(bounds, columns, entries, block, first, classes, WIDTH: tl.constexpr):
    """Write the entries of one sparse sample to its row of a block of zeros.

    Args:
        bounds: (B + 1,) where each sample's entries begin.
        columns: (E,) classes of the entries.
        entries: (E,) labels.
        block: (b, C), contiguous, written.
        first: the sample of the block's first row.
        classes: C.
    """
    row = tl.program_id(0)
    stop = tl.load(bounds + first + row + 1)
    for start in range(tl.load(bounds + first + row), stop, WIDTH):
        index = start + tl.arange(0, WIDTH)
        inside = index < stop
        column = tl.load(columns + index, mask=inside, other=0)
        label = tl.load(entries + index, mask=inside, other=0)
        tl.store(block + row.to(tl.int64) * classes + column, label, mask=inside)


@triton.jit
def scale(gradient, factor, length, WIDTH: tl.constexpr):
    """Multiply a contiguous table by a number on the device; where that is 1, nothing is read or written."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        index = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
        inside = index < length
        place = gradient + index
        product = tl.load(place, mask=inside, other=0.0).to(tl.float32) * by
        tl.store(place, product.to(gradient.dtype.element_ty), mask=inside)
