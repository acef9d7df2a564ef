"""A whole forward pass of a few tokens as one function, which several threads run together.

``forward`` reads from top to bottom like ``model/transformer.py``. Each step between two waits is a
stage: its work is cut into pieces, and a thread takes the next piece that no thread has taken yet
(``take``). A thread that the system keeps away for a while thus delays nobody but for its current
piece, and one that never comes is not needed. A stage is finished when all of its pieces are done;
only then may the results be read (``wait``).

The model and the pass are tables of int64 in memory, because layers may have matrices of different
formats. ``layout.py`` names their fields; ``model/fused.py`` fills them in.
"""

import numpy as np

from llama_cpu.kernels.attention import BLOCK, combine, result_bytes
from llama_cpu.kernels.heads import place_head, store_head
from llama_cpu.kernels.inputs import copy_row, input_bytes, norm_row, round_row, swiglu_row
from llama_cpu.kernels.layout import (
    ANGLES,
    ATTEND,
    ATTENTION_NORM,
    BIAS,
    CACHE_KIND,
    COLUMNS,
    COUNTER_BYTES,
    COUNTERS,
    DIM,
    EPS,
    FFN_NORM,
    FORWARD,
    FUNCTION,
    GATE_UP,
    HEAD_DIM,
    HIDDEN_DIM,
    INTERLEAVED,
    K_NORM,
    KEY_SCALES,
    KEYS,
    LAYER_FIELDS,
    LAYERS,
    LOGIT_ROWS,
    LOGITS,
    MAX_SEQ_LEN,
    MODEL,
    MOST_PARTS,
    N_HEADS,
    N_KV_HEADS,
    N_LAYERS,
    NORM,
    OUT,
    OUTPUT,
    OUTS,
    PART,
    PART_FIELDS,
    PARTS,
    PASS_NUMBER,
    PIECE,
    PIECES,
    POSITION,
    PRIVATE,
    PRIVATE_BYTES,
    Q_NORM,
    QKV,
    RESULTS,
    ROTARY,
    ROUNDS,
    ROWS,
    RUNNING,
    SLOT,
    SLOT_FIELDS,
    SLOTS,
    STOP,
    THIS_PASS,
    THREADS,
    VALUE_SCALES,
    VALUES,
    W2,
    W13,
    WEIGHT,
    WINDOW,
    WO,
    WORKERS,
    WQKV,
    X,
)
from llama_cpu.kernels.simd import (
    call_attention,
    call_forward,
    call_product,
    compiled,
    f32_at,
    fetch_add,
    field,
    i64_at,
    pause,
    read_shared,
    set_f32,
    set_i64,
    sleep,
    write_shared,
    yield_core,
)

_PART_KEYS = 128  # a part of the context has at least this many keys
_SPINS = (
    4000  # checks of a counter, about 0.1 ms, before a waiting thread offers its core to others
)
_LINE = 64  # bytes of a cache line


@compiled
def stage_count(n_layers):
    """Return the greatest number of stages: four products of three matrices and an attention."""
    return 13 * n_layers + 3


@compiled
def take(counters, stage, pieces):
    """Return the number of the next piece of a stage for this thread; -1 if all are taken."""
    piece = fetch_add(counters + COUNTER_BYTES * stage, 1)
    return piece if piece < pieces else -1


@compiled
def note_done(counters, stage):
    """Count a piece of a stage as done."""
    fetch_add(counters + COUNTER_BYTES * stage + _LINE, 1)


@compiled
def is_finished(counters, stage, pieces):
    """Return whether all pieces of a stage are done."""
    return read_shared(counters + COUNTER_BYTES * stage + _LINE) >= pieces


@compiled
def wait(counters, stage, pieces):
    """Wait until all pieces of a stage are done."""
    spins = 0
    while not is_finished(counters, stage, pieces):
        spins += 1
        if spins > _SPINS:
            yield_core()
        else:
            pause()


@compiled
def is_product_finished(linear, counters, stage):
    """Return whether a product that begins at a stage is finished."""
    for part in range(field(linear, PARTS)):
        fields = linear + 8 * (PART + part * PART_FIELDS)
        if not is_finished(counters, stage + part, field(fields, PIECES)):
            return False
    return True


