"""The term of every loss as Triton kernels: each logit is read once, and each derivative written once.

The formula is that of :mod:`tailwise.losses.formula`, which explains it. A program takes a tile of samples and classes:
parameters of its classes stay in registers while it iterates over samples. Parts that a loss does not have (a focal
factor, a margin, soft labels, weights, a mask) are excluded when the kernel is compiled, by the types of the arguments
and by flags.

A GPU evaluates powers and logarithms of base 2, and can execute few instructions per logit at the speed of its memory.
So all arguments of σ and sp are in units of ln 2, as are their logarithms: a⁄ln 2 follows from λ₁⁄ln 2,
and λ₂⁄ln 2 divides the loss, both of which are computed once for the classes of a tile.

Labels of unsigned types are all known; those of signed types are unknown below 0, and floating-point ones, which may be
soft, where they are NaN as well. A factor of a side is a number or a pointer to (C,) values, a negative side's
also None, but for the slope: as on the positive side.
"""

# An "if" that is decided when the kernel is compiled needs an "else": code after it would be compiled in any case.
# ruff: noqa: RET505

from __future__ import annotations

import triton
import triton.language as tl

from tailwise.losses.backends.triton_side_kernels import LN_2, LOG2_E, side, sigmoid


@triton.jit
def _of_classes(factor, columns, inside):
    """A factor for the classes of a tile."""
    if factor is None:
        return None
    elif tl.to_tensor(factor).dtype.is_ptr():
        return tl.load(factor + columns, mask=inside, other=1.0).to(tl.float32)
    else:
        return tl.to_tensor(factor)


@triton.jit
def _inverse(divisor):
    """ln 2 / λ₂."""
    if divisor is None:
        return None
    else:
        return 1.0 / divisor * LN_2