@compiled
def multiply(linear, inputs, output, rows, stride, adds, counters, stage):
    """Take part in a product; return the number of the first stage after it.

    ``output``: float32 [rows, stride], which is overwritten, or added to if ``adds`` is 1.
    """
    columns = field(linear, COLUMNS)
    start = output
    parts = field(linear, PARTS)
    for part in range(parts):
        fields = linear + 8 * (PART + part * PART_FIELDS)
        out, size, pieces = field(fields, OUT), field(fields, PIECE), field(fields, PIECES)
        bias = field(fields, BIAS)
        piece = take(counters, stage + part, pieces)
        while piece >= 0:
            first, last = piece * size, min(out, (piece + 1) * size)
            call_product(
                field(fields, FUNCTION), field(fields, WEIGHT), inputs, start, first, last, columns,
                rows, stride, adds,
            )  # fmt: skip
            if bias:
                add_bias(start, bias, first, last, rows, stride)
            note_done(counters, stage + part)
            piece = take(counters, stage + part, pieces)
        start += 4 * out
    for part in range(parts):
        fields = linear + 8 * (PART + part * PART_FIELDS)
        wait(counters, stage + part, field(fields, PIECES))
    return stage + parts


@compiled
def add_bias(output, bias, first, last, rows, stride):
    """Add a bias, float32 [out], to the columns [first, last) of a product's output."""
    for m in range(rows):
        for i in range(first, last):
            place = output + 4 * (m * stride + i)
            set_f32(place, f32_at(place) + f32_at(bias + 4 * i))


@compiled
def norm_inputs(x, weight, eps, columns, rows, rounds, inputs):
    """Prepare the norms of the rows x, float32 [rows, columns], as inputs of a product.

    ``weight``: the address of the norm's weight; 0 for rows as they are.
    """
    for m in range(rows):
        row = inputs + m * input_bytes(columns)
        if weight:
            norm_row(x + 4 * m * columns, weight, eps, columns, row)
        else:
            copy_row(x + 4 * m * columns, columns, row)
        if rounds:
            round_row(row, columns)


@compiled
def swiglu_inputs(gate_up, columns, rows, rounds, inputs):
    """Prepare silu(gate) * up as inputs; gate_up: float32 [rows, 2 * columns]."""
    for m in range(rows):
        row = inputs + m * input_bytes(columns)
        swiglu_row(gate_up + 8 * m * columns, columns, row)
        if rounds:
            round_row(row, columns)


@compiled
def first_key(window, position):
    """Return the first key that a query at ``position`` attends to; ``window`` 0: no window."""
    return max(0, position + 1 - window) if window else 0


@compiled
def context_parts(old_keys, n_kv_heads, threads):
    """Return the number of parts that each head's context is cut into.

    There are at least two pieces of work for each thread, as long as parts are not too short.
    """
    wanted = (2 * threads + n_kv_heads - 1) // n_kv_heads
    return max(1, min(MOST_PARTS, min(wanted, old_keys // _PART_KEYS)))


@compiled
def attend(model, layer, position, rows, memory, counters, stage):
    """Take part in the attention of a layer: rotate, store keys and values, and attend."""
    n_heads, n_kv, head_dim = (
        field(model, N_HEADS),
        field(model, N_KV_HEADS),
        field(model, HEAD_DIM),
    )
    group, pitch = n_heads // n_kv, 4 * (n_heads + 2 * n_kv) * head_dim
    kind, window = field(model, CACHE_KIND), field(layer, WINDOW)
    first = first_key(window, position)
    old = position - first
    parts = context_parts(old, n_kv, field(model, THREADS))
    span = (old + parts - 1) // parts
    eps, interleaved = f32_at(field(model, EPS)), field(model, INTERLEAVED)
    scale = np.float32(1) / np.sqrt(np.float32(head_dim))
    queries, scores = memory, memory + 4 * (rows * group + 1) * head_dim
    key = scores + 8 * BLOCK
    item_bytes = 4 >> kind  # of float32, bfloat16 or int8: 4, 2 or 1
    piece = take(counters, stage, n_kv * parts)
    while piece >= 0:
        head, part = piece // parts, piece % parts
        row = head * field(model, MAX_SEQ_LEN)
        keys = field(layer, KEYS) + item_bytes * head_dim * row
        values = field(layer, VALUES) + item_bytes * head_dim * row
        key_scales = field(layer, KEY_SCALES)
        value_scales = field(layer, VALUE_SCALES)
        if key_scales:
            key_scales, value_scales = key_scales + 4 * row, value_scales + 4 * row
        for m in range(rows):
            angles = 0
            if field(layer, ROTARY):
                angles = field(model, ANGLES) + 4 * (position + m) * head_dim
            source = field(model, QKV) + m * pitch
            for each in range(group):
                place_head(
                    source + 4 * (head * group + each) * head_dim, field(layer, Q_NORM), eps,
                    angles, interleaved, scale, head_dim,
                    queries + 4 * (m * group + each) * head_dim,
                )  # fmt: skip
            if part == parts - 1:  # this piece contains the new keys
                target = position + m
                place_head(
                    source + 4 * (n_heads + head) * head_dim, field(layer, K_NORM), eps, angles,
                    interleaved, np.float32(1), head_dim, key,
                )  # fmt: skip
                store_head(
                    key, kind, keys + item_bytes * head_dim * target, key_scales + 4 * target,
                    head_dim,
                )  # fmt: skip
                store_head(
                    source + 4 * (n_heads + n_kv + head) * head_dim, kind,
                    values + item_bytes * head_dim * target, value_scales + 4 * target, head_dim,
                )  # fmt: skip
        start = first + part * span
        end = position + rows if part == parts - 1 else start + span
        results = field(model, RESULTS) + piece * (rows * group + 1) * result_bytes(head_dim)
        call_attention(
            field(model, ATTEND), queries, keys, values, key_scales, value_scales, start, end, rows,
            group, position, window, head_dim, results, scores,
        )  # fmt: skip
        note_done(counters, stage)
        piece = take(counters, stage, n_kv * parts)
    wait(counters, stage, n_kv * parts)


@compiled
def attention_inputs(model, layer, position, rows, rounds, inputs):
    """Prepare the attention's outputs as inputs: combine the parts of the context."""
    n_heads, n_kv, head_dim = (
        field(model, N_HEADS),
        field(model, N_KV_HEADS),
        field(model, HEAD_DIM),
    )
    group, columns = n_heads // n_kv, n_heads * head_dim
    old = position - first_key(field(layer, WINDOW), position)
    parts = context_parts(old, n_kv, field(model, THREADS))
    part_bytes = (rows * group + 1) * result_bytes(head_dim)
    for m in range(rows):
        row = inputs + m * input_bytes(columns)
        for head in range(n_heads):
            results = field(model, RESULTS) + head // group * parts * part_bytes
            results += (m * group + head % group) * result_bytes(head_dim)
            combine(results, parts, part_bytes, head_dim, row + 4 * head * head_dim)
        if rounds:
            round_row(row, columns)


def forward(this_pass, thread):
    """Take part in a pass as the thread with this number; all arguments are int64.

    ``X``, float32 [rows, dim], holds the embeddings of the tokens at first, and the output of the
    last layer in the end. The logits of the last ``LOGIT_ROWS`` tokens are written to ``LOGITS``,
    float32 [LOGIT_ROWS, vocab].
    """
    model, rows = field(this_pass, MODEL), field(this_pass, ROWS)
    position, counters = field(this_pass, POSITION), field(this_pass, COUNTERS)
    dim, hidden, eps = field(model, DIM), field(model, HIDDEN_DIM), f32_at(field(model, EPS))
    x, qkv, gate_up = field(this_pass, X), field(model, QKV), field(model, GATE_UP)
    heads = field(model, N_HEADS) + 2 * field(model, N_KV_HEADS)
    memory = field(model, PRIVATE) + thread * field(model, PRIVATE_BYTES)
    stage = 0
    for number in range(field(model, N_LAYERS)):
        layer = field(model, LAYERS) + 8 * LAYER_FIELDS * number

        wqkv = layer + 8 * WQKV
        if not is_product_finished(wqkv, counters, stage):
            norm = field(layer, ATTENTION_NORM)
            norm_inputs(x, norm, eps, dim, rows, field(wqkv, ROUNDS), memory)
        stride = heads * field(model, HEAD_DIM)
        stage = multiply(wqkv, memory, qkv, rows, stride, 0, counters, stage)

        attend(model, layer, position, rows, memory, counters, stage)
        stage += 1

        wo = layer + 8 * WO
        if not is_product_finished(wo, counters, stage):
            attention_inputs(model, layer, position, rows, field(wo, ROUNDS), memory)
        stage = multiply(wo, memory, x, rows, dim, 1, counters, stage)

        w13 = layer + 8 * W13
        if not is_product_finished(w13, counters, stage):
            norm_inputs(x, field(layer, FFN_NORM), eps, dim, rows, field(w13, ROUNDS), memory)
        stage = multiply(w13, memory, gate_up, rows, 2 * hidden, 0, counters, stage)

        w2 = layer + 8 * W2
        if not is_product_finished(w2, counters, stage):
            swiglu_inputs(gate_up, hidden, rows, field(w2, ROUNDS), memory)
        stage = multiply(w2, memory, x, rows, dim, 1, counters, stage)

    output, wanted = model + 8 * OUTPUT, field(this_pass, LOGIT_ROWS)
    if wanted and not is_product_finished(output, counters, stage):
        last = x + 4 * (rows - wanted) * dim
        norm_inputs(last, field(model, NORM), eps, dim, wanted, field(output, ROUNDS), memory)
    if wanted:
        logits, vocab = field(this_pass, LOGITS), field(output, OUTS)
        multiply(output, memory, logits, wanted, vocab, 0, counters, stage)


_CHECKS = 20_000  # for a new pass, 0.2 to 1 ms, before a thread begins to sleep
_LEAVING = 2000  # checks, about 0.05 ms, whether the others have left a pass that is finished
_NAPS = 400  # of about 0.15 ms each, before a thread returns to Python
_NAP = 100  # microseconds


@compiled
def slot_of(team, number):
    """Return the address of the slot for the pass with this number."""
    return team + 8 * (SLOT + number % SLOTS * SLOT_FIELDS)


def lead(team, model, rows, position, logit_rows, x, logits):
    """Run a pass as thread 0, together with those threads of the team that are in ``work``."""
    number = field(team, PASS_NUMBER) + 1
    slot = slot_of(team, number)
    while read_shared(slot + 8 * WORKERS):  # a thread that was kept away since SLOTS passes
        yield_core()
    this_pass = field(slot, THIS_PASS)
    set_i64(this_pass + 8 * MODEL, model)
    set_i64(this_pass + 8 * ROWS, rows)
    set_i64(this_pass + 8 * POSITION, position)
    set_i64(this_pass + 8 * LOGIT_ROWS, logit_rows)
    set_i64(this_pass + 8 * X, x)
    set_i64(this_pass + 8 * LOGITS, logits)
    counters = field(this_pass, COUNTERS)
    for stage in range(stage_count(field(model, N_LAYERS))):
        set_i64(counters + COUNTER_BYTES * stage, 0)
        set_i64(counters + COUNTER_BYTES * stage + _LINE, 0)
    write_shared(slot + 8 * RUNNING, number)
    write_shared(team + 8 * PASS_NUMBER, number)
    call_forward(field(team, FORWARD), this_pass, 0)
    write_shared(slot + 8 * RUNNING, 0)
    checks = 0
    while checks < _LEAVING and read_shared(slot + 8 * WORKERS):
        pause()
        checks += 1


def work(team, thread, newest):
    """Take part in passes as they come, until none has come for about a tenth of a second.

    ``newest``: the address of the number of the last pass that this thread has seen.
    """
    seen = i64_at(newest)
    checks = 0
    while checks < _CHECKS + _NAPS and read_shared(team + 8 * STOP) == 0:
        number = read_shared(team + 8 * PASS_NUMBER)
        if number == seen:
            checks += 1
            if checks < _CHECKS:
                pause()
            else:
                sleep(_NAP)
        else:
            seen, checks = number, 0
            slot = slot_of(team, number)
            fetch_add(slot + 8 * WORKERS, 1)
            # The leader looks for workers after it has declared the pass finished, and a worker
            # looks for the declaration after it is counted. So no worker enters a pass whose memory
            # may be freed.
            if read_shared(slot + 8 * RUNNING) == number:
                call_forward(field(team, FORWARD), field(slot, THIS_PASS), thread)
            fetch_add(slot + 8 * WORKERS, -1)
    set_i64(newest, seen)