@triton.jit
def _side_of_classes(side, sign, columns, inside):
    """Shift, steepness, inverse divisor and exponent for the classes of a tile, as :func:`side` takes them."""
    return (
        _of_classes(side[0], columns, inside),
        _of_classes(side[1], columns, inside) * (sign * LOG2_E),
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
    """A factor of the side of each label."""
    if minus is None:
        return plus
    else:
        return tl.where(is_positive, plus, minus)


@triton.jit
def _labels(targets, mask, rows, columns, stride, mask_stride, inside):
    """Labels of a tile, in their dtype, and which of them are known; pairs outside the table are not."""
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
        slope = scale if smoothing is None else smoothing[1] * LOG2_E
        if sample is None:
            product = label * slope
        elif label is None:
            product = sample * slope
        else:
            product = sample * slope * label
        if smoothing is None:
            return product
        else:
            return scale * smoothing[0] + scale * sigmoid(product - slope * smoothing[2])


@triton.jit
def _pair(z, label, known, weight, positive, negative, numbers, KINDS, FOCAL_PLUS, FOCAL_MINUS, PLAIN):
    """Value and derivative of a tile; the caller masks unknown pairs."""
    shift, steepness, inverse, exponent = positive
    other_shift, other_steepness, other_inverse, other_exponent = negative
    if KINDS[0] == "softplus" and KINDS[1] == "softplus" and not label.dtype.is_floating():
        up = label > 0
        return side(
            z,
            tl.where(up, -1.0, 1.0),
            _select(up, shift, other_shift),
            tl.where(up, steepness, other_steepness),
            weight * _select(up, inverse, other_inverse),
            _select(up, exponent, other_exponent),
            None,
            "softplus",
            FOCAL_PLUS or FOCAL_MINUS,
            PLAIN,
        )
    else:
        other_shift, other_exponent = _or(other_shift, shift), _or(other_exponent, exponent)
        inverse, other_inverse = weight * inverse, weight * _or(other_inverse, inverse)
        plus, plus_slope = side(z, -1.0, shift, steepness, inverse, exponent, numbers[0], KINDS[0], FOCAL_PLUS, PLAIN)
        minus, minus_slope = side(
            z, 1.0, other_shift, other_steepness, other_inverse, other_exponent, numbers[1], KINDS[1], FOCAL_MINUS,
            PLAIN,
        )  # fmt: skip
        if label.dtype.is_floating():
            y = _number(label, known)
            return y * plus + (1.0 - y) * minus, y * plus_slope + (1.0 - y) * minus_slope
        else:
            return tl.where(label > 0, plus, minus), tl.where(label > 0, plus_slope, minus_slope)


@triton.jit
def _inside(rows, columns, samples, classes, EVEN: tl.constexpr):
    """Which pairs of a tile exist: all of them if the table is EVEN, without a comparison."""
    if EVEN:
        return tl.full((rows.shape[0], columns.shape[1]), True, tl.int1)
    else:
        return (rows < samples) & (columns < classes)


@triton.jit(do_not_specialize=["samples", "height"])
def evaluate(
    logits, targets, mask, positive, negative, sample, label, smoothing, scale, numbers, factor, gradient, values,
    totals, counts, samples, classes, stride, targets_stride, mask_stride, gradient_stride, height,
    KINDS: tl.constexpr, FOCAL_PLUS: tl.constexpr, FOCAL_MINUS: tl.constexpr, PLAIN: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
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
        numbers: the own parameters of the kinds of both sides.
        factor: multiplies the derivative.
        gradient: (B, C), written; or None. It may be the logits. Rows are ``gradient_stride`` apart.
        values: (B, C) float32, contiguous, written; or None.
        totals: (T,) float32, written: the sum of each tile.
        counts: (T,) int32, written: the number of known pairs of each tile; or None.
        samples: B, and likewise ``classes``: C.
        height: samples of a tile, a multiple of ``ROWS``.
        KINDS: kinds of the positive and the negative side.
        FOCAL_PLUS: whether a positive's exponent is not 0.
        FOCAL_MINUS: whether a negative's is not.
        PLAIN: whether the focal factor takes the plain logit.
        EVEN: whether ``ROWS`` divides B and ``COLUMNS`` divides C.
    """
    # From the last tile to the first: the tiles that a previous pass read last are still cached.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    across = tl.cdiv(classes, COLUMNS)
    top = tile // across * height
    columns = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    plus = _side_of_classes(positive, -1.0, columns, columns < classes)
    minus = _side_of_classes(negative, 1.0, columns, columns < classes)
    of_class = _of_classes(label, columns, columns < classes)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(top, min(top + height, samples), ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        inside = _inside(rows, columns, samples, classes, EVEN)
        z = tl.load(logits + rows * stride + columns, mask=inside, other=0.0).to(tl.float32)
        y, known = _labels(targets, mask, rows, columns, targets_stride, mask_stride, inside)
        weight = _weights(_of_classes(sample, rows, rows < samples), of_class, smoothing, scale)
        value, derivative = _pair(z, y, known, weight, plus, minus, numbers, KINDS, FOCAL_PLUS, FOCAL_MINUS, PLAIN)
        value = tl.where(known, value, 0.0)
        total += value
        if counts is not None:
            count += known.to(tl.int32)
        if gradient is not None:
            derivative = tl.where(known, derivative * factor, 0.0).to(gradient.dtype.element_ty)
            tl.store(gradient + rows * gradient_stride + columns, derivative, mask=inside)
        if values is not None:
            tl.store(values + rows * classes + columns, value, mask=inside)
    tl.store(totals + tile, tl.sum(total))
    if counts is not None:
        tl.store(counts + tile, tl.sum(count))


@triton.jit(do_not_specialize=["samples", "height"])
def probability_sums(
    logits, targets, mask, sums, samples, classes, stride, targets_stride, mask_stride, height,
    EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) of each class over the samples of one tile.

    Args:
        logits: as in :func:`evaluate`, and likewise ``targets``, ``mask``, ``samples``, ``classes``, the strides,
            ``height``, ``EVEN``, ``ROWS`` and ``COLUMNS``.
        sums: (D, 4, C) float32, written, where D is the number of tiles down the samples.
    """
    across = tl.cdiv(classes, COLUMNS)
    down = tl.program_id(0) // across
    columns = (tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    positive_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    positives = tl.zeros((ROWS, COLUMNS), tl.float32)
    negative_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    negatives = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(down * height, min(down * height + height, samples), ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        inside = _inside(rows, columns, samples, classes, EVEN)
        z = tl.load(logits + rows * stride + columns, mask=inside, other=0.0).to(tl.float32)
        label, known = _labels(targets, mask, rows, columns, targets_stride, mask_stride, inside)
        p = tl.where(known, sigmoid(z * LOG2_E), 0.0)  # also where an unknown pair's logit is NaN
        y = _number(label, known)
        rest = tl.where(known, 1.0 - y, 0.0)
        positive_sum += p * y
        positives += y
        negative_sum += p * rest
        negatives += rest
    place = sums + down.to(tl.int64) * 4 * classes + columns
    tl.store(place, tl.sum(positive_sum, 0, keep_dims=True), mask=columns < classes)
    tl.store(place + classes, tl.sum(positives, 0, keep_dims=True), mask=columns < classes)
    tl.store(place + 2 * classes, tl.sum(negative_sum, 0, keep_dims=True), mask=columns < classes)
    tl.store(place + 3 * classes, tl.sum(negatives, 0, keep_dims=True), mask=columns < classes)


@triton.jit(do_not_specialize=["samples", "pieces"])
def row_sums(
    targets, mask, factors, sums, samples, classes, targets_stride, mask_stride, pieces,
    KINDS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Σ_k y_ik u_mk over the known labels of ``ROWS`` samples and ``pieces`` times ``COLUMNS`` classes.

    Args:
        targets: as in :func:`evaluate`, and likewise ``mask``, ``samples``, ``classes``, the strides and ``EVEN``.
        factors: (M, C) float32, contiguous: the values u.
        sums: (S, B, M) float32, written, where S is the number of tiles across the classes.
        pieces: how often a program takes ``COLUMNS`` classes.
        KINDS: M.
    """
    across = tl.cdiv(tl.cdiv(classes, COLUMNS), pieces)
    place_across = tl.program_id(0) % across
    rows = (tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    for kind in tl.static_range(KINDS):
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for piece in range(place_across * pieces, min(place_across * pieces + pieces, tl.cdiv(classes, COLUMNS))):
            columns = (piece * COLUMNS + tl.arange(0, COLUMNS))[None, :]
            inside = _inside(rows, columns, samples, classes, EVEN)
            label, known = _labels(targets, mask, rows, columns, targets_stride, mask_stride, inside)
            u = tl.load(factors + kind * classes + columns, mask=columns < classes, other=0.0)
            total += _number(label, known) * u
        place = sums + (place_across.to(tl.int64) * samples + rows) * KINDS + kind
        tl.store(place, tl.sum(total, 1, keep_dims=True), mask=rows < samples)


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
        for piece in range(tl.program_id(0), tl.cdiv(length, WIDTH), tl.num_programs(0)):
            index = tl.to_tensor(piece).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
            inside = index < length
            product = tl.load(gradient + index, mask=inside, other=0.0).to(tl.float32) * by
            tl.store(gradient + index, product.to(gradient.dtype.element_ty), mask=inside)
